rule tables:
    """A target's numbers beside the paper's: CSV, Markdown and LaTeX."""
    input:
        cells="results/{run}/collected/{target}/cells.csv",
        paper=PAPER,
    output:
        csv="results/{run}/tables/{target}.csv",
        markdown="results/{run}/tables/{target}.md",
        latex="results/{run}/tables/{target}.tex",
    log:
        "logs/{run}/tables/{target}.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.tables"),
    shell:
        "python -m arfl table --collected $(dirname {input.cells}) --target {wildcards.target}"
        " --paper {input.paper} --out results/{wildcards.run}/tables/{wildcards.target} 2> {log}"
