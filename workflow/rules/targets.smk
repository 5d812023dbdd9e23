# `snakemake figure3`, `table4`, ...: each target's table and figure by name.


for target in FIGURES:

    rule:
        name:
            target
        input:
            results_of(target),
        localrule: True


rule baselines:
    input:
        baseline_records,
    """One FedAvg cell without attackers for each task: does plain training learn?"""
    localrule: True
