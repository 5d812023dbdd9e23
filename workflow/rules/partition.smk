def task_data(wildcards):
    """The prepared data of a task."""
    return f"data/prepared/{GRID.tasks[wildcards.task]['data']}/meta.json"


def partition_scheme(wildcards):
    """The task's partition scheme as JSON."""
    return json.dumps(GRID.tasks[wildcards.task]["partition"])


def partition_clients(wildcards):
    """How many participants, as an option; nothing where the data says it."""
    n_clients = GRID.tasks[wildcards.task]["n_clients"]
    return "" if n_clients is None else f"--n-clients {n_clients}"


rule partition:
    """Divide the training samples among the participants, and draw who holds what."""
    input:
        data=task_data,
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
        code=fingerprint("arfl.partition"),
    shell:
        "python -m arfl partition --data $(dirname {input.data}) --scheme {params.scheme:q}"
        " {params.clients} --seed {wildcards.seed} --out {output.partition}"
        " --picture {output.picture} 2> {log}"
