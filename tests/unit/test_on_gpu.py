"""The command for a machine with a GPU, end to end on the CPU; its parts that choose."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml

from arfl import dataset, record
from arfl.grid import Grid

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "benchmarks" / "on_gpu.py"
# Cells of two tasks; the second has a partition whose clients differ in size.
CELLS = (
    "mnist_shards/label_flip/attackers-1/fedavg/seed-1",
    "mnist_shards/label_flip/attackers-1/residual_reweighting/seed-1",
    "loan_states/backdoor_naive/attackers-1/foolsgold/seed-1",
)


def load():
    spec = importlib.util.spec_from_file_location("on_gpu", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_plan(targets):
    """A plan of scale quick with two rounds a cell; each target has the cells given."""
    grid = Grid(yaml.safe_load((ROOT / "config.yaml").read_text()))
    plan = {"targets": {}, "settings": {}}
    for target, names in targets.items():
        plan["targets"][target] = []
        for name in names:
            cell = grid.cell(name)
            settings = grid.settings(cell)
            settings["task"] |= {"rounds": 2, "epochs": 1, "max_batches_per_epoch": 2}
            plan["settings"][name] = settings
            plan["targets"][target].append({"cell": cell.describe(), "settings": name})
    return plan


def test_everything_is_done_packed_and_not_done_twice(tmp_path):
    plan = small_plan({"figure3": CELLS[:2], "loan": CELLS[2:]})
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    for settings in plan["settings"].values():
        name = settings["task"]["data"]
        if not (tmp_path / "data" / name).exists():
            dataset.prepare(name, tmp_path, tmp_path / "data" / name)
    out = tmp_path / "out"
    command = [
        *(sys.executable, str(PROGRAM), "--device", "cpu", "--tiny", "--minutes", "20"),
        *("--plan", str(tmp_path / "plan.json"), "--data", str(tmp_path / "data")),
        *("--out", str(out), "--spare", "1"),
    ]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "cells.zip", "measured.json", "report.md",
    ]  # fmt: skip
    measured = json.loads((out / "measured.json").read_text())
    assert measured["tests"] == {"gpu_checks": "passed"}
    assert measured["machine"]["device"] == "cpu"
    for compared in measured["agreement"].values():
        # The same device twice: the same numbers.
        assert compared["same_but_for_rounding"]
        assert compared["accuracy"] == 0
    assert {(entry["rule"], entry["K"]) for entry in measured["aggregate"]} >= {
        ("residual_reweighting", 10),
        ("foolsgold", 20),
    }
    for step in ("speed", "choices", "speed_cpu"):
        assert "error" not in measured[step], measured[step]
    for task in ("mnist_shards", "loan_states"):
        loop = measured["speed"][task]["training_beside_loop"]
        assert loop["models_differ_by"] < 1e-4
        assert loop["ratio"] > 0
    assert measured["together"]["mnist_shards"]["2"] > 0
    assert measured["cells"]["finished"] == sorted(CELLS)
    assert not measured["cells"]["failed"]
    with zipfile.ZipFile(out / "cells.zip") as packed:
        packed.extractall(tmp_path / "unpacked")
    for name in CELLS:
        content = record.read(tmp_path / "unpacked" / f"{name}.json")
        assert content["cell"]["id"] == name
        assert len(content["rounds"]) == 2
    report = (out / "report.md").read_text()
    assert "mnist_shards" in report
    assert "failed" not in report.split("## Cells: 3 finished")[0]

    before = (out / "measured.json").read_text()
    again = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stdout + again.stderr
    measured_again = json.loads((out / "measured.json").read_text())
    same = {"tests", "agreement", "aggregate", "speed", "choices", "together", "speed_cpu"}
    assert all(measured_again[step] == json.loads(before)[step] for step in same)
    assert measured_again["cells"]["finished"] == sorted(CELLS)


def test_cells_come_by_seed_then_target_and_only_where_there_is_data(tmp_path):
    on_gpu = load()
    second = CELLS[0].replace("seed-1", "seed-2")
    plan = small_plan({"loan": [CELLS[2]], "figure3": [second, CELLS[0], CELLS[1]]})
    data = plan["settings"][CELLS[0]]["task"]["data"]
    (tmp_path / data).mkdir()
    (tmp_path / data / "meta.json").touch()
    ordered = on_gpu.in_order_of_value(plan, ["figure3"], tmp_path)
    assert [cell["id"] for cell, _ in ordered] == [CELLS[0], CELLS[1], second]
    loan = plan["settings"][CELLS[2]]["task"]["data"]
    (tmp_path / loan).mkdir()
    (tmp_path / loan / "meta.json").touch()
    ordered = on_gpu.in_order_of_value(plan, ["loan", "figure3"], tmp_path)
    assert [cell["id"] for cell, _ in ordered] == [CELLS[2], CELLS[0], CELLS[1], second]


def test_the_next_cell_is_the_most_valuable_that_ends_in_time():
    next_cell = load().next_cell
    seconds = {"long": 900, "short": 50, "shorter": 20, "unknown": float("inf")}.__getitem__
    waiting = ["unknown", "long", "short", "shorter"]
    assert next_cell(waiting, seconds, 1000, True) == 1
    assert next_cell(waiting, seconds, 100, True) == 2
    assert next_cell(waiting, seconds, 30, False) == 3
    # Where none ends in time the first is begun, to be saved; where that is not wanted, none.
    assert next_cell(waiting, seconds, 10, True) == 1
    assert next_cell(waiting, seconds, 10, False) is None
    assert next_cell(["unknown"], seconds, 1000, True) is None
