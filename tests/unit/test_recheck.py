"""Records that are none are named and moved aside before a run is planned."""

import json
import os
from pathlib import Path

import pytest
import yaml

from arfl import record
from arfl.cell import code_of
from arfl.files import checksum, write_json
from arfl.grid import Grid
from arfl.recheck import forget_damaged, move_aside

ROOT = Path(__file__).parents[2]
GRID = Grid(yaml.safe_load((ROOT / "config.yaml").read_text()))
CELL = GRID.cell("mnist_shards/none/attackers-0/fedavg/seed-1")
OTHER = GRID.cell("mnist_shards/none/attackers-0/median/seed-1")
PATH, KEPT = (Path(GRID.record_path(CELL, place)) for place in ("cells", "kept"))
SEEN = Path("seen.json")
DATA = {
    "name": "digits",
    "kind": "stand-in",
    "note": "a note",
    "checksum": "ab" * 32,
    "n_train": 4,
    "n_test": 2,
    "n_classes": 2,
    "class_names": ["a", "b"],
}

BACKENDS = {"training": "PyTorch", "aggregation": "numba"}
ORIGIN = record.provenance("cpu", None, 1, "0123456789ab", BACKENDS, 0)


def made(cell=CELL, code=None, **settings):
    settings = GRID.settings(cell) | settings
    rounds = [
        {
            "round": number,
            "accuracy": 0.5,
            "attack_success_rate": None,
            "attack_success_rate_excl_target": None,
            "clients": [0, 1],
            "weights": None,
            "excluded": [],
        }
        for number in range(1, settings["task"]["rounds"] + 1)
    ]
    trained = {
        "diverged": None,
        "clients": {"n": 2, "attackers": [], "class_counts": [[1, 1], [1, 1]]},
        "rounds": rounds,
        "seconds": {"training": 0.1, "aggregation": 0.1, "evaluation": 0.1, "total": 0.3},
    }
    origin = ORIGIN | {"fingerprint": code or code_of(settings, "cpu")}
    data = record.describe_data(DATA, "mnist")
    return record.make(cell.describe(), settings, data, "cd" * 32, trained, origin)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A project's folder with two whole records and the description of their data."""
    monkeypatch.chdir(tmp_path)
    for cell in (CELL, OTHER):
        record.write(GRID.record_path(cell), made(cell))
    Path("data/prepared/digits").mkdir(parents=True)
    Path("data/prepared/digits/meta.json").write_text(json.dumps(DATA))
    return tmp_path


def put(content, path=PATH):
    """Write what may be no record, with a digest that fits."""
    content = content | {"digest": record.digest(content)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def files():
    return {str(path) for path in Path("results").rglob("*") if path.is_file()}


def test_whole_records_stay_and_are_read_once(monkeypatch):
    before = files()
    assert move_aside(GRID, SEEN) == {}
    assert files() == before
    monkeypatch.setattr(record, "read", lambda path: pytest.fail(f"read again: {path}"))
    assert move_aside(GRID, SEEN) == {}


def forged_time(content):
    content["seconds"]["training"] = -1.0


def forged_kind(content):
    content["data"]["kind"] = "complete"


def twice_the_same_round(content):
    content["rounds"][1] = content["rounds"][0]


@pytest.mark.parametrize(
    ("forge", "fault"),
    [
        (forged_time, "seconds.training"),
        (forged_kind, "other data"),
        (twice_the_same_round, "its rounds are not 1 to 12"),
        (lambda content: content.update(made(OTHER)), f"it is the record of {OTHER.id}"),
        (lambda content: content.update(made(scale="paper")), "other settings"),
        (lambda content: content.update(made(code="0123456789ab")), "other code (0123456789ab)"),
    ],
)
def test_forged_records_with_a_digest_that_fits_are_named_and_moved(forge, fault):
    content = made()
    forge(content)
    put(content)
    (found,) = move_aside(GRID, SEEN).items()
    assert found[0] == PATH
    assert fault in found[1]
    assert not PATH.exists()
    assert Path(f"results/quick/aside/{CELL.id}.json").exists()
    assert Path(GRID.record_path(OTHER)).exists()


@pytest.mark.parametrize(
    ("forge", "fault"),
    [
        (forged_time, "seconds.training"),
        (forged_kind, "other data"),
        (twice_the_same_round, "its rounds are not 1 to 12"),
        (lambda content: content["rounds"][0].update(accuracy=7), "rounds[0].accuracy"),
        (lambda content: content["clients"].update(class_counts=[]), "class counts"),
    ],
)
def test_records_forged_with_their_kept_copies_are_named_and_moved(forge, fault):
    content = made()
    forge(content)
    for path in (PATH, KEPT):
        put(content, path)
    assert fault in move_aside(GRID, SEEN)[PATH]
    assert not PATH.exists()


def test_a_note_in_other_words_is_no_other_data():
    content = made()
    content["data"]["note"] = "as it was worded when this was trained"
    for path in (PATH, KEPT):
        put(content, path)
    assert move_aside(GRID, SEEN) == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not valid JSON"),
        (json.dumps(made())[:-100], "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "the record"),
        (json.dumps(made()).replace('"accuracy": 0.5', '"accuracy": 0.9', 1), "digest"),
    ],
)
@pytest.mark.parametrize("also_kept", [True, False])
def test_cut_and_edited_records_are_moved(text, fault, also_kept):
    PATH.write_text(text)
    if also_kept:
        KEPT.parent.mkdir(parents=True)
        KEPT.write_text(text)
    assert fault in move_aside(GRID, SEEN)[PATH]
    assert not PATH.exists()


