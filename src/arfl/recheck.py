"""Records that a rerun would take for finished although they are no measurement of their cell.

Snakemake looks at names and times, never into a file: a record that was cut, edited or put in
place of another stays as it is for ever. Before anything is planned such records are moved aside,
so that their cells are trained again, or taken up from the copy that `arfl.cell` keeps; likewise
collected files that were damaged are collected again.
"""

import json
import os
import shutil
import stat
from pathlib import Path

from arfl import record
from arfl.errors import UserError
from arfl.files import checksum, disk_errors, write_json
from arfl.fingerprint import of_cell
from arfl.grid import Cell, Grid


def move_aside(grid: Grid, seen: Path, look_only: bool = False) -> dict[Path, str]:
    """Move each record of the run that is none to ``results/<run>/aside``.

    A record with the bytes of its kept copy was written by a training: it need only be a whole
    record of its cell, since other settings, data or code than now are Snakemake's to notice. Any
    other must be one that a training would leave now. What is no file in place of a kept copy is
    moved too, since no training could write there.

    Args:
        grid: the run and its configuration, whose folder is the working directory.
        seen: a file that remembers size and time of the records that were found whole, so that
            they are read once and not at every start; it may be missing or broken.
        look_only: name them, and move nothing.

    Returns:
        For each such record what is wrong with it.
    """
    folder = Path("results", grid.run)
    known, found, wrong = _remembered(seen), {}, {}
    for path in sorted((folder / "cells").rglob("seed-*.json")):
        stamp = _stamp(path)
        if stamp is not None and known.get(str(path)) == stamp:
            found[str(path)] = stamp
            continue
        name = str(path.relative_to(folder / "cells").with_suffix(""))
        try:
            cell = grid.cell(name)
        except UserError:
            continue  # of another configuration: nobody reads it
        fault = _fault(path, Path(grid.record_path(cell, "kept")), cell, grid)
        if fault is None:
            found[str(path)] = stamp
            continue
        wrong[path] = fault
        if not look_only:
            _move(path, folder / "aside" / f"{name}.json")
    for path in sorted((folder / "kept").rglob("seed-*.json")):
        if _stamp(path) is None:
            wrong[path] = record.NO_FILE
            if not look_only:
                _move(path, folder / "aside" / path.relative_to(folder))
    if found != known and not look_only:
        write_json(seen, found, indent=None)
    return wrong


def forget_damaged(grid: Grid, look_only: bool = False) -> list[Path]:
    """Remove what was collected or planned and has been damaged since, so that it is made again.

    Of a target whose files are not those that its manifest promises the manifest goes.

    Args:
        grid: as in `move_aside`.
        look_only: name them, and remove nothing.

    Returns:
        The files that are damaged.
    """
    folder, wrong = Path("results", grid.run), []
    for made in (*folder.glob("**/collected.json"), *folder.glob("**/plan.json")):
        check = _damaged_plan if made.name == "plan.json" else _damaged_file
        damaged = check(made)
        if damaged is not None:
            wrong.append(damaged)
            if not look_only:
                _remove(made)
    return wrong


def _damaged_plan(plan: Path) -> Path | None:
    try:
        content = json.loads(plan.read_text(encoding="utf-8"))
        return None if {"targets", "settings"} <= content.keys() else plan
    except (OSError, ValueError, RecursionError, AttributeError):
        return plan


def _damaged_file(manifest: Path) -> Path | None:
    """The first collected file that is not what the manifest says, or the manifest itself."""
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        promised = {manifest.with_name(name): file["sha256"] for name, file in files.items()}
    except (OSError, ValueError, RecursionError, AttributeError, LookupError, TypeError):
        return manifest
    for path, digest in promised.items():
        try:
            if checksum(path) != digest:
                return path
        except OSError:
            return path
    return None


def _remove(path: Path) -> None:
    with disk_errors(path):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _stamp(path: Path) -> list[int] | None:
    """What changes with a file's content; None if it is no file."""
    try:
        state = path.stat()
    except OSError:  # a link to nothing or to itself
        return None
    if not stat.S_ISREG(state.st_mode):
        return None
    # The last cannot be set by whoever changes a file and sets its time back.
    return [state.st_size, state.st_mtime_ns, state.st_ino, state.st_ctime_ns]


def _remembered(seen: Path) -> dict:
    try:
        known = json.loads(seen.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _move(path: Path, aside: Path) -> None:
    number = 0
    while (free := aside.with_suffix(f".{number}.json" if number else ".json")).exists():
        number += 1
    with disk_errors(free):
        free.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, free)


def _fault(path: Path, kept: Path, cell: Cell, grid: Grid) -> str | None:
    """What is wrong with the record of a cell, None if nothing is."""
    try:
        content = record.read(path)
    except record.BrokenRecordError as error:
        # Without the file's name and the advice to delete it: it is named and moved.
        return str(error).removeprefix(str(path)).lstrip(": ").partition("; delete")[0]
    if content["cell"] != cell.describe():
        return f"it is the record of {content['cell']['id']}"
    written, settings = _are_equal(path, kept), grid.settings(cell)
    if not written and content["settings"] != settings:
        return "it is of other settings"
    attack, origin = settings["attack"], content["provenance"]
    rules = settings["task"]["model"], attack and attack["rule"], settings["aggregator"]["rule"]
    if not written and origin["fingerprint"] != of_cell(*rules, origin["device"]):
        return f"it is of other code ({origin['fingerprint']})"
    meta = Path("data/prepared", settings["task"]["data"], "meta.json")
    try:
        described = record.describe_data(
            json.loads(meta.read_text(encoding="utf-8")), settings["task"]["dataset"]
        )
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None  # nothing to compare with: the data are not here, or a training will say so
    if written and content["data"]["checksum"] != described["checksum"]:
        return None
    same = record.is_same_data if written else dict.__eq__
    return None if same(content["data"], described) else "it is of other data"


def _are_equal(path: Path, kept: Path) -> bool:
    try:
        return kept.is_file() and path.read_bytes() == kept.read_bytes()
    except OSError:
        return False
