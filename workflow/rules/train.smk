rule train_cell:
    """Train one cell: a dataset, an attack and its level, an aggregator, a seed."""
    input:
        meta=task_data,
        partition=cell_partition,
    output:
        record="results/{run}/cells/{task}/{attack}/attackers-{n_attackers}/{aggregator}/seed-{seed}.json",
    log:
        "logs/{run}/cells/{task}/{attack}/attackers-{n_attackers}/{aggregator}/seed-{seed}.log",
    benchmark:
        "logs/{run}/cells/{task}/{attack}/attackers-{n_attackers}/{aggregator}/seed-{seed}.benchmark.tsv"
    conda:
        "../../envs/arfl.yaml"
    threads: 1
    resources:
        # Where and how often a state is saved are resources, not parameters: no reason to train again.
        device=config["device"],
        checkpoint_minutes=str(config["checkpoint_minutes"]),
        gpu=int(wants_gpu(config["device"])),
        runtime=cell_minutes,
        mem_mb=cell_memory,
    params:
        cell=cell_name,
        settings=cell_settings,
        code=cell_code,
        kept=kept_record,
    shell:
        "python -m arfl train --cell {params.cell:q} --settings {params.settings:q}"
        " --data {input.meta} --partition {input.partition} --device {resources.device}"
        " --checkpoint-minutes {resources.checkpoint_minutes} --kept {params.kept}"
        " --out {output.record} 2> {log}"
