"""The shipped SLURM profile on a real SLURM of two nodes, started for the tests (tests/slurm).

Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge; skipped elsewhere. Each
fault is compared with an undisturbed run without SLURM: the same records but for times and
provenance, and no record that was finished before the fault trained a second time.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import CELLS, KEPT, Project, keep_aggregators

START, STOP = (Path(__file__).parents[1] / "slurm" / name for name in ("start.sh", "stop.sh"))
PROGRAMS = ("slurmctld", "slurmd", "sinfo", "scontrol", "munged")
SYSTEM_WIDE = Path("/etc/slurm/slurm.conf")
RULES = ("fedavg", "median", "trimmed_mean", "residual_reweighting")
RECORDS = [
    f"{CELLS}/mnist_shards/{attack}/{rule}/seed-1.json"
    for attack in ("none/attackers-0", "label_flip/attackers-2")
    for rule in RULES
]


def why_not():
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"SLURM is not installed: no {', '.join(missing)}"
    if os.geteuid() != 0:
        return "only root can start a SLURM"
    if SYSTEM_WIDE.exists() or SYSTEM_WIDE.is_symlink():
        return f"this machine has a SLURM of its own: {SYSTEM_WIDE}"
    return None


# Seconds: a limit for what hangs. On a busy machine each of these takes minutes.
PATIENCE = 1800

REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A running SLURM; its commands and Snakemake find it."""
    root = tmp_path_factory.mktemp("slurm")
    os.environ["SLURM_CONF"] = str(root / "slurm.conf")
    try:
        subprocess.run([START, root], check=True)
        yield root
    finally:
        subprocess.run([STOP, root], check=True)
        del os.environ["SLURM_CONF"]


@pytest.fixture(autouse=True)
def _no_job_is_left(cluster):
    yield
    slurm("scancel", "--user=root")
    until(lambda: not queue(), "the queue is empty")


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def queue(state=None):
    """Numbers of the jobs that wait or run, or of those in one state."""
    only = [] if state is None else [f"--states={state}"]
    return slurm("squeue", "--noheader", "--format=%i", *only).split()


def submitted():
    """What SLURM was asked for, a text for each job."""
    text = slurm("scontrol", "--details", "--oneliner", "show", "jobs")
    return [line for line in text.splitlines() if line.startswith("JobId=")]


