rule figures:
    """A target's figure, as PNG and PDF."""
    input:
        source=figure_source,
        paper=PAPER,
    output:
        png=report(
            "results/{run}/figures/{target}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{target}", "run": "{run}"},
        ),
        pdf="results/{run}/figures/{target}.pdf",
    log:
        "logs/{run}/figures/{target}.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.figures"),
    shell:
        "python -m arfl figure --collected $(dirname {input.source}) --target {wildcards.target}"
        " --paper {input.paper} --out results/{wildcards.run}/figures/{wildcards.target} 2> {log}"
