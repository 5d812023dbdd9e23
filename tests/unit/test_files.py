"""Files are whole or not there, and what the disk refuses is one message."""

import errno
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arfl import files
from arfl.errors import UserError


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_the_block_succeeds(tmp_path):
    target = tmp_path / "new" / "folder" / "a.txt"
    with files.atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.parent.parent == target.parent  # so that renaming crosses no disk
    assert target.read_text() == "whole"
    assert listing(target.parent) == ["a.txt"]


class Interrupted(BaseException):
    """Like Ctrl-C: not an Exception."""


@pytest.mark.parametrize("error", [RuntimeError, Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("existed", [True, False])
def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path, error, existed):
    target = tmp_path / "a.txt"
    if existed:
        target.write_text("old")

    def half():
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        half()
    assert listing(tmp_path) == (["a.txt"] if existed else [])
    assert not existed or target.read_text() == "old"


def test_a_folder_replaces_a_folder(tmp_path):
    target = tmp_path / "prepared"
    for content in ("first", "second"):
        with files.atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert listing(tmp_path) == ["prepared"]
    assert listing(target) == ["second"]


def test_a_failing_block_leaves_the_old_folder(tmp_path):
    target = tmp_path / "prepared"
    target.mkdir()
    (target / "old").touch()

    def half():
        with files.atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert listing(tmp_path) == ["prepared"]
    assert listing(target) == ["old"]


def test_new_files_have_the_permissions_of_any_new_file(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    files.write_text(tmp_path / "written", "text")
    assert (tmp_path / "written").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "read-only; choose another folder"),
        (errno.EACCES, "permission denied"),
    ],
)
@pytest.mark.parametrize("place", ["write", "rename", "folder"])
def test_what_the_disk_refuses_is_one_message(tmp_path, monkeypatch, number, remedy, place):
    target = tmp_path / "sub" / "a.txt"
    target.parent.mkdir()
    target.write_text("old")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    if place == "rename":
        monkeypatch.setattr(os, "replace", refuse)
    if place == "write":
        monkeypatch.setattr(Path, "write_text", refuse)
    if place == "folder":
        monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match=remedy) as raised:
        files.write_text(target, "new")
    monkeypatch.undo()
    assert str(target) in str(raised.value)
    assert target.read_text() == "old"
    assert listing(target.parent) == ["a.txt"]


def test_a_full_disk_for_real(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")

    def write():
        with files.disk_errors(tmp_path), open("/dev/full", "w") as stream:
            stream.write("x")

    with pytest.raises(UserError, match="the disk is full"):
        write()


def test_other_errors_of_the_system_are_not_disguised(tmp_path):
    with pytest.raises(FileNotFoundError), files.disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(ValueError, match="mine"), files.disk_errors(tmp_path):
        raise ValueError("mine")


# JSON


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"a": [1, 2.5, None, True], "Größe": {"ε": "−"}, "tiny": 5e-324}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    assert json.loads((tmp_path / "a.json").read_bytes()) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_no_numbers_that_are_not_finite(tmp_path, number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"x": [number]})
    assert listing(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"not json", b'{"a": 1}}'])
def test_broken_json_is_one_message(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is not valid JSON .*; delete it and run again"):
        files.read_json(tmp_path / "a.json")


def test_missing_json_is_one_message(tmp_path):
    with pytest.raises(UserError, match=r"a\.json does not exist; run the step that makes it"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_checksums_are_those_of_the_content(tmp_path, algorithm):
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert files.checksum(tmp_path / "a", algorithm) == hashlib.new(algorithm, content).hexdigest()


def test_a_block_for_one_process_at_a_time(tmp_path):
    path = tmp_path / "new" / "one.lock"
    waiting = (
        "import sys; from arfl.files import alone\n"
        "with alone(sys.argv[1]):\n    print('in', flush=True)\n"
    )
    with files.alone(path):
        assert path.exists()
        second = subprocess.Popen([sys.executable, "-c", waiting, path], stdout=subprocess.PIPE)
        third = subprocess.Popen([sys.executable, "-c", waiting, path], stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            second.communicate(timeout=0.5)
    for process in (second, third):
        assert process.communicate(timeout=30)[0] == b"in\n"
    assert not path.exists()


def test_a_listing_follows_names_sizes_and_times(tmp_path):
    folder = tmp_path / "mirror"
    assert files.listing(folder) == ""
    folder.mkdir()
    assert files.listing(folder) == ""
    (folder / "a").write_text("1")
    seen = {files.listing(folder)}
    assert files.listing(folder) in seen
    (folder / "a").write_text("12")
    seen.add(files.listing(folder))
    os.utime(folder / "a", (1, 1))
    seen.add(files.listing(folder))
    (folder / "a").rename(folder / "b")
    seen.add(files.listing(folder))
    assert len(seen) == 4
