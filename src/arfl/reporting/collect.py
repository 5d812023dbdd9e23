"""Turn a plan and its records into tidy CSV, naming every cell that is missing or broken.

Four files per target: ``cells.csv`` (one row per row of the plan), ``rounds.csv`` (one row per
cell and round), ``weights.csv`` (one row per cell, round and client, rounds thinned) and
``partitions.csv`` (one row per task, seed and client). Tables, figures, claims and the report read
these and nothing else, so they can be made again on any machine from the CSV alone.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from arfl import record as records
from arfl.errors import UserError
from arfl.files import atomic_path, read_json

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

    Rates are fractions after the last round, empty where a cell diverged; fields of a cell without
    a usable record are empty.

    Attributes:
        state: "done", "diverged", "missing" or "broken".
        reason: why the cell is not done.
        diverged: the round that ended the training, and the cause.
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
    aggregator: str
    label: str
    seed: int
    changes: dict
    run: str
    scale: str
    protocol: str
    record: str
    state: str = "missing"
    reason: str = ""
    diverged: str = ""
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
        """Whether the cell has a whole, valid record of a training that did not diverge."""
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
    """One row of ``partitions.csv``: how many samples of each class a client holds.

    The task's name has its changed options behind it, as in a cell's id.
    """

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


def collect(plan_path: str | Path, target: str, out_dir: str | Path) -> None:
    """Write the four CSV files of one target into ``out_dir``.

    A record that does not exist leaves its cell in state ``missing``; one that `arfl.record.read`
    refuses, that belongs to another cell or was trained with other settings than the plan's leaves
    it in state ``broken`` with the reason; one of a training that diverged, in state ``diverged``.
    Record paths in the plan are taken relative to the working directory.

    Raises:
        UserError: the plan cannot be read or has no such target.
    """
    plan = read_json(plan_path)
    rows = _plan_rows(plan, target, plan_path)
    found: dict[str, dict | records.BrokenRecordError | None] = {}
    for row in rows:
        if row["record"] not in found:
            settings = plan["settings"][row["settings"]]
            found[row["record"]] = _read_record(Path(row["record"]), row["cell"]["id"], settings)
    whole = [record for record in found.values() if isinstance(record, dict)]
    done = [record for record in whole if record["diverged"] is None]

    out_dir = Path(out_dir)
    cells = [_cell_row(plan, target, row, found[row["record"]]) for row in rows]
    _write(out_dir / "cells.csv", CellRow, cells)
    _write(out_dir / "rounds.csv", RoundRow, (r for d in done for r in _round_rows(d)))
    _write(out_dir / "weights.csv", WeightRow, (r for d in done for r in _weight_rows(d)))
    _write(out_dir / "partitions.csv", PartitionRow, _partition_rows(whole))


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


def _read_record(
    path: Path, cell_id: str, settings: dict
) -> dict | records.BrokenRecordError | None:
    if not path.exists():
        return None
    try:
        record = records.read(path)
        _check_planned(record, cell_id, settings)
    except records.BrokenRecordError as problem:
        return problem
    return record


def _differences(value: object, planned: object, name: str = "") -> Iterator[tuple]:
    """Where two nested dicts differ: the dotted name and both values, None where one has none."""
    if isinstance(value, dict) and isinstance(planned, dict):
        for key in planned | value:
            dotted = f"{name}.{key}" if name else key
            yield from _differences(value.get(key), planned.get(key), dotted)
    elif value != planned:
        yield name, value, planned


def _check_planned(record: dict, cell_id: str, settings: dict) -> None:
    if record["cell"]["id"] != cell_id:
        raise records.BrokenRecordError(f"it is the record of {record['cell']['id']}")
    difference = next(_differences(record["settings"], settings), None)
    if difference:
        name, value, planned = difference
        raise records.BrokenRecordError(f"its {name} is {value!r}, not {planned!r} as planned")


def _cell_row(
    plan: dict, target: str, row: dict, record: dict | records.BrokenRecordError | None
) -> CellRow:
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
        "aggregator": cell["aggregator"],
        "label": plan["aggregators"].get(cell["aggregator"], {}).get("label", cell["aggregator"]),
        "seed": cell["seed"],
        "changes": cell["changes"],
        "run": plan["run"],
        "scale": plan["scale"],
        "protocol": plan["protocol"],
        "record": row["record"],
    }
    if record is None:
        return CellRow(**planned, reason="no record yet")
    if isinstance(record, records.BrokenRecordError):
        return CellRow(**planned, state="broken", reason=str(record))
    data, provenance, ended = record["data"], record["provenance"], record["diverged"]
    if ended is None:
        outcome = {"state": "done", **{rate: record["rounds"][-1][rate] for rate in RATES}}
    else:
        diverged = f"in round {ended['round']}: {ended['cause']}"
        outcome = {"state": "diverged", "reason": f"diverged {diverged}", "diverged": diverged}
    return CellRow(
        **planned,
        **outcome,
        n_rounds=len(record["rounds"]),
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
        for client, weight in zip(entry["clients"], entry["weights"], strict=True):
            yield WeightRow(
                record["cell"]["id"],
                entry["round"],
                client,
                client in attackers,
                float(f"{weight:.6g}"),
            )


def _partition_rows(records: Iterable[dict]) -> Iterable[PartitionRow]:
    """Every partition of a task once: most of its cells of a seed share one."""
    seen = set()
    for record in records:
        cell = record["cell"]
        key = (cell["task"], record["partition"])
        if key not in seen:
            seen.add(key)
            # With the changed options, which may divide the data otherwise.
            task = cell["id"].partition("/")[0]
            for client, counts in enumerate(record["clients"]["class_counts"]):
                yield PartitionRow(task, cell["seed"], client, counts)


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
    dict: json.loads,
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
