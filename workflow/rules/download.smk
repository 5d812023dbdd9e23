rule download:
    """Fetch a dataset's files from the network or a mirror, and verify them."""
    input:
        sources="workflow/resources/datasets.csv",
    output:
        "data/raw/{dataset}/fetched.json",
    log:
        "logs/download/{dataset}.log",
    conda:
        "../../envs/arfl.yaml"
    params:
        mirror=config["data_mirror"],
    shell:
        "python -m arfl download --dataset {wildcards.dataset} --sources {input.sources}"
        " --mirror={params.mirror:q} --out data/raw/{wildcards.dataset} 2> {log}"
