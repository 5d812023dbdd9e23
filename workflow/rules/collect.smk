rule plan:
    """Write down which cells each target needs, for those who only read records."""
    input:
        assumptions=own("workflow/resources/assumptions.csv"),
    output:
        "results/{run}/plan.json",
    log:
        "logs/{run}/plan.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        config=planned_config,
        code=fingerprint("arfl.grid"),
    shell:
        "python -m arfl plan --config {params.config:q} --assumptions {input.assumptions}"
        " --out {output} 2> {log}"


rule collect:
    """Gather a target's records into tidy CSV; everything after reads only that."""
    input:
        records=target_records,
        plan="results/{run}/plan.json",
    output:
        manifest="results/{run}/collected/{target}/collected.json",
        cells="results/{run}/collected/{target}/cells.csv",
        rounds="results/{run}/collected/{target}/rounds.csv",
        weights="results/{run}/collected/{target}/weights.csv",
        partitions="results/{run}/collected/{target}/partitions.csv",
    log:
        "logs/{run}/collect/{target}.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        code=fingerprint("arfl.reporting.collect"),
    shell:
        "python -m arfl collect --plan {input.plan} --target {wildcards.target}"
        " --out {output.manifest} 2> {log}"
