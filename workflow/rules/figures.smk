rule figures:
    """A target's figure, as SVG, PNG and PDF, and its words."""
    input:
        plan="results/{run}/plan.json",
        source=figure_source,
        frames=figure_frames,
        paper=PAPER,
    output:
        svg="results/{run}/figures/{target}.svg",
        png=report(
            "results/{run}/figures/{target}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{target}", "run": "{run}"},
        ),
        pdf="results/{run}/figures/{target}.pdf",
        words="results/{run}/figures/{target}.json",
    log:
        "logs/{run}/figures/{target}.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.figures"),
    shell:
        "python -m arfl figure --plan {input.plan} --target {wildcards.target}"
        " --source {input.source} --paper {input.paper} --out {output.svg} 2> {log}"


rule rounds:
    """A target's rates after every round, likewise."""
    input:
        plan="results/{run}/plan.json",
        collected="results/{run}/collected/{target}/collected.json",
        cells="results/{run}/collected/{target}/cells.csv",
        rounds="results/{run}/collected/{target}/rounds.csv",
        paper=PAPER,
    output:
        svg="results/{run}/figures/{target}.rounds.svg",
        png=report(
            "results/{run}/figures/{target}.rounds.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{target}, by round", "run": "{run}"},
        ),
        pdf="results/{run}/figures/{target}.rounds.pdf",
        words="results/{run}/figures/{target}.rounds.json",
    log:
        "logs/{run}/figures/{target}.rounds.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.figures"),
    shell:
        "python -m arfl rounds --plan {input.plan} --target {wildcards.target}"
        " --collected {input.collected} --paper {input.paper} --out {output.svg} 2> {log}"
