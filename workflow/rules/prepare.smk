def prepare_options(wildcards):
    """The dataset's preprocessing settings as JSON."""
    return json.dumps(config["datasets"].get(wildcards.dataset, {}))


def prepare_input(wildcards):
    """The dataset's files, and what the code reads besides."""
    files = [f"data/raw/{wildcards.dataset}/fetched.json"]
    if "loan" in wildcards.dataset:
        files.append(SOURCE + "/arfl/datasets/loan_columns.csv")
    return files


def prepare_code(wildcards):
    """Fingerprint of the code that prepares this dataset."""
    return fingerprint("arfl.datasets." + wildcards.dataset)


rule prepare:
    """Turn a dataset's files into memory-mappable tensors and their description."""
    input:
        prepare_input,
    output:
        "data/prepared/{dataset}/meta.json",
    log:
        "logs/prepare/{dataset}.log",
    benchmark:
        "logs/prepare/{dataset}.benchmark.tsv"
    conda:
        "../../envs/arfl.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        options=prepare_options,
        code=prepare_code,
    shell:
        "python -m arfl prepare --dataset {wildcards.dataset} --raw data/raw/{wildcards.dataset}"
        " --options {params.options:q} --out data/prepared/{wildcards.dataset} 2> {log}"
