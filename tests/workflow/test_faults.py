"""What may happen to a run on a workstation: `make test-faults`; docs/faults.md is its table.

However a run is killed, and whatever is damaged in between, the same command ends with the records
of an undisturbed run but for times and provenance, and trains no finished cell again.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import CELLS, KEPT, Project, keep_aggregators

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("ARFL_FAULTS_SEED", "1"))
KILLS = int(os.environ.get("ARFL_FAULTS_KILLS", "12"))
RECORD = "mnist_shards/none/attackers-0/fedavg/seed-1.json"


def six_cells(config):
    config["seeds"] = [1]
    config["checkpoint_minutes"] = 0.02
    keep_aggregators(config, "fedavg", "trimmed_mean", "residual_reweighting")
    quick = config["scales"]["quick"]
    quick["tasks"]["mnist_shards"].update(rounds=16)
    quick["targets"]["figure3"][0]["n_attackers"] = [0, 2]


def nothing_is_left_to_do(project, target="figure3"):
    return project.planned(target) in ({}, {target: 1, "total": 1})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run of six cells."""
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    project.change_config(six_cells)
    project.snakemake("figure3", timeout=900)
    return project


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run, to be damaged."""
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder, symlinks=True)
    project = Project.__new__(Project)
    project.folder = folder
    return project


def test_kills_at_random_moments(finished, project):
    """SIGKILL, SIGTERM and SIGINT, to Snakemake alone or to it and its jobs, again and again."""
    chance = random.Random(SEED)
    project.change_config(six_cells)
    before = {}
    for number in range(KILLS):
        with open(project.folder / "printed", "a") as printed:
            process = subprocess.Popen(
                ["snakemake", "--cores", "2", "figure3"],
                cwd=project.folder,
                env=project.environment,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )
        # From its first second to the middle of the trainings.
        moment = chance.choice([chance.uniform(0.5, 5), chance.uniform(5, 30)])
        stop = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        all_of_them = chance.random() < 0.5
        print(
            f"kill {number}: {stop.name} after {moment:.1f} s to {'all' if all_of_them else 'it'}"
        )
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            (os.killpg if all_of_them else os.kill)(process.pid, stop)
            process.wait(120)
        now = project.kept()
        assert {name: now[name] for name in before} == before
        before = now
    project.snakemake("figure3", timeout=900)
    after = project.kept()
    assert {name: after[name] for name in before} == before
    assert project.results() == finished.results()
    assert nothing_is_left_to_do(project)
    assert not list((project.folder / KEPT).rglob("*.checkpoint.npz"))


def test_a_training_that_outlives_its_scheduler_is_waited_for(finished, project):
    project.change_config(six_cells)
    record = f"{CELLS}/{RECORD}"
    command = ["snakemake", "--cores", "1", record]
    process = subprocess.Popen(
        command, cwd=project.folder, env=project.environment, start_new_session=True
    )
    lock = (project.folder / KEPT / RECORD).with_suffix(".lock")
    deadline = time.monotonic() + 120
    while not lock.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()  # and not its jobs
    process.wait()
    project.snakemake(record, timeout=600)
    log = (project.folder / "logs/quick/cells" / RECORD).with_suffix(".log").read_text()
    assert "taken up from" in log
    assert (project.folder / record).read_bytes() == project.kept()[RECORD]
    assert project.results().items() <= finished.results().items()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path):
    path.write_bytes(b"")


def edit(path):
    text = path.read_text()
    assert '"accuracy": 0.' in text
    path.write_text(text.replace('"accuracy": 0.', '"accuracy": 0.9', 1))


def be_a_folder(path):
    path.unlink()
    path.mkdir()


def be_another(path):
    shutil.copy2(path.parents[1] / "trimmed_mean" / path.name, path)


@pytest.mark.parametrize("damage", [cut, empty, edit, be_a_folder, be_another, Path.unlink])
@pytest.mark.parametrize("copies", ["the record", "the record and its copy"])
def test_what_is_no_record_is_named_and_made_again(finished, copy, damage, copies):
    before = copy.kept()
    damage(copy.folder / CELLS / RECORD)
    if copies != "the record":
        if damage is be_another:
            damage(copy.folder / KEPT / RECORD)
        else:
            empty(copy.folder / KEPT / RECORD)
    output = copy.snakemake("figure3", timeout=600)
    if damage is not Path.unlink:
        assert f"not a record of its cell: {CELLS}/{RECORD}" in output
        assert (copy.folder / "results/quick/aside" / RECORD).exists()
    assert copy.results() == finished.results()
    assert (copy.kept() == before) == (copies == "the record")
    assert nothing_is_left_to_do(copy)


def test_damaged_data_are_not_trained_on(finished, copy):
    (copy.folder / CELLS / RECORD).unlink()
    (copy.folder / KEPT / RECORD).unlink()
    path = copy.folder / "data/prepared/digits/train_x.npy"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    output = copy.snakemake("figure3", check=False)
    assert "do not match their checksum" in output
    assert "rm -r data/prepared/digits" in output
    assert not (copy.folder / CELLS / RECORD).exists()
    shutil.rmtree(copy.folder / "data/prepared/digits")
    copy.snakemake("figure3", timeout=600)
    assert copy.results() == finished.results()


def test_the_partition_of_another_seed_is_not_trained_on(finished, copy):
    (copy.folder / CELLS / RECORD).unlink()
    (copy.folder / KEPT / RECORD).unlink()
    other = "results/quick/partitions/mnist_shards/seed-2.npz"
    copy.snakemake(other, "--config", "seeds=[2]")
    partition = copy.folder / other.replace("seed-2", "seed-1")
    shutil.copy2(copy.folder / other, partition)
    output = copy.snakemake("figure3", check=False)
    assert "is a partition with seed 2, but the cell asks for 1; delete it and run again" in output
    partition.unlink()
    copy.snakemake("figure3", timeout=600)
    assert copy.results() == finished.results()


def test_a_diverged_cell_is_marked_and_not_averaged(project):
    def explode(config):
        six_cells(config)
        config["scales"]["quick"]["tasks"]["mnist_shards"].update(rounds=2, lr=1e30)

    project.change_config(explode)
    project.snakemake("figure3", timeout=600)
    assert all(content["diverged"] for content in project.results().values())
    table = (project.folder / "results/quick/tables/figure3.md").read_text()
    assert "diverged" in table


@pytest.fixture
def reviews(project, tmp_path):
    """A mirror of few reviews, one of which is cut."""
    mirror = tmp_path / "mirror {of} reviews"
    path = mirror / "amazon" / "reviews.jsonl"
    path.parent.mkdir(parents=True)
    kinds = [{"reviewText": "bad", "overall": 1}, {"reviewText": "good", "overall": 5}]
    lines = [json.dumps(kind) for kind in kinds * 30]
    path.write_text("\n".join([*lines, '{"reviewText": "cut']))
    return path, lines


def test_a_corrected_mirror_is_fetched_again(project, reviews):
    path, lines = reviews
    prepared = "data/prepared/amazon/meta.json"
    mirror = {"ARFL_DATA_MIRROR": str(path.parents[1])}
    assert "line 61 is not JSON" in project.snakemake(prepared, check=False, **mirror)
    path.write_text("\n".join(lines))
    project.snakemake(prepared, **mirror)
    # What is prepared needs no mirror, and another one is not passed over in silence.
    assert project.planned(prepared) == {}
    path.write_text("\n".join(lines[:-2]))
    output = project.snakemake("-n", prepared, "--config", "scale=reduced", **mirror)
    assert "rm -r data/raw/amazon data/prepared/amazon" in output
    shutil.rmtree(project.folder / "data")
    project.snakemake(prepared, **mirror)
    meta = json.loads((project.folder / prepared).read_text())
    assert meta["n_train"] + meta["n_test"] == 58
    assert len(np.load(project.folder / "data/prepared/amazon/train_y.npy")) == meta["n_train"]


def test_another_mirror_is_looked_into(project, reviews, tmp_path):
    path, lines = reviews
    prepared = "data/prepared/amazon/meta.json"
    project.snakemake(prepared, check=False, ARFL_DATA_MIRROR=str(path.parents[1]))
    other = tmp_path / "other" / "amazon" / "reviews.jsonl"
    other.parent.mkdir(parents=True)
    other.write_text("\n".join(lines))
    project.snakemake(prepared, ARFL_DATA_MIRROR=str(other.parents[1]))


def test_a_home_that_cannot_be_written_is_no_hindrance(copy, finished):
    (copy.folder / CELLS / RECORD).unlink()
    (copy.folder / KEPT / RECORD).unlink()
    # Not even root can make a folder in a file.
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache"}
    copy.snakemake("figure3", timeout=600, **nowhere)
    assert copy.results() == finished.results()
