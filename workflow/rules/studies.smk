# What the paper argues without training anything: drawn from the code itself.


rule confidence_curves:
    """Figure 2: confidence against residual, by calling the aggregator."""
    output:
        "results/{run}/collected/figure2/figure2.csv",
    log:
        "logs/{run}/studies/figure2.log",
    conda:
        "../../envs/arfl.yaml"
    params:
        code=fingerprint("arfl.studies.confidence"),
    shell:
        "python -m arfl confidence --out {output} 2> {log}"


rule theory_simulation:
    """Equation 14: the error of a one-parameter model."""
    output:
        "results/{run}/collected/theory/theory.csv",
    log:
        "logs/{run}/studies/theory.log",
    conda:
        "../../envs/arfl.yaml"
    params:
        code=fingerprint("arfl.studies.theory"),
    shell:
        "python -m arfl theory --out {output} 2> {log}"


if MAKES_FIGURE5:

    rule trigger_image:
        """Figure 5: an image with the backdoor's trigger."""
        input:
            meta=TRIGGER_DATA,
        output:
            "results/{run}/collected/figure5/figure5.npz",
        log:
            "logs/{run}/studies/figure5.log",
        conda:
            "../../envs/arfl.yaml"
        params:
            options=trigger_options,
            code=fingerprint("arfl.attacks.backdoor"),
        shell:
            "python -m arfl trigger --data {input.meta} --options {params.options:q}"
            " --out {output} 2> {log}"
