rule claims:
    """The paper's statements, each with a verdict and its reason."""
    input:
        cells=expand("results/{{run}}/collected/{target}/cells.csv", target=GRID.points),
        paper=PAPER,
    output:
        csv="results/{run}/claims.csv",
        markdown="results/{run}/claims.md",
    log:
        "logs/{run}/claims.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.claims"),
    shell:
        "python -m arfl claims --collected $(dirname {input.cells}) --paper {input.paper}"
        " --out results/{wildcards.run}/claims 2> {log}"


rule report:
    """Everything on one page that opens offline."""
    input:
        tables=expand("results/{{run}}/tables/{target}.md", target=TABLES),
        figures=expand("results/{{run}}/figures/{target}.png", target=FIGURES),
        claims="results/{run}/claims.csv",
        plan="results/{run}/plan.json",
        paper=PAPER,
        template=SOURCE / "arfl/reporting/report.html.jinja",
    output:
        report(
            "results/{run}/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
    log:
        "logs/{run}/report.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.report"),
    shell:
        "python -m arfl report --run-folder results/{wildcards.run} --plan {input.plan}"
        " --paper {input.paper} --out {output} 2> {log}"
