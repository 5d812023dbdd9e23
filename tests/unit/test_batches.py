"""Batches of records: what goes in comes out, once, and nothing damaged passes for a record."""

import json
import lzma
import shutil

import pytest
from test_record import CELL, META, ORIGIN, SETTINGS, TRAINED

from arfl import batches, record
from arfl.cli import main
from arfl.errors import UserError


def content_of(name="a", accuracy=0.5):
    cell = CELL | {"id": f"{name}/none/attackers-0/fedavg/seed-3", "task": name}
    rounds = [entry | {"accuracy": accuracy} for entry in TRAINED["rounds"]]
    data = record.describe_data(META, "mnist")
    return record.make(cell, SETTINGS, data, "cd" * 32, TRAINED | {"rounds": rounds}, ORIGIN)


@pytest.fixture
def run(tmp_path):
    """A run with two records; its folder."""
    folder = tmp_path / "results" / "quick"
    for name in ("b", "a"):
        put(folder, content_of(name))
    return folder


def put(run, content):
    record.write(run / "cells" / f"{content['cell']['id']}.json", content)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_packed_and_restored_is_the_same_byte_for_byte(run, tmp_path):
    made = batches.pack(run / "cells", tmp_path / "records")
    assert made == tmp_path / "records" / "001.jsonl.xz"
    # By the standard library alone: one record a line, in the order of the ids.
    lines = lzma.decompress(made.read_bytes()).decode().splitlines()
    assert [json.loads(line) for line in lines] == [content_of("a"), content_of("b")]
    new = tmp_path / "new"
    assert batches.restore(tmp_path / "records", new) == 2
    assert files(new / "kept") == files(run / "cells")
    assert not (new / "cells").exists()
    assert batches.restore(tmp_path / "records", new, cells=True) == 2
    assert files(new / "cells") == files(run / "cells")


def test_the_same_records_make_the_same_file(run, tmp_path):
    other = tmp_path / "other"
    for name in ("a", "b"):
        put(other, content_of(name))
    one = batches.pack(run / "cells", tmp_path / "one").read_bytes()
    assert one == batches.pack(other / "cells", tmp_path / "two").read_bytes()


def test_a_new_batch_holds_only_what_is_new_and_the_later_record_counts(run, tmp_path):
    out = tmp_path / "records"
    first = batches.pack(run / "cells", out)
    before = first.read_bytes()
    assert batches.pack(run / "cells", out) is None
    put(run, content_of("c"))
    put(run, content_of("a", accuracy=0.75))
    second = batches.pack(run / "cells", out)
    assert second.name == "002.jsonl.xz"
    assert len(lzma.decompress(second.read_bytes()).splitlines()) == 2
    assert first.read_bytes() == before
    batches.restore(out, tmp_path / "new", cells=True)
    assert files(tmp_path / "new" / "cells") == files(run / "cells")


def test_batches_count_by_number_not_by_name(tmp_path):
    for number in ("1000", "999"):
        (tmp_path / f"{number}.jsonl.xz").touch()
    assert [path.name[:-9] for path in batches.paths(tmp_path)] == ["999", "1000"]


def test_a_whole_record_in_place_stays_and_a_broken_one_is_replaced(run, tmp_path):
    batches.pack(run / "cells", tmp_path / "records")
    shutil.copytree(run / "cells", run / "kept")
    a, b = (run / "kept" / f"{name}/none/attackers-0/fedavg/seed-3.json" for name in "ab")
    record.write(a, content_of("a", accuracy=0.25))
    b.write_text(b.read_text().replace('"accuracy": 0.5', '"accuracy": 0.6', 1))
    assert batches.restore(tmp_path / "records", run) == 1
    assert record.read(a) == content_of("a", accuracy=0.25)
    assert record.read(b) == content_of("b")


def test_broken_and_misplaced_records_are_named_and_left_out(run, tmp_path, caplog):
    cells = run / "cells"
    (cells / "b/none/attackers-0/fedavg/seed-3.json").write_text("{}")
    shutil.copy(cells / "a/none/attackers-0/fedavg/seed-3.json", cells / "other.json")
    made = batches.pack(cells, tmp_path / "records")
    assert len(lzma.decompress(made.read_bytes()).splitlines()) == 1
    assert "b/none/attackers-0/fedavg/seed-3.json: the record" in caplog.text
    assert "other.json holds the record of a/none" in caplog.text


def pack_lines(folder, *contents):
    folder.mkdir()
    text = "".join(json.dumps(content) + "\n" for content in contents)
    (folder / "001.jsonl.xz").write_bytes(lzma.compress(text.encode()))


def test_an_edited_or_forged_line_is_refused(tmp_path):
    edited = content_of()
    edited["rounds"][1]["accuracy"] = 1.0
    pack_lines(tmp_path / "edited", content_of("b"), edited)
    with pytest.raises(record.BrokenRecordError, match=r"001\.jsonl\.xz, line 2: .*digest"):
        batches.read(tmp_path / "edited")
    forged = content_of() | {"cell": CELL | {"id": "../../../../seed-3"}}
    pack_lines(tmp_path / "forged", forged | {"digest": record.digest(forged)})
    with pytest.raises(record.BrokenRecordError, match="is no id of a cell"):
        batches.restore(tmp_path / "forged", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"x" + b, lambda b: b"plain\n"])
def test_a_damaged_batch_ends_in_one_message(run, tmp_path, damage, capsys):
    made = batches.pack(run / "cells", tmp_path / "records")
    made.write_bytes(damage(made.read_bytes()))
    arguments = ["--batches", str(made.parent), "--run-folder", str(tmp_path / "new")]
    assert main(["restore", *arguments]) == 2
    assert f"{made} is damaged" in capsys.readouterr().err


def test_what_holds_no_batch_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no records"):
        batches.restore(tmp_path, tmp_path / "new")
    (tmp_path / "old.jsonl.xz").touch()
    with pytest.raises(UserError, match="its name is not a number"):
        batches.paths(tmp_path)


def test_the_verbs_pack_and_restore(run, tmp_path):
    out = str(tmp_path / "records")
    assert main(["pack", "--cells", str(run / "cells"), "--out", out]) == 0
    new = tmp_path / "new"
    assert main(["restore", "--batches", out, "--run-folder", str(new), "--cells"]) == 0
    assert files(new / "cells") == files(new / "kept") == files(run / "cells")
