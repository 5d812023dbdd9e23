"""Real runs of a tiny grid: what they leave, what reruns, what a failure leaves."""

import csv
import fcntl
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import reduce_to_tiny

RECORDS = "results/quick/cells/mnist_shards"


def _records(project) -> list:
    return sorted((project.folder / "results/quick/cells").rglob("seed-*.json"))


def test_a_target_leaves_table_figure_and_records(tiny):
    for name in ("tables/figure3.md", "tables/figure3.tex", "figures/figure3.png"):
        assert (tiny.folder / "results/quick" / name).stat().st_size > 0
    assert len(_records(tiny)) == 4
    record = json.loads(_records(tiny)[0].read_text())
    assert record["data"]["name"] == "digits"
    assert "digits" in (tiny.folder / "results/quick/tables/figure3.md").read_text()


def test_a_log_opens_with_the_command_that_repeats_the_job(tiny):
    cell = "none/attackers-0/fedavg/seed-1"
    log = tiny.folder / f"logs/quick/cells/mnist_shards/{cell}.log"
    command = log.read_text().splitlines()[0].removeprefix("$ ")
    record = tiny.folder / f"{RECORDS}/{cell}.json"
    before = json.loads(record.read_text())
    record.unlink()
    environment = tiny.environment | {"PYTHONPATH": str(tiny.folder / "src")}
    subprocess.run(command, shell=True, cwd=tiny.folder, env=environment, check=True)
    after = json.loads(record.read_text())
    for part in ("cell", "settings", "data", "clients", "rounds"):
        assert after[part] == before[part]


def test_reruns_follow_meaning(tiny):
    tiny.snakemake("--touch", "figure3")
    assert "train_cell" not in tiny.planned("figure3")
    # Words and plots: none.
    path = tiny.folder / "src/arfl/aggregators/fedavg.py"
    original = path.read_text()
    assert original.startswith('"""')
    path.write_text(original.replace('"""', '"""Reworded. ', 1) + "\n# a remark\n")
    style = tiny.folder / "src/arfl/reporting/style.py"
    style.write_text(style.read_text() + "\n_CHANGED = 1\n")
    assert "train_cell" not in tiny.planned("figure3")
    # Code of one aggregator: its own cells and no others.
    path.write_text(original + "\n_CHANGED = 1\n")
    assert tiny.planned("figure3")["train_cell"] == 2
    path.write_text(original)
    # A setting of the task: all of them. Where they are trained: none.
    assert "train_cell" not in tiny.planned("figure3", "--config", "device=cpu")
    tiny.changed_lines("config.yaml", "lr: 0.03", "lr: 0.04")
    assert tiny.planned("figure3")["train_cell"] == 4
    tiny.changed_lines("config.yaml", "lr: 0.04", "lr: 0.03")


def test_a_new_aggregator_is_one_file_and_trains_only_its_own_cells(tiny):
    code = (
        "from arfl.aggregation import rule\n\n\n@rule()\n"
        "def halfway(models, *, share: float = 0.5):\n"
        "    return share * models[0] + (1 - share) * models.mean(0), None\n"
    )
    path = tiny.folder / "src/arfl/aggregators/halfway.py"
    path.write_text(code)
    original = (tiny.folder / "config.yaml").read_text()
    tiny.change_config(
        lambda config: config["aggregators"].update(halfway={"label": "Halfway", "rule": "halfway"})
    )
    assert tiny.planned("figure3")["train_cell"] == 2
    tiny.snakemake("figure3")
    assert "Halfway" in (tiny.folder / "results/quick/tables/figure3.md").read_text()
    path.unlink()
    (tiny.folder / "config.yaml").write_text(original)


def test_missing_records_are_named_and_not_trained(tiny):
    record = tiny.folder / f"{RECORDS}/label_flip/attackers-2/fedavg/seed-1.json"
    content = record.read_text()
    record.unlink()
    jobs = tiny.planned("figure3", "--config", "missing_cells=report")
    assert "train_cell" not in jobs
    tiny.snakemake("figure3", "--config", "missing_cells=report")
    figure3 = tiny.folder / "results/quick/tables/figure3.md"
    assert "| FedAvg | measured | – | – |" in figure3.read_text()
    record.write_text(content)


