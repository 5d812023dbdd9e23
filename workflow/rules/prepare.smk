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
