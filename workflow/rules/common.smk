# The configuration, checked and resolved once; names that the rules share.

import json
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The package is found beside the workflow also where it is not installed, here and in the jobs.
SOURCE = Path(workflow.basedir, "src")
sys.path.insert(0, str(SOURCE))
# Snakemake formats the prefix once more: four braces become one.
shell.prefix(f"export PYTHONPATH='{SOURCE}'${{{{PYTHONPATH:+:$PYTHONPATH}}}}; ")

from arfl.config import check
from arfl.errors import UserError
from arfl.fingerprint import fingerprint
from arfl.grid import NO_ATTACK, Grid, rules as rules_in, wants_gpu

# Snakemake reads the numbers of a list on the command line, --config seeds=[1,2], as text.
if isinstance(config.get("seeds"), list):
    config["seeds"] = [
        int(seed) if isinstance(seed, str) and seed.strip().isdecimal() else seed
        for seed in config["seeds"]
    ]

try:
    check(config, Path(workflow.basedir) / "workflow/schemas/config.schema.yaml")
    GRID = Grid(config)
except UserError as error:
    raise WorkflowError(str(error)) from None

RUN = f"results/{GRID.run}"
PAPER = "workflow/resources/paper"

# Targets that look at the cells of all others, and those that need no cells.
VIEWS = ["weights", "timing"]
STUDIES = {"figure2": "figure2.csv", "theory": "theory.csv", "figure5": "figure5.npz"}
FIGURES = [*GRID.points, *VIEWS, *STUDIES]
TABLES = [target for target in GRID.points if target != "figure4"] + ["timing"]


def one_of(names):
    """Regular expression that matches exactly these names."""
    return "|".join(re.escape(name) for name in names)