def test_records_are_reported_without_data_and_never_trained_again(tiny):
    aside = tiny.folder / "aside"
    aside.mkdir()
    for name in ("data", "results/quick/partitions"):
        (tiny.folder / name).rename(aside / Path(name).name)
    tiny.changed_lines("config.yaml", "lr: 0.03", "lr: 0.04")
    tiny.snakemake("figure3", "--config", "missing_cells=report")
    with open(tiny.folder / "results/quick/collected/figure3/cells.csv", newline="") as stream:
        cells = list(csv.DictReader(stream))
    assert {cell["reason"] for cell in cells} == {"its task.lr is 0.03, not 0.04 as planned"}
    tiny.changed_lines("config.yaml", "lr: 0.04", "lr: 0.03")
    tiny.snakemake("figure3", "--config", "missing_cells=report")
    figure3 = tiny.folder / "results/quick/tables/figure3.md"
    assert "| FedAvg | measured | – | 100.00 |" in figure3.read_text()
    for name in ("data", "results/quick/partitions"):
        (aside / Path(name).name).rename(tiny.folder / name)


def test_an_interrupted_run_leaves_no_part_and_goes_on(tiny):
    process = subprocess.Popen(
        ["snakemake", "--cores", "2", "table4"],
        cwd=tiny.folder,
        env=tiny.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if "rule train_cell" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    for path in (tiny.folder / "results").rglob("*"):
        assert not path.name.startswith("."), path  # no temporary of an atomic write
    for record in _records(tiny):
        json.loads(record.read_text())
    tiny.snakemake("table4")
    assert (tiny.folder / "results/quick/tables/table4.md").exists()


def test_a_missing_and_a_corrupt_mirror_end_in_one_message(project, tmp_path):
    target = "data/prepared/mnist/meta.json"
    output = project.snakemake(target, check=False, ARFL_DATA_MIRROR=str(tmp_path / "nowhere"))
    assert "nowhere is not a folder" in output
    mirror = tmp_path / "mirror" / "mnist"
    mirror.mkdir(parents=True)
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(b"not the real thing")
    output = project.snakemake(target, check=False, ARFL_DATA_MIRROR=str(mirror.parent))
    assert "train-images-idx3-ubyte" in output
    assert "Traceback (most recent call last)" not in output
    assert not list((project.folder / "data").rglob("train-images*"))


def test_a_moved_project_does_nothing_again(tiny, tmp_path):
    tiny.snakemake("figure3")
    original = tiny.folder
    moved = tmp_path / "elsewhere"
    shutil.copytree(original, moved, symlinks=True)
    try:
        tiny.folder = moved
        assert tiny.planned("figure3") in ({}, {"figure3": 1, "total": 1})
        # A second run ends with a word.
        figure = "results/quick/figures/figure3.png"
        assert "nothing to do: all that was asked for is there" in tiny.snakemake(figure)
    finally:
        tiny.folder = original


@pytest.mark.slow
def test_a_moved_project_with_its_report_does_nothing_again(project, tmp_path_factory):
    def smaller(config):
        panel = config["scales"]["quick"]["targets"]["readings"][0]
        reduce_to_tiny(config)
        config["scales"]["quick"]["targets"]["readings"] = [panel]

    project.change_config(smaller)
    project.snakemake(timeout=1200)
    assert project.planned() == {}
    original = project.folder
    project.folder = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.copytree(original, project.folder, symlinks=True)
    shutil.rmtree(original)
    assert project.planned() == {}


def test_how_far_a_run_is_is_told_from_its_files(tiny):
    environment = tiny.environment | {"PYTHONPATH": str(tiny.folder / "src")}

    def status():
        command = [sys.executable, "-m", "arfl", "status", "figure3", "--json"]
        told = subprocess.run(
            command, cwd=tiny.folder, env=environment, capture_output=True, text=True, check=True
        )
        return json.loads(told.stdout)["counts"]

    assert status()["done"] == 4
    tiny.changed_lines("config.yaml", "lr: 0.03", "lr: 0.04")
    assert status()["outdated"] == 4
    tiny.changed_lines("config.yaml", "lr: 0.04", "lr: 0.03")


def test_the_lock_of_a_killed_run_stops_nobody_and_that_of_a_living_one_does(tiny):
    record = f"{RECORDS}/none/attackers-0/fedavg/seed-1.json"
    (tiny.folder / record).unlink()
    locks = tiny.folder / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    lock = locks / "0.output.lock"
    lock.write_text(f"{record}\n")
    held = tiny.folder / ".snakemake/held-by"
    with held.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)  # as another run does as long as it lives
        assert "LockException" in tiny.snakemake(record, check=False)
    # Nobody on this machine; but another machine's lock may not be seen here.
    held.write_text("another machine")
    assert "LockException" in tiny.snakemake(record, check=False)
    held.write_text(platform.node())
    tiny.snakemake(record)
    assert (tiny.folder / record).exists()
    assert not lock.exists()
