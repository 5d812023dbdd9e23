"""Reproduces "Attack-Resistant Federated Learning with Residual-based Reweighting".

Data flows one way: download -> prepare -> partition -> train_cell -> collect -> tables, figures,
claims -> report. What is trained follows from config.yaml; see README.md for the commands. A rule
marked `localrule` runs where Snakemake runs, also on a cluster: light, or in need of the internet.
"""

from snakemake.utils import min_version

min_version("9.8")


include: "workflow/rules/where.smk"
# Early, so that whatever goes wrong from here on is said.
include: "workflow/rules/console.smk"


configfile: CONFIGURATION


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/start.smk"


# With `--sdm apptainer`, for all rules.
if config.get("container"):

    container: config["container"]


wildcard_constraints:
    run=re.escape(GRID.run),
    dataset=one_of(registry.names("datasets")),
    task=one_of(GRID.tasks, CHANGES),
    attack=one_of([NO_ATTACK, *GRID.config["attacks"]], CHANGES),
    n_attackers=r"\d{1,9}",
    aggregator=one_of(GRID.aggregators, CHANGES),
    seed=r"\d{1,10}",
    target=r"[a-z0-9]+",
    beyond=one_of(GRID.beyond),


rule all:
    input:
        everything,
    localrule: True


include: "workflow/rules/download.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/partition.smk"


# Otherwise no rule makes records: they are taken as they are, also where the data are not at hand.
if config["missing_cells"] == "train":

    include: "workflow/rules/train.smk"


include: "workflow/rules/collect.smk"
include: "workflow/rules/studies.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/beyond.smk"


if "{" in str(BASE):
    escape_environments()
