"""The collected files as pandas frames: written whole, and refused if cut or edited.

`write` leaves one CSV per frame and beside them ``collected.json``, which names each file with its
number of rows and its SHA-256. The CSV load with a plain ``pandas.read_csv``; `Collected` also
checks them and restores the types: lists and dictionaries are JSON, empty means not known.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arfl.errors import UserError
from arfl.files import atomic_path, read_json, write_json

RATES = ("accuracy", "attack_success_rate", "attack_success_rate_excl_target")
PHASES = ("training", "aggregation", "evaluation", "total")
MANIFEST = "collected.json"
DONE, DIVERGED, MISSING, BROKEN = "done", "diverged", "missing", "broken"

# Kinds: "text", "int" and "float" (empty is NaN), "bool", "json", and "value": number or text.
COLUMNS: dict[str, dict[str, str]] = {
    "cells": {
        "target": "text", "panel": "text", "x_name": "text", "x": "value", "dataset": "text",
        "cell_id": "text", "task": "text", "attack": "text", "n_attackers": "int",
        "aggregator": "text", "label": "text", "seed": "int", "changes": "json", "run": "text",
        "scale": "text", "protocol": "text", "record": "text", "state": "text", "reason": "text",
        "diverged": "text", "n_rounds": "int", **dict.fromkeys(RATES, "float"),
        "late_rounds": "int", **{f"{rate}_late": "float" for rate in RATES},
        "data_name": "text", "data_kind": "text", "data_note": "text", "data_checksum": "text",
        "n_train": "int", "n_test": "int", "n_clients": "int", "attackers": "json",
        "partition": "text", **{f"seconds_{phase}": "float" for phase in PHASES},
        "device": "text", "device_name": "text", "threads": "int", "backends": "json",
        "commit": "text", "dirty": "bool", "fingerprint": "text", "python": "text",
        "libraries": "json", "digest": "text", "settings": "json",
    },
    "rounds": {
        "cell_id": "text", "round": "int", **dict.fromkeys(RATES, "float"), "n_excluded": "int",
    },
    "weights": {
        "cell_id": "text", "round": "int", "client": "int", "attacker": "bool", "weight": "float",
    },
    "partitions": {
        "task": "text", "partition": "text", "seed": "int", "client": "int", "class_counts": "json",
    },
}  # fmt: skip


def write(manifest: str | Path, target: str, frames: Mapping[str, pd.DataFrame]) -> None:
    """Write the frames of a target and, last, their manifest."""
    folder = Path(manifest).parent
    files = {}
    for name, frame in frames.items():
        write_csv(folder / f"{name}.csv", frame)
        content = (folder / f"{name}.csv").read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        files[f"{name}.csv"] = {"rows": len(frame), "sha256": digest}
    write_json(manifest, {"format": 2, "target": target, "files": files})


def frame(name: str, rows: Iterable[Mapping]) -> pd.DataFrame:
    """A frame of one of the four kinds from dictionaries; what they leave out is empty."""
    return _typed(pd.DataFrame(list(rows), columns=list(COLUMNS[name]), dtype=object), name)


class Collected:
    """What `collect` wrote for one target; each frame is read and checked when first asked for.

    Args:
        manifest: the path of its ``collected.json``.

    Raises:
        UserError: if a file is missing, cut, edited or not what `collect` writes.
    """

    def __init__(self, manifest: str | Path):
        self._folder = Path(manifest).parent
        content = read_json(manifest)
        try:
            self.target, self._files = content["target"], dict(content["files"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{manifest} is not what collect writes; collect again") from None

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per row of the plan, done or not."""
        return self._read("cells")

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row per round of the cells that have a record."""
        return self._read("rounds")

    @cached_property
    def weights(self) -> pd.DataFrame:
        """One row per round (thinned) and client of the cells that weigh clients unevenly."""
        return self._read("weights")

    @cached_property
    def partitions(self) -> pd.DataFrame:
        """One row per task, seed and client."""
        return self._read("partitions")

    def _read(self, name: str) -> pd.DataFrame:
        path = self._folder / f"{name}.csv"
        promised = self._files.get(path.name)
        if promised is None:
            raise UserError(f"{self._folder / MANIFEST} does not name {path.name}; collect again")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; collect again") from None
        if hashlib.sha256(content).hexdigest() != promised["sha256"]:
            raise UserError(
                f"{path} is cut or edited: it is not the file of {promised['rows']} rows that "
                "collect wrote; collect again"
            )
        try:
            raw = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
            return _typed(raw[list(COLUMNS[name])], name)
        except (KeyError, ValueError) as problem:
            raise UserError(
                f"{path} is not what collect writes ({problem}); collect again"
            ) from None


def read_csv(path: str | Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read any other CSV; a missing file, or one without these columns, is a `UserError`."""
    try:
        read = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the step that makes it first") from None
    except (ValueError, pd.errors.ParserError) as problem:
        raise UserError(f"{path} is not a CSV file ({problem}); make it again") from None
    lacking = [column for column in columns if column not in read]
    if lacking or read.empty:
        what = f"does not have the expected columns: {', '.join(lacking)}"
        raise UserError(f"{path} {what if lacking else 'has no rows'}; make it again")
    return read


def write_csv(path: str | Path, content: pd.DataFrame) -> None:
    """Write a frame as CSV, atomically; lists and dictionaries become JSON, nothing is empty."""
    text = content.apply(lambda column: column.map(_to_text) if column.dtype == object else column)
    with atomic_path(path) as temporary:
        text.to_csv(temporary, index=False, lineterminator="\n")


def x_text(x: object) -> str:
    """A swept value as short text; empty for none. It is the key by which x values are compared."""
    if x is None or (isinstance(x, float) and np.isnan(x)):
        return ""
    if isinstance(x, bool | str):
        return str(x).lower() if isinstance(x, bool) else x
    return f"{x:g}"


def _to_text(value: object) -> object:
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value


def _typed(raw: pd.DataFrame, name: str) -> pd.DataFrame:
    """Columns of text, or of Python values, to those of the frame's kind."""
    columns = {}
    for column, kind in COLUMNS[name].items():
        given = raw[column].where(raw[column].notna(), "")
        if kind == "text":
            columns[column] = given.astype(object)
        elif kind in ("int", "float"):
            numbers = given.map(lambda v: np.nan if v == "" else v).astype(float)
            whole = kind == "int" and numbers.notna().all()
            columns[column] = numbers.astype(int) if whole else numbers
        else:
            columns[column] = pd.Series(
                [_VALUES[kind](v) for v in given], index=given.index, dtype=object
            )
    return pd.DataFrame(columns)


def _json(value: object) -> object:
    return (json.loads(value) if value else None) if isinstance(value, str) else value


def _bool(value: object) -> bool | None:
    return {"true": True, "false": False, True: True, False: False, "": None}[value]


def _value(value: Any) -> float | str | None:
    try:
        return None if value == "" else float(value)
    except ValueError:
        return value


_VALUES = {"json": _json, "bool": _bool, "value": _value}
