"""Records packed for keeping: ``<number>.jsonl.xz``, a record in each line, a few files a run.

Packing again adds a batch of what is new and leaves earlier ones alone, so that a repository grows
by what was trained and not by rewritten archives. A record comes out as it went in, byte for byte;
where two batches hold the same cell, the later one counts.
"""

import json
import logging
import lzma
import os
import re
from collections.abc import Iterator
from pathlib import Path

from arfl import record
from arfl.errors import UserError
from arfl.files import atomic_path, write_text

SUFFIX = ".jsonl.xz"
# A cell's id becomes a path: no part of it may lead out of the folder.
_ID = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/){4}seed-\d+")


def paths(folder: str | os.PathLike) -> list[Path]:
    """The batches of a folder, oldest first."""
    numbered = [(path.name.removesuffix(SUFFIX), path) for path in Path(folder).glob(f"*{SUFFIX}")]
    return [path for number, path in sorted(numbered, key=_number)]


def _number(named: tuple[str, Path]) -> int:
    number, path = named
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise UserError(f"{path} is no batch: its name is not a number; move it elsewhere")
    return int(number)


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
    """Each line of a batch with the record in it."""
    try:
        with lzma.open(path, "rt", encoding="utf-8", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                yield line, _record(line, f"{path}, line {number}")
    # A file cut short ends in EOFError.
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again") from None


def _record(line: str, where: str) -> dict:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise record.BrokenRecordError(f"{where}: not valid JSON ({error})") from None
    record.check(content, where)
    if not _ID.fullmatch(content["cell"]["id"]):
        raise record.BrokenRecordError(f"{where}: {content['cell']['id']!r} is no id of a cell")
    return content


def read(folder: str | os.PathLike) -> dict[str, str]:
    """Cell id -> its record as one line of JSON, from all batches of a folder.

    Raises:
        UserError: if there is no batch, or one is damaged.
        BrokenRecordError: if a line is no whole, unchanged record.
    """
    found: dict[str, str] = {}
    for path in paths(folder):
        found |= {content["cell"]["id"]: line for line, content in _lines(path)}
    if not found:
        raise UserError(f"{folder} holds no records ({SUFFIX}); run `pack` or name another folder")
    return found


def pack(cells: str | os.PathLike, out: str | os.PathLike) -> Path | None:
    """Put the records of a run that no batch holds yet into a new batch.

    The same records make the same file. Records that are broken, or lie where another cell's
    belongs, are named and left out.

    Args:
        cells: folder of a run's records, ``results/<run>/cells`` or ``results/<run>/kept``.
        out: folder of the run's batches.

    Returns:
        The new batch; None if there is nothing new.

    Raises:
        UserError: if an earlier batch is damaged.
    """
    cells = Path(cells)
    earlier = paths(out)
    known = {content["digest"] for path in earlier for _, content in _lines(path)}
    lines = {}
    for path in cells.rglob("*.json"):
        try:
            content = record.read(path)
            name = content["cell"]["id"]
            if path != cells / f"{name}.json" or not _ID.fullmatch(name):
                raise record.BrokenRecordError(f"{path} holds the record of {name}")
        except record.BrokenRecordError as error:
            logging.warning("left out: %s", error)
            continue
        if content["digest"] not in known:
            lines[name] = json.dumps(content, allow_nan=False) + "\n"
    if not lines:
        logging.info("%s holds no record that is not in %s", cells, out)
        return None
    last = int(earlier[-1].name.removesuffix(SUFFIX)) if earlier else 0
    made = Path(out, f"{last + 1:03d}{SUFFIX}")
    with atomic_path(made) as temporary, lzma.open(temporary, "wb", preset=9) as stream:
        for name in sorted(lines):
            stream.write(lines[name].encode())
    logging.info("%s: %d records, %d bytes", made, len(lines), made.stat().st_size)
    return made


def restore(folder: str | os.PathLike, run_folder: str | os.PathLike, cells: bool = False) -> int:
    """Write packed records where `train` takes them up, so that nothing is trained twice.

    A record that lies there already and is whole stays: it may be newer.

    Args:
        folder: the run's batches.
        run_folder: ``results/<run>``; records go to ``kept/<cell id>.json`` in it.
        cells: also to ``cells/<cell id>.json``, for tables and figures without training.

    Returns:
        How many files were written.

    Raises:
        UserError: if there is no batch, or one is damaged.
    """
    places = ("kept", "cells") if cells else ("kept",)
    written = 0
    for name, line in read(folder).items():
        for place in places:
            path = Path(run_folder, place, f"{name}.json")
            if not _is_whole(path):
                write_text(path, line)
                written += 1
    logging.info("%s: %d files written", run_folder, written)
    return written


def _is_whole(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        record.read(path)
    except record.BrokenRecordError:
        return False
    return True
