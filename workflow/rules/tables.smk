rule tables:
    """A target's numbers beside the paper's: CSV, Markdown, LaTeX, and JSON for the report."""
    input:
        plan="results/{run}/plan.json",
        collected=collected_of,
        cells=cells_of,
        paper=PAPER,
    output:
        csv="results/{run}/tables/{target}.csv",
        markdown="results/{run}/tables/{target}.md",
        latex="results/{run}/tables/{target}.tex",
        laid_out="results/{run}/tables/{target}.json",
    log:
        "logs/{run}/tables/{target}.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.tables"),
    shell:
        "python -m arfl table --plan {input.plan} --target {wildcards.target}"
        " --collected {input.collected} --paper {input.paper} --out {output.csv} 2> {log}"
