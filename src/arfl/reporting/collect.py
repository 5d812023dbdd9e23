"""Turn a plan and its records into tidy CSV, naming every cell that is missing or broken.

Four files per target: ``cells.csv`` (one row per row of the plan), ``rounds.csv`` (one row per
cell and round), ``weights.csv`` (one row per cell, round and client, rounds thinned) and
``partitions.csv`` (one row per task, seed and client). Tables, figures, claims and the report read
these and nothing else, so they can be made again on any machine from the CSV alone.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from arfl.errors import UserError
from arfl.files import atomic_path, read_json

RECORD_FORMAT = 1
RATES = ("accuracy", "attack_success_rate", "attack_success_rate_excl_target")
PHASES = ("training", "aggregation", "evaluation", "total")
# Targets that look at the cells of all the others, whatever the plan lists for them.
VIEWS = ("weights", "timing")
# A heat map of a few hundred pixels cannot show more rounds, and 100 clients x 200 rounds x
# hundreds of cells would make the CSV a hundred megabytes.
WEIGHT_ROUNDS = 40


@dataclass(frozen=True)
class CellRow:
    """One row of ``cells.csv``: what was planned, and what its record says if there is one.

    Rates are fractions after the last round; fields of a cell without a usable record are empty.
    """

    target: str
    panel: str
    x_name: str
    x: float | str | None
    dataset: str
    cell_id: str
    task: str
    attack: str
    n_attackers: int | None
    noise_std: float | None
    aggregator: str
    label: str
    seed: int
    run: str
    scale: str
    protocol: str
    record: str
    state: str = "missing"
    reason: str = ""
    n_rounds: int | None = None
    accuracy: float | None = None
    attack_success_rate: float | None = None
    attack_success_rate_excl_target: float | None = None
    data_name: str = ""
    data_kind: str = ""
    data_note: str = ""
    data_checksum: str = ""
    n_train: int | None = None
    n_test: int | None = None
    n_clients: int | None = None
    attackers: list | None = None
    seconds_training: float | None = None
    seconds_aggregation: float | None = None
    seconds_evaluation: float | None = None
    seconds_total: float | None = None
    device: str = ""
    device_name: str = ""
    commit: str = ""
    dirty: bool | None = None
    fingerprint: str = ""
    libraries: dict | None = None
    settings: dict | None = None

    @property
    def done(self) -> bool:
        """Whether the cell has a whole, valid record."""
        return self.state == "done"


@dataclass(frozen=True)
class RoundRow:
    """One row of ``rounds.csv``: a cell's rates after one round, as fractions."""

    cell_id: str
    round: int
    accuracy: float | None
    attack_success_rate: float | None
    attack_success_rate_excl_target: float | None
    n_excluded: int


@dataclass(frozen=True)
class WeightRow:
    """One row of ``weights.csv``: the weight the rule gave one client in one round.

    Cells that weigh all clients alike in every round have no rows.
    """

    cell_id: str
    round: int
    client: int
    attacker: bool
    weight: float


@dataclass(frozen=True)
class PartitionRow:
    """One row of ``partitions.csv``: how many samples of each class a client holds."""

    task: str
    seed: int
    client: int
    class_counts: list


class Collected:
    """The four files of one target, each read when it is first asked for.

    Args:
        folder: where `collect` wrote them.

    Raises:
        UserError: on reading a file that is missing or is not what `collect` writes.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)

    @cached_property
    def cells(self) -> list[CellRow]:
        """Every planned cell."""
        return _read(self._folder / "cells.csv", CellRow)

    @cached_property
    def rounds(self) -> list[RoundRow]:
        """Every round of the cells that are done."""
        return _read(self._folder / "rounds.csv", RoundRow)

    @cached_property
    def weights(self) -> list[WeightRow]:
        """The clients' weights; by far the largest file."""
        return _read(self._folder / "weights.csv", WeightRow)

    @cached_property
    def partitions(self) -> list[PartitionRow]:
        """The clients' class counts."""
        return _read(self._folder / "partitions.csv", PartitionRow)


class _BrokenRecord(Exception):
    """A record that exists but cannot be used; the text says why."""


