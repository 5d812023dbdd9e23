def cell_of(wildcards):
    """The cell that a record's path names."""
    name = "{0.task}/{0.attack}/{0.level}/{0.variant}/seed-{0.seed}".format(wildcards)
    if name not in GRID.cells:
        raise WorkflowError(f"no target of config.yaml has the cell {name}")
    return GRID.cells[name]


def cell_name(wildcards):
    """The cell as JSON."""
    return json.dumps(cell_of(wildcards).describe())


def cell_settings(wildcards):
    """All that the cell is trained with, as JSON: it reruns when this changes."""
    return json.dumps(GRID.settings(cell_of(wildcards)))


def cell_code(wildcards):
    """Fingerprint of the numeric code: the cell reruns when this changes."""
    return GRID.fingerprint(cell_of(wildcards))


def cell_minutes(wildcards, attempt):
    """Time limit: twice the expected time, and as much again with each attempt."""
    return 2 * attempt * GRID.resources(cell_of(wildcards))["minutes"]


def cell_memory(wildcards, attempt):
    """Memory limit, as much again with each attempt."""
    return attempt * GRID.resources(cell_of(wildcards))["mem_mb"]


rule train_cell:
    """Train one cell: a dataset, an attack and its level, an aggregator, a seed."""
    input:
        data=task_data,
        partition="results/{run}/partitions/{task}/seed-{seed}.npz",
    output:
        "results/{run}/cells/{task}/{attack}/{level}/{variant}/seed-{seed}.json",
    log:
        "logs/{run}/cells/{task}/{attack}/{level}/{variant}/seed-{seed}.log",
    benchmark:
        "logs/{run}/cells/{task}/{attack}/{level}/{variant}/seed-{seed}.benchmark.tsv"
    conda:
        "../../envs/arfl.yaml"
    threads: 1
    resources:
        gpu=int(wants_gpu(config["device"])),
        runtime=cell_minutes,
        mem_mb=cell_memory,
    params:
        cell=cell_name,
        settings=cell_settings,
        code=cell_code,
    shell:
        "python -m arfl train --cell {params.cell:q} --settings {params.settings:q}"
        " --data $(dirname {input.data}) --partition {input.partition}"
        " --device {config[device]} --threads {threads} --fingerprint {params.code}"
        " --out {output} 2> {log}"
