# `snakemake figure3`, `table4`, ...: each target's table and figures by name. What they are made of
# is asked for too, so that a deleted record or what a failure left undone is made again.


for target in TARGETS:

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
    localrule: True
