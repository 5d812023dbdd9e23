"""A cell's record: complete, finite, and written whole or not at all."""

import copy
import functools
import importlib.metadata
import json
import math
import operator
import platform
import sys
from pathlib import Path

import jsonschema
import pytest

from arfl import record, seeds
from arfl.errors import UserError
from arfl.grid import Cell

CELL = Cell("t", "none", 0, "fedavg", 3).describe()
SETTINGS = {
    "scale": "quick",
    "protocol": "paper",
    "task": {"data": "digits", "dataset": "mnist", "rounds": 2},
    "attack": None,
    "aggregator": {"rule": "fedavg", "options": {}},
}
TRAINED = {
    "diverged": None,
    "clients": {"n": 2, "attackers": [], "class_counts": [[1, 0], [1, 1]]},
    "rounds": [
        {
            "round": number,
            "accuracy": 0.5,
            "attack_success_rate": None,
            "attack_success_rate_excl_target": None,
            "clients": [0, 1],
            "weights": [0.5, 0.5],
            "excluded": [],
        }
        for number in (1, 2)
    ],
    "seconds": {"training": 0.1, "aggregation": 0.1, "evaluation": 0.1, "total": 0.3},
}
META = {
    "name": "digits",
    "kind": "stand-in",
    "note": "a note",
    "checksum": "ab" * 32,
    "n_train": 3,
    "n_test": 2,
    "n_classes": 2,
    "class_names": ["a", "b"],
    "arrays": {},
    "sources": [],
}
LEFT_OUT, MORE = object(), object()
BACKENDS = {"training": "PyTorch", "aggregation": "numba"}
ORIGIN = record.provenance("cpu", None, 1, "0123456789ab", BACKENDS, 0)


def made(**trained):
    data = record.describe_data(META, "mnist")
    return record.make(CELL, SETTINGS, data, "cd" * 32, TRAINED | trained, ORIGIN)


def changed(change):
    """A record with a change and the digest of what it then holds."""
    content = copy.deepcopy(made())
    change(content)
    return content | {"digest": record.digest(content)}


def test_a_record_holds_what_it_was_given_and_its_seeds(tmp_path):
    path = tmp_path / "cells" / "seed-3.json"
    record.write(path, made())
    content = json.loads(path.read_text())
    assert record.read(path) == content
    assert len(content.pop("digest")) == 64
    assert content == {
        "format": 2,
        "cell": CELL,
        "settings": SETTINGS,
        "data": record.describe_data(META, "mnist"),
        "partition": "cd" * 32,
        **TRAINED,
        "seeds": {role: seeds.integer(3, role) for role in seeds.ROLES},
        "provenance": ORIGIN,
    }


def test_the_data_says_what_it_is_and_what_it_stands_for():
    assert record.describe_data(META, "mnist") == {
        "name": "digits",
        "stands_for": "mnist",
        "kind": "stand-in",
        "note": "a note",
        "checksum": "ab" * 32,
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
    content = copy.deepcopy(made())
    content["rounds"][0]["weights"][1] = number
    with pytest.raises(UserError, match=r"seed-3\.json: a metric is not a finite number"):
        record.write(path, content)
    with pytest.raises(UserError, match="a metric is not a finite number"):
        made(rounds=content["rounds"])
    assert [file.name for file in tmp_path.iterdir()] == (["seed-3.json"] if existed else [])
    assert not existed or path.read_text() == "old"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.update(format=1), "format 1 instead of 2"),
        (lambda r: r.pop("seconds"), "the record lacks seconds$"),
        (lambda r: r.update(more=1), r"the record must not contain \{'more'\} properties$"),
        (lambda r: r["rounds"].pop(), "its rounds are not 1 to 2"),
        (lambda r: r["rounds"].reverse(), "its rounds are not 1 to 2"),
        (lambda r: r.update(diverged={"round": 2, "cause": "c"}), "its rounds are not 1 to 1"),
        (lambda r: r["rounds"][1].update(weights=[1.0]), "round 2 has not one weight"),
        (lambda r: r["clients"].update(n=3), "not one row of class counts"),
        (lambda r: r["clients"].update(attackers=[1]), "its attackers are not as many"),
        (lambda r: r["rounds"][0].update(accuracy=1.01), r"rounds\[0\]\.accuracy .* 1, not 1\.01$"),
    ],
)
def test_what_is_no_record_is_refused_with_a_reason(change, reason):
    with pytest.raises(record.BrokenRecordError, match=f"here: .*{reason}"):
        record.check(changed(change), "here")


