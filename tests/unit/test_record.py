"""A cell's record: complete, finite, and written whole or not at all."""

import copy
import importlib.metadata
import json
import math
import platform
import sys

import pytest

from arfl import record, seeds
from arfl.errors import UserError

CELL = {"id": "t/none/attackers-0/fedavg/seed-3", "task": "t", "seed": 3}
TRAINED = {
    "clients": {"n": 2, "attackers": []},
    "rounds": [{"round": 1, "accuracy": 0.5, "attack_success_rate": None, "weights": [0.5, 0.5]}],
    "seconds": {"training": 0.1, "total": 0.1},
}
META = {
    "name": "digits",
    "kind": "stand-in",
    "note": "a note",
    "checksum": "abc",
    "n_train": 3,
    "n_test": 2,
    "n_classes": 2,
    "class_names": ["a", "b"],
    "arrays": {},
    "sources": [],
}


def test_a_record_holds_what_it_was_given_and_its_seeds(tmp_path):
    path = tmp_path / "cells" / "seed-3.json"
    data, origin = record.describe_data(META, "mnist"), {"fingerprint": "f"}
    record.write(path, CELL, {"scale": "quick"}, data, TRAINED, origin)
    content = json.loads(path.read_text())
    assert content == {
        "format": 1,
        "cell": CELL,
        "settings": {"scale": "quick"},
        "data": data,
        **TRAINED,
        "seeds": {role: seeds.integer(3, role) for role in seeds.ROLES},
        "provenance": origin,
    }


def test_the_data_says_what_it_is_and_what_it_stands_for():
    assert record.describe_data(META, "mnist") == {
        "name": "digits",
        "stands_for": "mnist",
        "kind": "stand-in",
        "note": "a note",
        "checksum": "abc",
        "n_train": 3,
        "n_test": 2,
        "n_classes": 2,
        "class_names": ["a", "b"],
    }


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("existed", [True, False])
def test_numbers_that_are_not_finite_are_refused_and_nothing_is_left(tmp_path, number, existed):
    path = tmp_path / "seed-3.json"
    if existed:
        path.write_text("old")
    trained = copy.deepcopy(TRAINED)
    trained["rounds"][0]["weights"][1] = number
    with pytest.raises(UserError, match=r"seed-3\.json: a metric is not a finite number"):
        record.write(path, CELL, {}, {}, trained, {})
    assert [file.name for file in tmp_path.iterdir()] == (["seed-3.json"] if existed else [])
    assert not existed or path.read_text() == "old"


def test_provenance_says_where_and_with_what(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["arfl", "train", "--cell", '{"id": "a b"}'])
    origin = record.provenance("cpu", None, 2, "0123456789ab")
    assert origin["fingerprint"] == "0123456789ab"
    assert origin["python"] == platform.python_version()
    assert origin["libraries"]["torch"] == importlib.metadata.version("torch")
    assert origin["threads"] == 2
    assert origin["device"] == "cpu"
    assert origin["device_name"]
    assert origin["command"] == """python -m arfl train --cell '{"id": "a b"}'"""
    assert record.provenance("cuda", "A GPU", 1, "")["device_name"] == "A GPU"
    assert json.loads(json.dumps(origin)) == origin


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    origin = record.provenance("cpu", None, 1, "")
    assert origin["commit"] is None
    assert origin["dirty"] is None


def test_outside_a_checkout_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record.provenance("cpu", None, 1, "")["commit"] is None
