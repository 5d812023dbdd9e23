# The configuration, checked and resolved once; names that the rules share.

import csv
import json
import re

# The package is found beside the workflow also where it is not installed: here, and through the
# environment in the jobs. No shell reads the folder's name, whatever characters it has.
if os.pathsep in str(SOURCE):
    raise WorkflowError(
        f"Python cannot find modules in a folder with {os.pathsep!r} in its name: rename {SOURCE}"
    )
sys.path.insert(0, str(SOURCE))
INHERITED = os.environ.get("PYTHONPATH")
os.environ.update(PYTHONPATH=os.pathsep.join([str(SOURCE), *filter(None, [INHERITED])]))

from arfl import project, registry
from arfl.config import check
from arfl.errors import UserError
from arfl.files import listing
from arfl.fingerprint import fingerprint
from arfl.grid import CHANGES, NO_ATTACK, Grid, wants_gpu
from arfl.reporting import targets
from arfl.reporting.targets import ALL


def with_numbers(seeds):
    """Snakemake reads the numbers of a list on the command line, --config seeds=[1,2], as text."""
    if isinstance(seeds, dict):
        return {target: with_numbers(of_target) for target, of_target in seeds.items()}
    if not isinstance(seeds, list):
        return seeds
    whole = re.compile(r" *\d{1,99} *")
    return [
        int(seed) if isinstance(seed, str) and whole.fullmatch(seed) else seed
        for seed in seeds
    ]


config |= {
    key: with_numbers(config[key]) for key in ("seeds", "target_seeds") if key in config
}

try:
    # Snakemake has read them, and keeps the last of two equal keys.
    for path in workflow.configfiles:
        project.read(Path(path))
    check(config, BASE / "workflow/schemas/config.schema.yaml")
    GRID = Grid(config)
except UserError as error:
    raise WorkflowError(str(error)) from None

# Datasets whose files are fetched; the others are embedded.
with open(BASE / "workflow/resources/datasets.csv", newline="") as table:
    FETCHED = {row["dataset"] for row in csv.DictReader(table)}

# Snakemake knows it only later. Also as -np.
DRY_RUN = any(re.fullmatch(r"--dry.*|-[a-zA-Z]*n[a-zA-Z]*", word) for word in sys.argv)
RUN = f"results/{GRID.run}"
PAPER = own("workflow/resources/paper")

# Every target: those of the configuration, views of all their cells, and studies without cells.
TARGETS = targets.of_points(
    {name: [point.x for point in points] for name, points in GRID.points.items()}
)
# Figure 5 shows an image of Table 3's last panel. A report of what there is makes it only where that
# data lies, and leaves it out where it cannot be had.
TRIGGERED = [point.cell for point in GRID.points.get("table3", [])][-1:]
TRIGGER_DATA = [
    f"data/prepared/{GRID.tasks[cell.task]['data']}/meta.json" for cell in TRIGGERED
]
MAKES_FIGURE5 = bool(TRIGGERED) and (
    config["missing_cells"] == "train" or os.path.exists(TRIGGER_DATA[0])
)
if not MAKES_FIGURE5 and not os.path.exists(f"{RUN}/collected/figure5/figure5.npz"):
    del TARGETS["figure5"]
FIGURES = list(TARGETS)
ROUNDS = [f"{name}.rounds" for name, target in TARGETS.items() if target.by_round]
TABLES = [name for name, target in TARGETS.items() if target.table]


def one_of(names, suffix=""):
    """Regular expression that matches exactly these names, each followed by the suffix."""
    return f"(?:{'|'.join(re.escape(name) for name in names)}){suffix}"