def places(value, path=()):
    """Every place of nested JSON, as the keys that lead there."""
    yield path
    inner = ()
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        yield from places(one, (*path, key))


def test_the_compiled_schema_refuses_what_jsonschema_refuses():
    schema = json.loads(Path(record.__file__).with_name("record.schema.json").read_text())
    reference = jsonschema.Draft202012Validator(schema)
    check = record._schema_check()
    assert check(made()) is None
    n_refused = 0
    for place in list(places(made()))[1:]:
        for value in (None, True, -1, 0, 1.0, 1.5, "", "ab" * 32, [], [1, 1], {}, LEFT_OUT, MORE):
            content = copy.deepcopy(made())
            around = functools.reduce(operator.getitem, place[:-1], content)
            if value is LEFT_OUT:
                del around[place[-1]]
            elif value is not MORE:
                around[place[-1]] = value
            elif isinstance(around[place[-1]], dict):
                around[place[-1]]["more"] = 1
            reason = check(content)
            assert (reason is None) == reference.is_valid(content), (place, value, reason)
            n_refused += reason is not None
    assert n_refused > 500


@pytest.mark.parametrize("ended", [1, 2])
def test_a_diverged_training_has_its_finished_rounds_only(ended):
    content = made(
        diverged={"round": ended, "cause": "a cause"}, rounds=TRAINED["rounds"][: ended - 1]
    )
    assert record.check(content, "here") == content


def test_a_changed_content_does_not_match_its_digest(tmp_path):
    path = tmp_path / "a.json"
    record.write(path, made())
    path.write_text(path.read_text().replace('"accuracy": 0.5', '"accuracy": 0.6', 1))
    with pytest.raises(record.BrokenRecordError, match="does not match its digest"):
        record.read(path)


@pytest.mark.parametrize("text", ["", "[1, 2", "null", "[]", "NaN", '"text"'])
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(record.BrokenRecordError, match=r"a\.json"):
        record.read(path)


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name in ("folder", "binary", "missing"):
        with pytest.raises(record.BrokenRecordError, match=rf"{name}\.json"):
            record.read(tmp_path / f"{name}.json")


def test_provenance_says_where_and_with_what(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["arfl", "train", "--cell", '{"id": "a b"}'])
    origin = record.provenance("cpu", None, 2, "0123456789ab", BACKENDS, 3)
    assert origin["fingerprint"] == "0123456789ab"
    assert origin["python"] == platform.python_version()
    assert origin["libraries"]["torch"] == importlib.metadata.version("torch")
    assert origin["threads"] == 2
    assert origin["device"] == "cpu"
    assert origin["device_name"]
    assert origin["backends"] == BACKENDS
    assert origin["resumed"] == 3
    assert origin["command"] == """python -m arfl train --cell '{"id": "a b"}'"""
    assert record.provenance("cuda", "A GPU", 1, "", BACKENDS, 0)["device_name"] == "A GPU"
    assert json.loads(json.dumps(origin)) == origin


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    origin = record.provenance("cpu", None, 1, "", BACKENDS, 0)
    assert origin["commit"] is None
    assert origin["dirty"] is None


def test_outside_a_checkout_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record.provenance("cpu", None, 1, "", BACKENDS, 0)["commit"] is None
