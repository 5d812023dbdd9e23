"""Records that a rerun would take for finished although they are no measurement of their cell.

Snakemake looks at names and times, never into a file: a record that was cut, edited or put in
place of another stays as it is for ever. Before anything is planned such records are moved aside,
so that their cells are trained again, or taken up from the copy that `arfl.cell` keeps.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from arfl import record
from arfl.errors import UserError
from arfl.files import write_json
from arfl.fingerprint import of_cell
from arfl.grid import Cell, Grid


def move_aside(grid: Grid, seen: Path, look_only: bool = False) -> dict[Path, str]:
    """Move each record of the run that is none to ``results/<run>/aside``.

    A record with the bytes of its kept copy was written by a training: it need only be whole, since
    other settings, data or code than now are Snakemake's to notice. Any other must be one
    that a training would leave now.

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
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ino]
        if known.get(str(path)) == stamp:
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
    if found != known and not look_only:
        write_json(seen, found, indent=None)
    return wrong


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
    free.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, free)


def _fault(path: Path, kept: Path, cell: Cell, grid: Grid) -> str | None:
    """What is wrong with the record of a cell, None if nothing is."""
    try:
        if path.is_file() and kept.is_file() and path.read_bytes() == kept.read_bytes():
            return _fault_of_a_written_one(path, cell)
        content = record.read(path)
    except record.BrokenRecordError as error:
        # Without the file's name and the advice to delete it: it is named and moved.
        return str(error).removeprefix(str(path)).lstrip(": ").partition("; delete")[0]
    if content["cell"] != cell.describe():
        return f"it is the record of {content['cell']['id']}"
    settings = grid.settings(cell)
    if content["settings"] != settings:
        return "it is of other settings"
    attack, origin = settings["attack"], content["provenance"]
    rules = settings["task"]["model"], attack and attack["rule"], settings["aggregator"]["rule"]
    if origin["fingerprint"] != of_cell(*rules, origin["device"]):
        return f"it is of other code ({origin['fingerprint']})"
    meta = Path("data/prepared", settings["task"]["data"], "meta.json")
    try:
        described = record.describe_data(
            json.loads(meta.read_text(encoding="utf-8")), settings["task"]["dataset"]
        )
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None  # nothing to compare with: the data are not here, or a training will say so
    return None if content["data"] == described else "it is of other data"


def _fault_of_a_written_one(path: Path, cell: Cell) -> str | None:
    # A training checks what it writes; what can have changed since shows in the digest.
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, Mapping) or record.digest(content) != content.get("digest"):
            return "the content does not match its digest"
    except (ValueError, RecursionError, UserError) as error:
        return f"not valid JSON ({error})"
    return None if content.get("cell") == cell.describe() else "it is the record of another cell"
