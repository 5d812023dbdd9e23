def target_records(wildcards):
    """The records of a target's cells; with `missing_cells: report`, those that exist."""
    every = (
        GRID.cells.values()
        if wildcards.target in VIEWS
        else target_cells(wildcards.target)
    )
    paths = sorted({GRID.record_path(cell) for cell in every})
    if config["missing_cells"] == "report":
        paths = [path for path in paths if os.path.exists(path)]
    return paths


def target_cells(target):
    """The cells of a target."""
    if target not in GRID.points:
        raise WorkflowError(f"config.yaml has no target {target!r} with cells")
    return [point.cell for point in GRID.points[target]]


rule plan:
    """Write down which cells each target needs, for those who only read records."""
    output:
        "results/{run}/plan.json",
    log:
        "logs/{run}/plan.log",
    params:
        config=json.dumps(config),
    shell:
        "python -m arfl plan --config {params.config:q} --out {output} 2> {log}"


rule collect:
    """Gather a target's records into tidy CSV; everything after reads only that."""
    input:
        records=target_records,
        plan="results/{run}/plan.json",
    output:
        cells="results/{run}/collected/{target}/cells.csv",
        rounds="results/{run}/collected/{target}/rounds.csv",
        weights="results/{run}/collected/{target}/weights.csv",
    log:
        "logs/{run}/collect/{target}.log",
    params:
        code=fingerprint("arfl.reporting.collect"),
    shell:
        "python -m arfl collect --plan {input.plan} --target {wildcards.target}"
        " --out $(dirname {output.cells}) 2> {log}"
