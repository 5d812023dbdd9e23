# What is looked after once, before anything is planned: locks that a power failure has left behind,
# records that are none, and whatever would make a cluster's jobs wait, fail or train in the wrong place.

import fcntl
import platform
import subprocess
import tempfile

from arfl.files import disk_errors
from arfl.recheck import forget_damaged, move_aside

LOCKS = Path(".snakemake/locks")


def check_writable():
    """Refuse a folder in which nothing can be kept, of which Snakemake would say less."""
    try:
        with disk_errors(Path.cwd()):
            LOCKS.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=LOCKS) as trial:
                trial.write(bytes(4096))
                trial.flush()
    except (UserError, OSError) as error:
        raise WorkflowError(str(error)) from None


def hold_folder():
    """Hold the folder as long as this process lives; whether no other process holds it.

    If so, others wait in here until `share_folder`.
    """
    global HELD
    HELD = open(LOCKS.parent / "held-by", "a+")
    alone = True
    try:
        fcntl.flock(HELD, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        alone = False
    if alone:
        HELD.seek(0)
        # Some shared file systems keep such locks to one machine.
        alone = HELD.read() in ("", platform.node())
        HELD.truncate(0)
        HELD.write(platform.node())
        HELD.flush()
    if not alone:
        share_folder()
    return alone


def share_folder():
    """Let others start: they find the folder held."""
    fcntl.flock(HELD, fcntl.LOCK_SH)


def left_in_queue():
    """SLURM jobs of this user that were submitted from this folder."""
    command = ["squeue", "--me", "--noheader", "--format=%i %Z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = (line.partition(" ") for line in listed.stdout.splitlines())
    return [number for number, _, folder in rows if folder.strip() == os.getcwd()]


def on_slurm():
    """Whether jobs go to SLURM, also in a dry run, which has no executor."""
    named = dict(zip(sys.argv, sys.argv[1:]))
    words = [named.get(option, "") for option in ("--executor", "-e", "--profile")]
    words += [word.partition("=")[2] for word in sys.argv if word.startswith("--")]
    return "slurm_partition" in (
        workflow.resource_settings.default_resources or ()
    ) or ("slurm" in (Path(word).name for word in words))


def check_cluster():
    """Refuse what a cluster would answer with waiting, or with training on the wrong nodes."""
    if config["device"] == "auto":
        raise WorkflowError(
            "device is auto, but this node's GPUs say nothing of those where the jobs run; give "
            "--config device=cuda, or device=cpu"
        )
    settings = workflow.resource_settings
    defaults = settings.default_resources
    account = defaults.get("slurm_account") if defaults else None
    if getattr(account, "raw", None) == "your-account":
        raise WorkflowError(
            "profiles/slurm/config.yaml still says your-account; put your own there (sacctmgr show "
            "associations user=$USER lists them), or delete the line if the cluster has none"
        )
    changed = settings.overwrite_resources
    if (
        config["device"] == "cuda"
        and changed
        and "slurm_partition" not in changed.get("train_cell", ())
    ):
        raise WorkflowError(
            "--set-resources replaces that of the profile, so that trainings would go to nodes "
            "without GPUs; add train_cell:slurm_partition=<partition with GPUs>"
        )


def check_rules():
    """Refuse options that a rule does not have before a job is submitted for it."""
    command = [
        sys.executable,
        "-m",
        "arfl",
        "check-options",
        "--rules",
        json.dumps(GRID.rules()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # With `--sdm conda` there is no PyTorch here (status 1): then the jobs say so.
    if done.returncode == 2:
        raise WorkflowError(done.stderr.rpartition("error: ")[2].strip())


def look_at_records(look_only):
    """Move what is no record out of the way, so that its cell is trained again, and name it."""
    seen = LOCKS.parent / f"records-seen-{GRID.run}.json"
    try:
        wrong = move_aside(GRID, seen, look_only)
    except (UserError, OSError) as error:
        raise WorkflowError(str(error)) from None
    for path, fault in wrong.items():
        say(f"not a record of its cell: {path}: {fault}")
    if wrong and look_only:
        say(
            f"{len(wrong)} such files; a run that trains moves them to {RUN}/aside first"
        )
    elif wrong:
        say(
            f"{len(wrong)} such files moved to {RUN}/aside; what is asked for is trained again"
        )


def look_at_collected(look_only):
    """Have what was damaged after it was collected or planned made again, and name it."""
    try:
        wrong = forget_damaged(GRID, look_only)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    for path in wrong:
        say(f"damaged since it was made: {path}; a run makes it again")


def look_at_mirror():
    """Say where a mirror is not looked into, since its data are already prepared."""
    for dataset in sorted({task["data"] for task in GRID.tasks.values()}):
        mirror, there = mirror_of(dataset)
        raw = Path("data/raw", dataset, "fetched.json")
        if there and is_prepared(dataset) and raw.exists():
            if (mirror, there) != fetched_from(dataset):
                say(
                    f"{dataset} is prepared from other files than those in {mirror} now; to begin "
                    f"again with these: rm -r data/raw/{dataset} data/prepared/{dataset}"
                )


if workflow.is_main_process:
    check_writable()
    if on_slurm():
        check_cluster()
        if config["missing_cells"] == "train":
            check_rules()
    try:
        ALONE = hold_folder()
    except OSError:  # another user's file, or a file system without such locks
        ALONE = False
    if ALONE and on_slurm() and not DRY_RUN:
        QUEUED = left_in_queue()
        if QUEUED:
            raise WorkflowError(
                "SLURM jobs that an earlier start submitted from this folder are still there, and "
                f"would be submitted twice: wait for them, or scancel {' '.join(QUEUED)}"
            )
    # Snakemake's locks outlive it where it was killed; nobody holds the folder any more.
    if ALONE:
        for lock in LOCKS.glob("*.lock"):
            lock.unlink(missing_ok=True)
        share_folder()
    TRAINS = config["missing_cells"] == "train"
    if TRAINS:
        look_at_mirror()
    look_at_records(look_only=DRY_RUN or not ALONE or not TRAINS)
    look_at_collected(look_only=DRY_RUN or not ALONE)


def escape_environments():
    """Braces in the folder's name are no wildcards, for which Snakemake takes them here."""
    for made in workflow.rules:
        if made.conda_env is not None:
            path = str(BASE / "workflow/rules" / made.conda_env)
            made.conda_env = path.replace("{", "{{").replace("}", "}}")


onstart:
    # Cells that train on CPUs here are short beside the import of PyTorch: their jobs fork from one
    # process that has imported it. Not where an executor sends jobs elsewhere.
    if (
        workflow.is_main_process
        and workflow.local_exec
        and not wants_gpu(config["device"])
    ):
        os.environ.setdefault("ARFL_WARM", "1")
