# Targets beyond the paper: their cells are trained by the same rule, and no report of the paper shows
# them.


rule plan_beyond:
    """Write down which cells the targets beyond the paper need."""
    input:
        assumptions=own("workflow/resources/assumptions.csv"),
    output:
        "results/{run}/beyond/plan.json",
    log:
        "logs/{run}/beyond/plan.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        config=planned_config,
        code=fingerprint("arfl.grid"),
    shell:
        "python -m arfl plan --beyond --config {params.config:q}"
        " --assumptions {input.assumptions} --out {output} 2> {log}"


rule collect_beyond:
    """Gather such a target's records into tidy CSV."""
    input:
        records=beyond_records,
        plan="results/{run}/beyond/plan.json",
    output:
        manifest="results/{run}/beyond/{beyond}/collected.json",
        cells="results/{run}/beyond/{beyond}/cells.csv",
        rounds="results/{run}/beyond/{beyond}/rounds.csv",
        weights="results/{run}/beyond/{beyond}/weights.csv",
        partitions="results/{run}/beyond/{beyond}/partitions.csv",
    log:
        "logs/{run}/beyond/collect/{beyond}.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.collect"),
    shell:
        "python -m arfl collect --plan {input.plan} --target {wildcards.beyond}"
        " --out {output.manifest} 2> {log}"


rule ranks:
    """Rules by their worst case over the attacks: table and heat map."""
    input:
        cells="results/{run}/beyond/leaderboard/cells.csv",
    output:
        csv="results/{run}/beyond/leaderboard/ranks.csv",
        markdown="results/{run}/beyond/leaderboard/ranks.md",
        png="results/{run}/beyond/leaderboard/heatmap.png",
        pdf="results/{run}/beyond/leaderboard/heatmap.pdf",
    log:
        "logs/{run}/beyond/leaderboard.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.leaderboard"),
    shell:
        "python -m arfl leaderboard --cells {input.cells} --out {output.csv} 2> {log}"


rule beyond_table:
    """Such a target's numbers: CSV, Markdown, LaTeX and JSON."""
    input:
        plan="results/{run}/beyond/plan.json",
        collected="results/{run}/beyond/{beyond}/collected.json",
        cells="results/{run}/beyond/{beyond}/cells.csv",
        paper=PAPER,
    output:
        csv="results/{run}/beyond/{beyond}/table.csv",
        markdown="results/{run}/beyond/{beyond}/table.md",
        latex="results/{run}/beyond/{beyond}/table.tex",
        laid_out="results/{run}/beyond/{beyond}/table.json",
    log:
        "logs/{run}/beyond/table/{beyond}.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.tables"),
    shell:
        "python -m arfl table --plan {input.plan} --target {wildcards.beyond}"
        " --collected {input.collected} --paper {input.paper} --out {output.csv} 2> {log}"


rule beyond_figure:
    """Such a target's figure, as SVG, PNG and PDF, and its words."""
    input:
        plan="results/{run}/beyond/plan.json",
        collected="results/{run}/beyond/{beyond}/collected.json",
        cells="results/{run}/beyond/{beyond}/cells.csv",
        paper=PAPER,
    output:
        svg="results/{run}/beyond/{beyond}/figure.svg",
        png="results/{run}/beyond/{beyond}/figure.png",
        pdf="results/{run}/beyond/{beyond}/figure.pdf",
        words="results/{run}/beyond/{beyond}/figure.json",
    log:
        "logs/{run}/beyond/figure/{beyond}.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.figures"),
    shell:
        "python -m arfl figure --plan {input.plan} --target {wildcards.beyond}"
        " --source {input.collected} --paper {input.paper} --out {output.svg} 2> {log}"


rule displacement:
    """The attack on residual reweighting against the bound, on drawn models."""
    output:
        "results/{run}/beyond/adaptive/displacement.csv",
    log:
        "logs/{run}/beyond/displacement.log",
    conda:
        "../../envs/arfl.yaml"
    params:
        code=fingerprint("arfl.studies.displacement", "arfl.attacks.adaptive"),
    shell:
        "python -m arfl displacement --out {output} 2> {log}"


# By name, as the paper's targets.
for beyond in GRID.beyond:

    rule:
        name:
            beyond
        input:
            results_beyond(beyond),
        localrule: True
