rule download:
    """Fetch a dataset's files from the network or a mirror, and verify them."""
    input:
        sources=own("workflow/resources/datasets.csv"),
    output:
        fetched="data/raw/{dataset}/fetched.json",
    log:
        "logs/download/{dataset}.log",
    localrule: True
    conda:
        "../../envs/arfl.yaml"
    params:
        mirror=data_mirror,
        listing=mirror_listing,
    shell:
        "python -m arfl download --dataset {wildcards.dataset} --sources {input.sources}"
        " --mirror={params.mirror:q} --out {output.fetched} 2> {log}"