def until(condition, what, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        time.sleep(0.3)
    return value


def eight_cells(config):
    """Two groups of four cells, each of which trains for some seconds."""
    config["seeds"] = [1]
    config["checkpoint_minutes"] = 0.02
    keep_aggregators(config, *RULES)
    quick = config["scales"]["quick"]
    quick["tasks"]["mnist_shards"].update(rounds=24)
    quick["targets"]["figure3"][0]["n_attackers"] = [0, 2]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the eight records should be, trained on this machine without SLURM."""
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    project.change_config(eight_cells)
    project.snakemake("--config", "device=cpu", "--", *RECORDS, timeout=PATIENCE)
    return project.results()


@pytest.fixture
def on_slurm(project):
    """A project of eight cells whose `start` runs the SLURM profile."""
    project.change_config(eight_cells)
    project.changed_lines("profiles/slurm/config.yaml", "your-account", "ours")
    started = []

    def start(*arguments):
        options = [
            "--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "2",
            "--seconds-between-status-checks", "3", "--latency-wait", "20",
            "--config", "device=cpu",
        ]  # fmt: skip
        with open(project.folder / "printed", "a") as printed:
            process = subprocess.Popen(
                ["snakemake", *options, *arguments, "--", *RECORDS],
                cwd=project.folder,
                env=project.environment,
                stdout=printed,
                stderr=printed,
            )
        started.append(process)
        return process

    project.start = start
    yield project
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
    # On a node that is only pretended to be lost, jobs may live on.
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(process / "cwd")) == project.folder:
                os.kill(int(process.name), signal.SIGKILL)


def printed(project):
    return (project.folder / "printed").read_text()


def finish(process, project, undisturbed, before):
    """Wait for the end; the records are the undisturbed ones and those from before were kept."""
    assert process.wait(PATIENCE) == 0, printed(project)
    assert project.results() == undisturbed
    after = project.kept()
    assert len(after) == 8
    # With the time of their training's start, to the byte: nothing was trained twice.
    assert {name: after[name] for name in before} == before
    for name, content in after.items():
        assert (project.folder / CELLS / name).read_bytes() == content
    assert project.planned("--config", "device=cpu", "--", *RECORDS) == {}


def trainings(project):
    """Process number -> log of the cells that are being trained in the project's folder."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            here = Path(os.readlink(process / "cwd")) == project.folder
        except OSError:
            continue
        if here and b"train" in words and b"arfl" in words and b"--kept" in words:
            found[int(process.name)] = words[words.index(b"--kept") + 1].decode()
    return found


def some_finished_and_some_running(project):
    """Wait for the moment at which a fault may cost most; the records finished by then."""
    until(lambda: project.kept() and trainings(project), "one cell is finished and one is trained")
    # Long enough for a state to be saved.
    until(lambda: list((project.folder / KEPT).rglob("*.checkpoint.npz")), "a state is saved")
    return project.kept()


def resumed(project):
    """How often trainings went on from a saved state, all of them together."""
    return sum(json.loads(text)["provenance"]["resumed"] for text in project.kept().values())


def test_the_profile_trains_cells_together_and_asks_for_gpus(cluster, project):
    project.changed_lines("profiles/slurm/config.yaml", "your-account", "ours")
    profile = ["--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "2"]
    project.snakemake(
        *profile, "--config", "device=cpu", "seeds=[1]", "--", "table2", timeout=PATIENCE
    )
    table = (project.folder / "results/quick/tables/table2.csv").read_text()
    assert "residual_reweighting" in table
    cells = list((project.folder / "results/quick/cells/amazon_iid").rglob("seed-1.json"))
    assert len(cells) == 12
    training = [job for job in submitted() if "Partition=gpu" in job]
    assert len(training) == 3  # four cells each
    assert all("JobState=COMPLETED" in job for job in training)
    assert not any("gres:gpu" in job for job in training)

    # As shipped it asks for a GPU, which is only pretended here: one clear message, no record.
    cell = "results/quick/cells/amazon_iid/none/attackers-0/median/seed-2.json"
    output = project.snakemake(
        *profile, "--retries", "1", "--", cell, check=False, timeout=PATIENCE
    )
    assert "device is cuda, but PyTorch finds no usable GPU here" in output
    assert not (project.folder / cell).exists()
    failed = [job for job in submitted() if "JobState=FAILED" in job]
    assert len(failed) == 2
    assert all("TresPerJob=gres:gpu:1" in job for job in failed)
    # The second attempt asks for more time.
    assert {"TimeLimit=00:10:00" in job for job in failed} == {True, False}


def test_a_cancelled_group_is_submitted_again_and_goes_on(cluster, on_slurm, undisturbed):
    process = on_slurm.start()
    before = some_finished_and_some_running(on_slurm)
    slurm("scancel", *queue("RUNNING"))
    finish(process, on_slurm, undisturbed, before)
    assert resumed(on_slurm) >= 1


def test_a_cell_that_dies_costs_its_group_nothing(cluster, on_slurm, undisturbed):
    process = on_slurm.start()
    before = some_finished_and_some_running(on_slurm)
    for number in trainings(on_slurm):
        os.kill(number, signal.SIGKILL)
        break
    finish(process, on_slurm, undisturbed, before)
    assert resumed(on_slurm) >= 1


def test_a_job_beyond_its_time_limit_goes_on_in_the_next(cluster, on_slurm, undisturbed):
    on_slurm.change_config(
        lambda config: config["scales"]["quick"]["resources"]["mnist_shards"].update(minutes=1)
    )
    process = on_slurm.start()
    before = some_finished_and_some_running(on_slurm)
    job = queue("RUNNING")[0]
    slurm("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    finish(process, on_slurm, undisturbed, before)


def restarts():
    """Job number -> how often it has been queued again."""
    found = {}
    for job in submitted():
        words = dict(word.split("=", 1) for word in job.split() if "=" in word)
        found[words["JobId"]] = int(words["Restarts"])
    return found


def test_preempted_jobs_are_queued_again_and_go_on(cluster, on_slurm, undisturbed):
    process = on_slurm.start()
    saved = []
    # Between two of its cells a job has nothing to save: then once more.
    while not saved:
        before = some_finished_and_some_running(on_slurm)
        running, times = queue("RUNNING"), restarts()
        urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null"]
        slurm("sbatch", *urgent, "--wrap=sleep 5")

        def again(running=running, times=times):
            left, now = queue(), restarts()
            return all(now[job] > times[job] for job in running if job in left)

        until(again, "the running jobs are queued again")
        saved = list((on_slurm.folder / KEPT).rglob("*.checkpoint.npz"))
    finish(process, on_slurm, undisturbed, before)
    assert {job for job, times in restarts().items() if times} >= set(running)
    assert resumed(on_slurm) >= len(saved)


def test_jobs_of_a_lost_node_are_queued_again(cluster, on_slurm, undisturbed):
    process = on_slurm.start()
    before = some_finished_and_some_running(on_slurm)
    try:
        slurm("scontrol", "update", "NodeName=one", "State=DOWN", "Reason=test")
        finish(process, on_slurm, undisturbed, before)
    finally:
        # It may have come back by itself, which scontrol holds to be a mistake.
        resume = ["scontrol", "update", "NodeName=one", "State=RESUME"]
        subprocess.run(resume, capture_output=True, check=False)


def test_a_killed_scheduler_is_started_again(cluster, on_slurm, undisturbed):
    process = on_slurm.start()
    before = some_finished_and_some_running(on_slurm)
    process.kill()
    process.wait()
    # Its jobs go on; none of them is submitted a second time.
    left = set(queue())
    assert left
    second = on_slurm.start()
    assert second.wait(PATIENCE) != 0
    assert set(queue()) <= left
    message = printed(on_slurm).rpartition("would be submitted twice")[2]
    assert "scancel" in message
    # They may end by themselves, or be cancelled: what they have finished is kept.
    until(lambda: len(on_slurm.kept()) > len(before) or not queue(), "they have gone on")
    before = on_slurm.kept()
    slurm("scancel", *message.partition("scancel ")[2].split("\n")[0].split())
    until(lambda: not queue(), "the queue is empty")
    finish(on_slurm.start(), on_slurm, undisturbed, before)


def test_a_bad_option_is_told_before_anything_is_submitted(cluster, on_slurm):
    on_slurm.change_config(
        lambda config: config["aggregators"]["trimmed_mean"].update(options={"share": 0.7})
    )
    already = submitted()
    assert on_slurm.start().wait(PATIENCE) != 0
    assert "trimmed_mean: share must be at least 0 and below 0.5" in printed(on_slurm)
    assert submitted() == already
