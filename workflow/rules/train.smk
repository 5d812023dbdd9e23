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
        # The device is a resource, not a parameter: another one is no reason to train again.
        device=config["device"],
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
        " --device {resources.device} --threads {threads} --fingerprint {params.code}"
        " --out {output} 2> {log}"
