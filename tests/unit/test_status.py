"""What `arfl status` says of a folder, whose files the tests lay out as trainings leave them."""

import fcntl
import json
import logging
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import yaml

from arfl import cli, project, status
from arfl.errors import UserError
from arfl.progress import Progress

ROOT = Path(__file__).parents[2]
TASK = "mnist_shards/none/attackers-0"


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """A run of the six rules without attackers, one seed; the working folder is its own."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["seeds"] = [1]
    quick = config["scales"]["quick"]
    quick["tasks"]["mnist_shards"]["rounds"] = 40
    quick["targets"]["figure3"] = [
        {"task": "mnist_shards", "attack": "label_flip", "n_attackers": [0]}
    ]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no SLURM
    return project.grid()


def name(rule):
    return f"{TASK}/{rule}/seed-1"


def finish(grid, rule, seconds=100.0, folder="cells", **changed):
    cell = grid.cell(name(rule))
    path = Path(grid.record_path(cell, folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "settings": grid.settings(cell),
        "provenance": {"fingerprint": grid.fingerprint(cell)},
        "seconds": {"total": seconds},
    }
    path.write_text(json.dumps(record | changed))


def log_of(rule, *lines):
    path = Path(f"logs/quick/cells/{name(rule)}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["$ python -m arfl train ...", *lines]) + "\n")


def lock(grid, rule):
    path = Path(grid.record_path(grid.cell(name(rule)), "kept")).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w")


def entries(grid):
    found = status.look(grid, project.cells(grid, ["figure3"]))
    return found, {entry["id"].split("/")[-2]: entry for entry in found["cells"]}


def progress_lines(caplog, monkeypatch, rounds):
    """What a training's log says after some rounds of two hours each."""
    now = [0.0]
    monkeypatch.setattr("arfl.progress.time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    report = Progress("a/cell", 40)
    for number in range(1, rounds + 1):
        now[0] += 7200
        report({"round": number, "accuracy": 0.5, "attack_success_rate": 0.1, "excluded": []})
    return [record.getMessage() for record in caplog.records]


def test_every_state_of_a_cell_is_told_apart(grid, caplog, monkeypatch):
    finish(grid, "fedavg", seconds=60)
    finish(grid, "median", folder="kept", seconds=100)
    finish(grid, "trimmed_mean", settings={})
    log_of("foolsgold", "error: only 4 clients hold class 0")
    log_of("residual_reweighting", *progress_lines(caplog, monkeypatch, 3))
    with lock(grid, "residual_reweighting") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found, cells = entries(grid)
    assert {rule: entry["state"] for rule, entry in cells.items()} == {
        "fedavg": "done",
        "median": "done",
        "trimmed_mean": "outdated",
        "foolsgold": "failed",
        "residual_reweighting": "running",
        "repeated_median": "left",
    }
    running = cells["residual_reweighting"]
    assert (running["round"], running["n_rounds"]) == (3, 40)
    assert running["seconds_left"] == 37 * 7200  # more than a day: the log says days
    assert cells["foolsgold"]["fault"] == "error: only 4 clients hold class 0"
    # One at a time: three cells like the two that were timed, and what the running one says.
    assert found["seconds_left"] == 37 * 7200 + 3 * 80
    assert found["queue"] is None
    # The lock's file of a training that was killed is held by nobody.
    assert entries(grid)[1]["residual_reweighting"]["state"] == "stopped"


def test_a_stopped_cell_has_the_rounds_of_its_checkpoint(grid):
    cell = grid.cell(name("fedavg"))
    path = Path(grid.record_path(cell, "kept")).with_suffix(".checkpoint.npz")
    path.parent.mkdir(parents=True)
    np.savez(path, rest=np.array(json.dumps({"rounds": [{}] * 30})))
    finish(grid, "median", seconds=200)
    log_of("fedavg", "a/cell: state after round 30 is saved", "stopped; run the same command again")
    _, cells = entries(grid)
    assert (cells["fedavg"]["state"], cells["fedavg"]["round"]) == ("stopped", 30)
    # A quarter of the rounds is left, of a cell like the one that took 200 seconds.
    assert cells["fedavg"]["seconds_left"] == pytest.approx(50)
    path.write_bytes(b"PK\x03\x04 broken")
    assert entries(grid)[1]["fedavg"]["round"] is None


def test_jobs_of_slurm_are_counted_and_stand_for_locks_that_cannot_be_seen(
    grid, tmp_path, monkeypatch
):
    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    rows = f"RUNNING {tmp_path}\\nPENDING {tmp_path}\\nPENDING {tmp_path}\\nRUNNING /elsewhere"
    squeue.write_text(f"#!/bin/sh\nprintf '{rows}\\n'\n")
    squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{squeue.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    lock(grid, "fedavg").close()
    log_of("fedavg", "a/cell: goes on after round 7")
    found, cells = entries(grid)
    assert found["queue"] == {"RUNNING": 1, "PENDING": 2}
    # The file of the lock is there, though not held as far as this machine can tell.
    monkeypatch.setattr(status.fcntl, "flock", _unknown)
    found, cells = entries(grid)
    assert (cells["fedavg"]["state"], cells["fedavg"]["round"]) == ("running", 7)
    assert "SLURM jobs of this folder: 2 pending, 1 running" in status.text(found)


def _unknown(*_):
    raise OSError(37, "No locks available")


def test_the_terminal_gets_a_few_lines_and_programs_get_every_cell(grid, capsys):
    assert cli.main(["status", "figure3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "quick: 0 of 6 cells done, 6 left",
        "time left: unknown until a cell has been trained",
    ]
    for rule in ("fedavg", "median", "trimmed_mean", "repeated_median", "foolsgold"):
        finish(grid, rule, seconds=3600)
    log_of("residual_reweighting", "Traceback (most recent call last):", "ZeroDivisionError: a")
    assert cli.main(["status", "figure3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "quick: 5 of 6 cells done, 1 failed",
        "about 1:00:00 of training left, 1 at a time",
        f"failed  {name('residual_reweighting')}",
        f"    logs/quick/cells/{name('residual_reweighting')}.log: ZeroDivisionError: a",
    ]
    assert cli.main(["status", "figure3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["cells"]) == 6
    assert found["counts"]["done"] == 5
    finish(grid, "residual_reweighting")
    assert cli.main(["status", "figure3"]) == 0
    assert capsys.readouterr().out.splitlines() == ["quick: 6 of 6 cells done"]


def test_a_target_without_cells_is_one_message(grid, capsys):
    assert cli.main(["status", "figure9"]) == 2
    assert "no target 'figure9' has cells; those that have: figure3" in capsys.readouterr().err


def test_a_key_that_stands_twice_is_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("shared: &a {x: 1}\nrules:\n  one: {<<: *a, x: 2}\n  two: {}\n")
    assert project.read(file)["rules"]["one"] == {"x": 2}
    file.write_text(file.read_text() + "  one: {}\n")
    with pytest.raises(UserError, match=r"config\.yaml, line 5: one stands there twice; keep one"):
        project.read(file)
