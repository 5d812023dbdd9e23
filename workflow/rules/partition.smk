rule partition:
    """Divide the training samples among the participants, and draw who holds what."""
    input:
        meta=task_data,
    output:
        partition="results/{run}/partitions/{task}/seed-{seed}.npz",
        picture="results/{run}/partitions/{task}/seed-{seed}.png",
    log:
        "logs/{run}/partition/{task}/seed-{seed}.log",
    conda:
        "../../envs/arfl.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        scheme=partition_scheme,
        clients=partition_clients,
        code=partition_code,
    shell:
        "python -m arfl partition --data {input.meta} --scheme {params.scheme:q}"
        " {params.clients} --seed {wildcards.seed} --out {output.partition}"
        " --picture {output.picture} 2> {log}"