def collect(plan_path: str | Path, target: str, out_dir: str | Path) -> None:
    """Write the four CSV files of one target into ``out_dir``.

    A record that does not exist leaves its cell in state ``missing``; one that exists but is not
    valid JSON, has another format, stops early, belongs to another cell, was trained with other
    settings than the plan's or holds a rate that is not a number between 0 and 1 leaves it in
    state ``broken`` with the reason. Record paths in the plan are taken relative to the working
    directory.

    Raises:
        UserError: the plan cannot be read or has no such target.
    """
    plan = read_json(plan_path)
    rows = _plan_rows(plan, target, plan_path)
    records: dict[str, dict | _BrokenRecord | None] = {}
    for row in rows:
        if row["record"] not in records:
            settings = plan["settings"][row["settings"]]
            records[row["record"]] = _read_record(Path(row["record"]), row["cell"]["id"], settings)
    done = {path: record for path, record in records.items() if isinstance(record, dict)}

    out_dir = Path(out_dir)
    cells = [_cell_row(plan, target, row, records[row["record"]]) for row in rows]
    _write(out_dir / "cells.csv", CellRow, cells)
    _write(out_dir / "rounds.csv", RoundRow, (r for d in done.values() for r in _round_rows(d)))
    _write(out_dir / "weights.csv", WeightRow, (r for d in done.values() for r in _weight_rows(d)))
    _write(out_dir / "partitions.csv", PartitionRow, _partition_rows(done.values()))


def _plan_rows(plan: dict, target: str, plan_path: str | Path) -> list[dict]:
    targets = plan["targets"]
    if target in VIEWS:
        # One row per cell, from the first target that holds it: tables share cells.
        unique = {}
        for rows in targets.values():
            for row in rows:
                unique.setdefault(row["cell"]["id"], row)
        return list(unique.values())
    if target not in targets:
        known = ", ".join(sorted({*targets, *VIEWS}))
        raise UserError(f"{plan_path} has no target {target!r}; it has {known}")
    return targets[target]


def _read_record(path: Path, cell_id: str, settings: dict) -> dict | _BrokenRecord | None:
    if not path.exists():
        return None
    try:
        record = read_json(path)
        _check_record(record, cell_id, settings)
    except (UserError, _BrokenRecord) as problem:
        return _BrokenRecord(str(problem))
    except (KeyError, TypeError, AttributeError) as problem:
        return _BrokenRecord(f"a field is missing or has the wrong form: {problem!r}")
    return record


def _differences(value: object, planned: object, name: str = "") -> Iterator[tuple]:
    """Where two nested dicts differ: the dotted name and both values, None where one has none."""
    if isinstance(value, dict) and isinstance(planned, dict):
        for key in planned | value:
            dotted = f"{name}.{key}" if name else key
            yield from _differences(value.get(key), planned.get(key), dotted)
    elif value != planned:
        yield name, value, planned


def _check_record(record: dict, cell_id: str, settings: dict) -> None:
    if record["format"] != RECORD_FORMAT:
        raise _BrokenRecord(f"format {record['format']!r}, expected {RECORD_FORMAT}")
    if record["cell"]["id"] != cell_id:
        raise _BrokenRecord(f"it is the record of {record['cell']['id']}")
    difference = next(_differences(record["settings"], settings), None)
    if difference:
        name, value, planned = difference
        raise _BrokenRecord(f"its {name} is {value!r}, not {planned!r} as planned")
    expected = record["settings"]["task"]["rounds"]
    if len(record["rounds"]) != expected or not record["rounds"]:
        raise _BrokenRecord(f"it holds {len(record['rounds'])} of {expected} rounds")
    for entry in record["rounds"]:
        for rate in RATES:
            value = entry[rate]
            if value is None and rate != "accuracy":
                continue
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise _BrokenRecord(f"round {entry['round']}: {rate} is {value!r}")
        n_weights = len(entry["clients"] or range(record["clients"]["n"]))
        if entry["weights"] is not None and len(entry["weights"]) != n_weights:
            raise _BrokenRecord(f"round {entry['round']}: not one weight per client")
        for weight in entry["weights"] or ():
            if not isinstance(weight, int | float) or not math.isfinite(weight):
                raise _BrokenRecord(f"round {entry['round']}: a weight is {weight!r}")
    for phase in PHASES:
        float(record["seconds"][phase])
    for key in ("device", "device_name", "commit", "dirty", "fingerprint", "libraries"):
        record["provenance"][key]
    for key in ("name", "kind", "note", "checksum", "n_train", "n_test"):
        record["data"][key]
    for key in ("n", "attackers", "class_counts"):
        record["clients"][key]


