rule prepare:
    """Turn a dataset's files into memory-mappable tensors and their description."""
    input:
        fetched="data/raw/{dataset}/fetched.json",
    output:
        meta="data/prepared/{dataset}/meta.json",
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
        "python -m arfl prepare --dataset {wildcards.dataset} --fetched {input.fetched}"
        " --options {params.options:q} --out {output.meta} 2> {log}"
