rule claims:
    """The paper's statements, each with a verdict and its reason."""
    input:
        collected=expand(
            "results/{{run}}/collected/{target}/collected.json", target=GRID.points
        ),
        frames=expand(
            "results/{{run}}/collected/{target}/{frame}.csv",
            target=GRID.points,
            frame=["cells", "rounds", "weights"],
        ),
        theory="results/{run}/collected/theory/theory.csv",
        paper=PAPER,
    output:
        csv="results/{run}/claims.csv",
        markdown="results/{run}/claims.md",
        ledger="results/{run}/claims.json",
    log:
        "logs/{run}/claims.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.claims"),
    shell:
        "python -m arfl claims --collected {input.collected} --theory {input.theory}"
        " --paper {input.paper} --out {output.ledger} 2> {log}"


rule report:
    """Everything on one page that opens offline."""
    input:
        plan="results/{run}/plan.json",
        collected=expand(
            "results/{{run}}/collected/{target}/collected.json",
            target=[*GRID.points, ALL],
        ),
        cells=expand(
            "results/{{run}}/collected/{target}/cells.csv", target=[*GRID.points, ALL]
        ),
        ledger="results/{run}/claims.json",
        tables=expand("results/{{run}}/tables/{target}.json", target=TABLES),
        figures=expand(
            "results/{{run}}/figures/{name}.{suffix}",
            name=[*FIGURES, *ROUNDS],
            suffix=["svg", "json"],
        ),
        others=other_ledgers,
        templates=[
            own(f"src/arfl/reporting/{name}")
            for name in (
                "report.html.jinja",
                "matrix.html.jinja",
                "section.html.jinja",
                "page.css",
            )
        ],
    output:
        report(
            "results/{run}/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
    log:
        "logs/{run}/report.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.report"),
        others=others_option,
    shell:
        "python -m arfl report --plan {input.plan} --collected {input.collected}"
        " --claims {input.ledger} --tables {input.tables} --figures {input.figures}"
        " {params.others} --out {output} 2> {log}"


rule index:
    """The claims over all runs on one page, beside the runs' folders."""
    input:
        own=f"{RUN}/claims.json",
        page=f"{RUN}/report.html",
        others=other_ledgers,
    output:
        "results/index.html",
    log:
        "logs/index.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.report"),
    shell:
        "python -m arfl index --claims {input.own} {input.others} --out {output} 2> {log}"