def _cell_row(plan: dict, target: str, row: dict, record: dict | _BrokenRecord | None) -> CellRow:
    cell = row["cell"]
    planned = {
        "target": target,
        "panel": row["panel"] or "",
        "x_name": row["x_name"] or "",
        "x": row["x"],
        "dataset": row["dataset"],
        "cell_id": cell["id"],
        "task": cell["task"],
        "attack": cell["attack"],
        "n_attackers": cell["n_attackers"],
        "noise_std": cell["noise_std"],
        "aggregator": cell["aggregator"],
        "label": plan["aggregators"].get(cell["aggregator"], {}).get("label", cell["aggregator"]),
        "seed": cell["seed"],
        "run": plan["run"],
        "scale": plan["scale"],
        "protocol": plan["protocol"],
        "record": row["record"],
    }
    if record is None:
        return CellRow(**planned, reason="no record yet")
    if isinstance(record, _BrokenRecord):
        return CellRow(**planned, state="broken", reason=str(record))
    data, provenance = record["data"], record["provenance"]
    return CellRow(
        **planned,
        state="done",
        n_rounds=len(record["rounds"]),
        **{rate: record["rounds"][-1][rate] for rate in RATES},
        data_name=data["name"],
        data_kind=data["kind"],
        data_note=data["note"],
        data_checksum=data["checksum"],
        n_train=data["n_train"],
        n_test=data["n_test"],
        n_clients=record["clients"]["n"],
        attackers=record["clients"]["attackers"],
        **{f"seconds_{phase}": record["seconds"][phase] for phase in PHASES},
        device=provenance["device"],
        device_name=provenance["device_name"],
        # A record made outside a git checkout knows no commit.
        commit=provenance["commit"] or "",
        dirty=provenance["dirty"],
        fingerprint=provenance["fingerprint"],
        libraries=provenance["libraries"],
        settings=record["settings"],
    )


def _round_rows(record: dict) -> Iterable[RoundRow]:
    for entry in record["rounds"]:
        rates = {rate: entry[rate] for rate in RATES}
        yield RoundRow(
            record["cell"]["id"], entry["round"], **rates, n_excluded=len(entry["excluded"])
        )


def _weight_rows(record: dict) -> Iterable[WeightRow]:
    """Nothing where the rule weighs all clients alike: that says no more than their number."""
    if all(len(set(entry["weights"] or ())) <= 1 for entry in record["rounds"]):
        return
    attackers = set(record["clients"]["attackers"])
    for entry in _thinned(record["rounds"], WEIGHT_ROUNDS):
        if entry["weights"] is None:
            continue
        # A round that all clients take part in does not list them.
        clients = entry["clients"] or range(record["clients"]["n"])
        for client, weight in zip(clients, entry["weights"], strict=True):
            yield WeightRow(
                record["cell"]["id"],
                entry["round"],
                client,
                client in attackers,
                float(f"{weight:.6g}"),
            )


def _partition_rows(records: Iterable[dict]) -> Iterable[PartitionRow]:
    """Every partition once: all rules and attacks of a task and seed share it."""
    seen = set()
    for record in records:
        key = (record["cell"]["task"], record["cell"]["seed"])
        if key not in seen:
            seen.add(key)
            for client, counts in enumerate(record["clients"]["class_counts"]):
                yield PartitionRow(*key, client, counts)


def _thinned(items: Sequence, limit: int) -> list:
    """At most ``limit`` items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    step = (len(items) - 1) / (limit - 1)
    return [items[round(i * step)] for i in range(limit)]


def _write(path: Path, row_type: type, rows: Iterable[Any]) -> None:
    write_csv(path, [f.name for f in fields(row_type)], map(vars, rows))


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Write dictionaries as CSV, atomically; lists and dictionaries become JSON, None empty."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_to_text(row[column]) for column in columns] for row in rows)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Read a CSV file as dictionaries of text; a missing file is a `UserError`."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the step that makes it first") from None


def _to_text(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


_FROM_TEXT = {
    str: str,
    int: int,
    float: float,
    bool: {"true": True, "false": False}.__getitem__,
    float | None: float,
    float | str | None: _number_or_text,
    int | None: int,
    bool | None: {"true": True, "false": False}.__getitem__,
    list: json.loads,
    list | None: json.loads,
    dict | None: json.loads,
}


def _read(path: Path, row_type: type) -> list:
    readers = {f.name: (f.type, _FROM_TEXT[f.type]) for f in fields(row_type)}
    rows = []
    try:
        for raw in read_csv(path):
            values = {
                name: None if raw[name] == "" and kind is not str else convert(raw[name])
                for name, (kind, convert) in readers.items()
            }
            rows.append(row_type(**values))
    except (KeyError, ValueError) as problem:
        raise UserError(f"{path} is not what collect writes ({problem}); collect again") from None
    return rows