def test_a_folder_in_place_of_a_record_is_moved_and_the_next_one_beside_it():
    for name in ("seed-1.json", "seed-1.1.json"):
        PATH.unlink(missing_ok=True)
        PATH.mkdir()
        assert move_aside(GRID, SEEN) == {PATH: record.NO_FILE}
        assert (Path(f"results/quick/aside/{CELL.id}.json").parent / name).is_dir()


@pytest.mark.parametrize(
    "put_in_place",
    [os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path.name)],
    ids=["pipe", "link to nothing", "link to itself"],
)
def test_what_is_no_file_is_moved_from_both_places(put_in_place):
    KEPT.parent.mkdir(parents=True)
    PATH.unlink()
    for path in (PATH, KEPT):
        put_in_place(path)
    assert set(move_aside(GRID, SEEN)) == {PATH, KEPT}
    assert not os.path.lexists(PATH)
    assert not os.path.lexists(KEPT)
    assert move_aside(GRID, SEEN) == {}


def test_a_record_in_another_encoding_is_moved():
    # collect reads UTF-8 alone.
    for path in (PATH, KEPT):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made()), encoding="utf-16")
    assert "not valid JSON" in move_aside(GRID, SEEN)[PATH]


def test_a_dry_run_names_and_moves_nothing():
    PATH.write_text("")
    before = files()
    assert PATH in move_aside(GRID, SEEN, look_only=True)
    assert files() == before
    assert not SEEN.exists()


def test_a_record_as_it_was_trained_is_not_moved_for_another_configuration():
    # Snakemake knows what it was trained with and trains again what is asked for.
    put(made(scale="paper"))
    put(made(scale="paper"), KEPT)
    assert move_aside(GRID, SEEN) == {}


def test_a_changed_record_is_noticed_although_it_was_whole_before():
    assert move_aside(GRID, SEEN) == {}
    PATH.write_text(PATH.read_text().replace("0.5", "0.6", 1))
    assert list(move_aside(GRID, SEEN)) == [PATH]


def test_a_change_is_noticed_although_the_time_was_set_back():
    assert move_aside(GRID, SEEN) == {}
    before = PATH.stat()
    with PATH.open("r+") as stream:
        stream.write(PATH.read_text().replace("0.5", "0.6", 1))
    os.utime(PATH, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert list(move_aside(GRID, SEEN)) == [PATH]


def test_what_was_seen_may_be_broken():
    for text in ("", "[]", "[" * 100_000):
        SEEN.write_text(text)
        assert move_aside(GRID, SEEN) == {}


def collected(target="figure3"):
    """A manifest and its file, as collect leaves them."""
    folder = Path("results/quick/collected", target)
    folder.mkdir(parents=True)
    (folder / "cells.csv").write_text("a,b\n1,2\n")
    files = {"cells.csv": {"rows": 1, "sha256": checksum(folder / "cells.csv")}}
    write_json(folder / "collected.json", {"format": 2, "target": target, "files": files})
    return folder / "collected.json", folder / "cells.csv"


def test_what_was_collected_and_planned_stays_as_long_as_it_is_whole():
    collected()
    write_json("results/quick/plan.json", {"targets": {}, "settings": {}})
    before = files()
    assert forget_damaged(GRID) == []
    assert files() == before


@pytest.mark.parametrize("text", ["", "a,b\n", "a,b\n1,3\n", None])
def test_the_manifest_of_a_collected_file_that_was_damaged_is_removed(text):
    (manifest, table), (other, _) = collected(), collected("table4")
    table.unlink()
    if text is not None:
        table.write_text(text)
    assert forget_damaged(GRID, look_only=True) == [table]
    assert manifest.exists()
    assert forget_damaged(GRID) == [table]
    assert not manifest.exists()
    assert other.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 1}', "[" * 100_000, "9" * 5000])
def test_a_manifest_and_a_plan_that_are_none_are_removed(text):
    manifest, _ = collected()
    for path in (manifest, Path("results/quick/plan.json")):
        path.write_text(text)
        assert forget_damaged(GRID) == [path]
        assert not path.exists()
