# `snakemake figure3`, `table4`, ...: each target's table and figure by name.


for target in FIGURES:

    rule:
        name:
            target
        input:
            results_of(target),
        localrule: True


rule baselines:
    """One FedAvg cell without attackers for each task: does plain training learn?"""
    input:
        baseline_records,
