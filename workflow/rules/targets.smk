# `snakemake figure3`, `table4`, ...: each target's table and figure by name.


def results_of(target):
    """The files that a named target asks for."""
    files = [f"{RUN}/figures/{target}.png"] if target in FIGURES else []
    return files + ([f"{RUN}/tables/{target}.md"] if target in TABLES else [])


for target in FIGURES:

    rule:
        name:
            target
        input:
            results_of(target),
        localrule: True
