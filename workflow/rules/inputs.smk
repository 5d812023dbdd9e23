# Input, parameter and resource functions of the rules, in the order of the data flow.


def mirror_of(dataset):
    """The mirror's name and what lies there for a dataset; both are empty where there is none."""
    named = config["data_mirror"] or os.environ.get("ARFL_DATA_MIRROR", "")
    if not named or dataset not in FETCHED:
        return "", ""
    return named, listing(Path(named, dataset))


def fetched_from(dataset):
    """What `mirror_of` was when a dataset's files were fetched."""
    try:
        receipt = json.loads(Path("data/raw", dataset, ".mirror.json").read_text())
        return receipt["mirror"], receipt["listing"]
    except (OSError, ValueError, LookupError, TypeError):
        return config["data_mirror"], ""


def is_prepared(dataset):
    """Whether a dataset's arrays are there."""
    return os.path.exists(f"data/prepared/{dataset}/meta.json")


def data_mirror(wildcards):
    """The mirror as it is: braces in its name are no wildcards.

    What is prepared needs no mirror: another one, or none, is no reason to begin again.
    """
    dataset = wildcards.dataset
    return (fetched_from if is_prepared(dataset) else mirror_of)(dataset)[0]


def mirror_listing(wildcards):
    """What lies in the mirror: a file that was corrected there is fetched again."""
    dataset = wildcards.dataset
    return (fetched_from if is_prepared(dataset) else mirror_of)(dataset)[1]


def prepare_options(wildcards):
    """The dataset's preprocessing settings as JSON."""
    return json.dumps(config["datasets"].get(wildcards.dataset, {}))


def prepare_code(wildcards):
    """Fingerprint of the code that prepares this dataset, and of the tables that it reads."""
    return fingerprint(f"arfl.datasets.{wildcards.dataset}")


def task_of(wildcards):
    """The settings of the task that a path names."""
    try:
        return GRID.task(wildcards.task)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def task_data(wildcards):
    """The prepared data of a task."""
    return f"data/prepared/{task_of(wildcards)['data']}/meta.json"


def partition_scheme(wildcards):
    """The task's partition scheme as JSON."""
    return json.dumps(task_of(wildcards)["partition"])


def partition_clients(wildcards):
    """How many participants, as an option; nothing where the data says it."""
    n_clients = task_of(wildcards)["n_clients"]
    return "" if n_clients is None else f"--n-clients {n_clients}"


def partition_code(wildcards):
    """Fingerprint of the code that divides the data."""
    scheme = task_of(wildcards)["partition"]["name"]
    return fingerprint("arfl.partition", f"arfl.partitions.{scheme}")


def cell_of(wildcards):
    """The cell that a record's path names."""
    name = (
        "{0.task}/{0.attack}/attackers-{0.n_attackers}/{0.aggregator}/seed-{0.seed}"
    ).format(wildcards)
    try:
        return GRID.cell(name)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def cell_partition(wildcards):
    """The partition that a cell trains on."""
    return GRID.partition_path(cell_of(wildcards))


def cell_name(wildcards):
    """The cell as JSON."""
    return json.dumps(cell_of(wildcards).describe())


def cell_settings(wildcards):
    """All that the cell is trained with, as JSON: it reruns when this changes."""
    return json.dumps(GRID.settings(cell_of(wildcards)))


def cell_code(wildcards):
    """Fingerprint of the numeric code: the cell reruns when this changes."""
    return GRID.fingerprint(cell_of(wildcards))


def cells_in_a_job():
    """How many cells a profile puts into one job of a cluster."""
    groups = workflow.group_settings
    return groups.group_components.get(groups.overwrite_groups.get("train_cell"), 1)


def kept_record(wildcards):
    """Where a finished record is kept a second time, and taken up again after a failure."""
    return GRID.record_path(cell_of(wildcards), "kept")


