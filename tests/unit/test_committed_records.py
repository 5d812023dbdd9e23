"""The committed records at the paper's scale: of this code, this configuration, and repeatable."""

import copy
import json
import lzma
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import real_files
import yaml

from arfl import batches, partition
from arfl import cell as cells
from arfl.grid import Grid

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
RUNS = {"paper": "paper", "paper-released": "released"}
# On another kind of processor sums are rounded otherwise, and training makes that grow: how far an
# accuracy may then be from the record's, in the first rounds of MNIST and in all of LOAN's. It is
# what is allowed, not what was measured: the cells that two kinds of processor trained are equal
# (records/README.md).
ELSEWHERE = {"mnist": 0.03, "loan": 0.05}
MNIST_ROUNDS = 10


@cache
def committed(run):
    packed = batches.read(ROOT / "records" / run)
    return {name: json.loads(line) for name, line in packed.items()}


@cache
def grid(run):
    own = ROOT / "records" / run / "config.yaml"
    more = yaml.safe_load(own.read_text(encoding="utf-8")) if own.exists() else {}
    return Grid(copy.deepcopy(CONFIG) | {"scale": "paper", "protocol": RUNS[run]} | more)


@pytest.mark.parametrize("run", RUNS)
def test_every_record_is_of_this_code_and_of_these_settings(run):
    stale, unplanned = [], []
    for name, content in committed(run).items():
        settings, origin = content["settings"], content["provenance"]
        code = cells.code_of(settings, origin["device"])
        if origin["fingerprint"] != code:
            stale.append(f"{name}: code {origin['fingerprint']}, now {code}")
        if settings != grid(run).settings(grid(run).cell(name)):
            stale.append(f"{name}: other settings than config.yaml gives it")
        if name not in grid(run).cells:
            unplanned.append(name)
    assert not stale
    if unplanned:
        warnings.warn(f"{run}: of no target of config.yaml: {', '.join(unplanned)}", stacklevel=1)


@pytest.mark.parametrize("run", RUNS)
def test_the_committed_plan_is_the_one_of_this_configuration(run):
    plan = json.loads((ROOT / "records" / run / "plan.json").read_text(encoding="utf-8"))
    now = json.loads(json.dumps(grid(run).plan()))
    assert plan["targets"] == now["targets"], "write it again: python -m arfl plan"
    assert plan["settings"] == now["settings"]


@pytest.mark.parametrize("run", RUNS)
def test_every_record_says_where_it_comes_from(run):
    for content in committed(run).values():
        origin = content["provenance"]
        assert origin["dirty"] is False
        assert len(origin["commit"]) == 40
        assert origin["device_name"]
        assert content["seconds"]["total"] > 0


def test_a_cell_that_was_trained_twice_has_the_same_numbers_in_both_batches():
    twice = {}
    for run in RUNS:
        for path in batches.paths(ROOT / "records" / run):
            with lzma.open(path, "rt", encoding="utf-8") as stream:
                for content in map(json.loads, stream):
                    twice.setdefault((run, content["cell"]["id"]), []).append(content["rounds"])
    twice = {name: trained for name, trained in twice.items() if len(trained) > 1}
    assert twice
    assert [name for name, trained in twice.items() if trained != [trained[0]] * len(trained)] == []


def shortest(dataset):
    """Run and record of the cell of a dataset that takes the least time."""
    found = [
        (content["seconds"]["total"], run, content)
        for run in RUNS
        for content in committed(run).values()
        if content["data"]["name"] == dataset and content["diverged"] is None
    ]
    assert found, f"no record on {dataset} is committed"
    return min(found, key=lambda one: one[0])[1:]


@pytest.mark.slow
@real_files.needs_mirror
@pytest.mark.parametrize("dataset", ["loan", "mnist"])
def test_a_committed_cell_trained_again_is_bit_identical_on_the_same_processor(dataset, tmp_path):
    _, content = shortest(dataset)
    settings = copy.deepcopy(content["settings"])
    prepared = real_files.prepare(dataset, tmp_path, **CONFIG["datasets"].get(dataset, {}))
    assert prepared.checksum == content["data"]["checksum"], "the mirror holds other data"
    task = settings["task"]
    divided = partition.make(
        prepared, task["partition"], task["n_clients"], content["cell"]["seed"]
    )
    divided.save(tmp_path / "partition.npz")
    assert divided.digest == content["partition"]
    if dataset == "mnist":
        # A round knows nothing of how many follow.
        task["rounds"] = MNIST_ROUNDS
    cells.train(
        content["cell"],
        settings,
        tmp_path / dataset / "meta.json",
        tmp_path / "partition.npz",
        content["provenance"]["device"],
        60,
        tmp_path / "kept.json",
        tmp_path / "record.json",
    )
    again = json.loads((tmp_path / "record.json").read_text())
    expected = content["rounds"][: task["rounds"]]
    assert [e["clients"] for e in again["rounds"]] == [e["clients"] for e in expected]
    if again["provenance"]["device_name"] == content["provenance"]["device_name"]:
        assert again["rounds"] == expected
    else:
        accuracies = (np.array([e["accuracy"] for e in of]) for of in (again["rounds"], expected))
        np.testing.assert_allclose(*accuracies, atol=ELSEWHERE[dataset])
    for key in ("clients", "seeds", "data"):
        assert again[key] == content[key]