def cell_minutes(wildcards, attempt):
    """Time limit: twice the expected time, and as much again with each attempt, if it is allowed."""
    expected = GRID.resources(cell_of(wildcards))["minutes"]
    longest, together = config["job_minutes"], cells_in_a_job()
    if longest is None:
        return 2 * attempt * expected
    if expected * together > longest:
        raise WorkflowError(
            f"{together} cells of {wildcards.task} in one job take about {expected * together} "
            f"minutes, but no job may take more than {longest} (job_minutes): put fewer into one "
            "(--group-components cells=1), or choose a partition with a higher limit and say so"
        )
    return min(2 * attempt * expected, longest // together)


def cell_memory(wildcards, attempt):
    """Memory limit, as much again with each attempt."""
    return attempt * GRID.resources(cell_of(wildcards))["mem_mb"]


def planned_config(wildcards):
    """What decides which cells there are, as JSON: not where and how they are trained."""
    elsewhere = (
        "device",
        "checkpoint_minutes",
        "job_minutes",
        "data_mirror",
        "container",
    )
    return json.dumps({key: config[key] for key in config if key not in elsewhere})


def target_records(wildcards):
    """The records of a target's cells; with `missing_cells: report`, those that exist."""
    return existing_records(target_cells(wildcards.target))


def existing_records(cells):
    """The records of cells; with `missing_cells: report`, those that exist."""
    paths = sorted({GRID.record_path(cell) for cell in cells})
    if config["missing_cells"] == "report":
        paths = [path for path in paths if os.path.exists(path)]
    return paths


def beyond_records(wildcards):
    """The records of a target beyond the paper, likewise."""
    return existing_records(point.cell for point in GRID.beyond[wildcards.beyond])


def results_beyond(name):
    """The files that such a target's name asks for: ranks, or a table and a figure."""
    usual = ["table.md", "figure.png"]
    files = {"leaderboard": ["ranks.md"], "adaptive": [*usual, "displacement.csv"]}
    return [f"{RUN}/beyond/{name}/{file}" for file in files.get(name, usual)]


def target_cells(target):
    """The cells of a target, or of all."""
    if target == ALL:
        return GRID.cells.values()
    if target not in GRID.points:
        raise WorkflowError(f"config.yaml has no target {target!r} with cells")
    return [point.cell for point in GRID.points[target]]


def trigger_options(wildcards):
    """The backdoor's options in Table 3's last panel, as JSON."""
    return json.dumps(GRID.settings(TRIGGERED[0])["attack"]["options"])


def known_target(name):
    """The entry of a target in the table of targets."""
    if name not in TARGETS:
        raise WorkflowError(f"there is no target {name!r}; known: {', '.join(TARGETS)}")
    return TARGETS[name]


def collected_file(wildcards, name):
    """A file of what a target is made of."""
    folder = known_target(wildcards.target).folder
    return f"results/{wildcards.run}/collected/{folder}/{name}"


def collected_of(wildcards):
    """The manifest of what a target is made of."""
    return collected_file(wildcards, "collected.json")


def cells_of(wildcards):
    """The cells of what a target is made of."""
    return collected_file(wildcards, "cells.csv")


def figure_source(wildcards):
    """What a figure is drawn from: a study's file, or the manifest of collected records."""
    study = known_target(wildcards.target).study
    return collected_file(wildcards, study or "collected.json")


def figure_frames(wildcards):
    """The collected frames that a figure reads."""
    target = known_target(wildcards.target)
    return [collected_file(wildcards, f"{name}.csv") for name in target.reads]


def results_of(name):
    """The files that a named target asks for: its own, and what they are made of."""
    target = TARGETS[name]
    files = [f"{RUN}/figures/{name}.png"]
    if target.by_round:
        files.append(f"{RUN}/figures/{name}.rounds.png")
    if target.table:
        files.append(f"{RUN}/tables/{name}.md")
    if target.study:
        return files
    return files + records_behind(target.folder)


def records_behind(folder):
    """A collected folder's manifest and the records that it is made of."""
    manifest = f"{RUN}/collected/{folder}/collected.json"
    return [manifest, *existing_records(target_cells(folder))]


def everything(wildcards):
    """The report, and what it is made of: a deleted record is noticed though the report is there."""
    made = [path for folder in (*GRID.points, ALL) for path in records_behind(folder)]
    return [f"{RUN}/report.html", "results/index.html", *dict.fromkeys(made)]


def other_ledgers(wildcards):
    """The ledgers of other runs that are there, for the matrix of claims."""
    found = sorted(map(str, Path("results").glob("*/claims.json")))
    return [path for path in found if path != f"{RUN}/claims.json"]


def others_option(wildcards, input):
    """Those as an option; nothing where there are none."""
    return f"--others {' '.join(input.others)}" if input.others else ""


def baseline_records(wildcards):
    """One FedAvg cell without attackers for each task."""
    name = "{task}/none/attackers-0/fedavg/seed-{seed}"
    tasks = {cell.task for cell in GRID.cells.values()}
    cells = [
        GRID.cell(name.format(task=task, seed=GRID.seeds[0])) for task in sorted(tasks)
    ]
    return [GRID.record_path(cell) for cell in cells]
