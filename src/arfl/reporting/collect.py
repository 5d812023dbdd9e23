"""Turn a plan and its records into tidy frames, naming every cell that is missing or broken.

Four files per target: ``cells.csv`` (one row per row of the plan), ``rounds.csv`` (one row per
cell and round), ``weights.csv`` (one row per cell, round and client, rounds thinned) and
``partitions.csv`` (one row per task, seed and client), with their manifest (`frames`). Tables,
figures, claims and the report read these and nothing else, so they can be made again on any machine
from these files alone.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import jsonschema
import numpy as np

from arfl.errors import UserError
from arfl.files import content_digest, read_json
from arfl.reporting import frames
from arfl.reporting.frames import BROKEN, DIVERGED, DONE, MISSING, PHASES, RATES
from arfl.reporting.targets import ALL

# A heat map of a few hundred pixels cannot show more rounds, and 100 clients x 200 rounds x
# hundreds of cells would make the CSV a hundred megabytes.
WEIGHT_ROUNDS = 40
LATE_ROUNDS = 50


class _BrokenRecord(Exception):
    """A record that exists but cannot be used; the text says why."""


def collect(plan_path: str | Path, target: str, out_dir: str | Path) -> None:
    """Write the four CSV files of one target, and their manifest, into ``out_dir``.

    A record that does not exist leaves its cell in state ``missing``; one that exists but does not
    fit the format, stops early, belongs to another cell, was trained with other settings than the
    plan's, holds a rate that is not a number between 0 and 1 or has been edited leaves it in state
    ``broken``, with the reason, and is named in the log. A cell whose training diverged is in state
    ``diverged`` and has no rates. Record paths in the plan are relative to the working directory.

    Args:
        plan_path: the run's plan.
        target: a target of the plan, or ``all`` for each cell of every target once.
        out_dir: folder of the files.

    Raises:
        UserError: the plan cannot be read or has no such target.
    """
    plan = read_json(plan_path)
    rows = _plan_rows(plan, target, plan_path)
    records = {}
    for row in rows:
        if row["record"] not in records:
            planned = plan["settings"][row["settings"]]
            found = records[row["record"]] = _read_record(Path(row["record"]), row["cell"], planned)
            if isinstance(found, _BrokenRecord):
                logging.warning("broken record %s: %s", row["record"], found)
    usable = [record for record in records.values() if isinstance(record, dict)]
    content = {
        "cells": (_cell_row(plan, target, row, records[row["record"]]) for row in rows),
        "rounds": (row for record in usable for row in _round_rows(record)),
        "weights": (row for record in usable for row in _weight_rows(record)),
        "partitions": (row for record in usable for row in _partition_rows(record)),
    }
    made = {name: frames.frame(name, rows) for name, rows in content.items()}
    # All rules and attacks of a task and seed share one partition.
    made["partitions"] = made["partitions"].drop_duplicates(["task", "seed", "client"])
    frames.write(out_dir, target, made)


def _plan_rows(plan: Mapping, target: str, plan_path: str | Path) -> list[dict]:
    targets = plan["targets"]
    if target == ALL:
        # One row per cell, from the first target that holds it: tables share cells.
        unique = {}
        for rows in targets.values():
            for row in rows:
                unique.setdefault(row["cell"]["id"], row)
        return list(unique.values())
    if target not in targets:
        known = ", ".join(sorted({*targets, ALL}))
        raise UserError(f"{plan_path} has no target {target!r}; it has {known}")
    return targets[target]


def _read_record(path: Path, cell: Mapping, settings: Mapping) -> dict | _BrokenRecord | None:
    """The record, None without one; whatever is wrong with it is a `_BrokenRecord`, not raised."""
    try:
        if not path.exists():
            return None
        record = read_json(path)
        _check(record, cell["id"], settings)
    except (UserError, _BrokenRecord, OSError) as problem:
        return _BrokenRecord(str(problem))
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        return _BrokenRecord(f"a field is missing or has the wrong form: {problem!r}")
    return record


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = Path(__file__).parents[1] / "record.schema.json"
    return jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))


def _check(record: dict, cell_id: str, settings: Mapping) -> None:
    if isinstance(record, dict) and record.get("format") != 2:
        raise _BrokenRecord(f"format {record.get('format')!r}, expected 2")
    error = jsonschema.exceptions.best_match(_validator().iter_errors(record))
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "the record"
        problem = f"{where}: {error.message[:200]}"
        raise _BrokenRecord(f"a field is missing or has the wrong form: {problem}")
    if record["cell"]["id"] != cell_id:
        raise _BrokenRecord(f"it is the record of {record['cell']['id']}")
    difference = next(differences(record["settings"], settings), None)
    if difference:
        name, value, planned = difference
        raise _BrokenRecord(f"its {name} is {value!r}, not {planned!r} as planned")
    _check_rounds(record)
    rest = {key: value for key, value in record.items() if key != "digest"}
    if content_digest(rest) != record["digest"]:
        raise _BrokenRecord("it has been edited: its digest does not fit its content")


def _check_rounds(record: dict) -> None:
    expected, rounds = record["settings"]["task"]["rounds"], record["rounds"]
    if record["diverged"] is None and len(rounds) != expected:
        raise _BrokenRecord(f"it holds {len(rounds)} of {expected} rounds")
    for number, entry in enumerate(rounds, start=1):
        if entry["round"] != number:
            raise _BrokenRecord(f"round {number} is called {entry['round']}")
        for rate in RATES:
            value = entry[rate]
            if value is None and rate != "accuracy":
                continue
            if not _is_number(value) or not 0 <= value <= 1:
                raise _BrokenRecord(f"round {number}: {rate} is {value!r}")
        weights = entry["weights"]
        n_weights = len(entry["clients"] or range(record["clients"]["n"]))
        if weights is not None and len(weights) != n_weights:
            raise _BrokenRecord(f"round {number}: not one weight per client")
        for weight in weights or ():
            if not _is_number(weight):
                raise _BrokenRecord(f"round {number}: a weight is {weight!r}")


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def differences(value: object, planned: object, name: str = "") -> Iterator[tuple]:
    """Where two nested dicts differ: the dotted name and both values, None where one has none."""
    if isinstance(value, dict) and isinstance(planned, dict):
        for key in planned | value:
            dotted = f"{name}.{key}" if name else key
            yield from differences(value.get(key), planned.get(key), dotted)
    elif value != planned:
        yield name, value, planned


def _cell_row(plan: Mapping, target: str, row: Mapping, record: object) -> dict:
    cell, labels = row["cell"], plan["aggregators"]
    planned = {key: cell[key] for key in ("task", "attack", "n_attackers", "aggregator", "seed")}
    planned |= {key: row[key] for key in ("panel", "x_name", "x", "dataset", "record")}
    planned |= {key: plan[key] for key in ("run", "scale", "protocol")}
    planned |= {
        "target": target,
        "cell_id": cell["id"],
        "changes": cell["changes"],
        "label": labels.get(cell["aggregator"], {}).get("label", cell["aggregator"]),
        "settings": plan["settings"][row["settings"]],
    }
    if record is None:
        return planned | {"state": MISSING, "reason": "no record yet"}
    if isinstance(record, _BrokenRecord):
        return planned | {"state": BROKEN, "reason": str(record)}
    data, provenance = record["data"], record["provenance"]
    known = {f"data_{key}": data[key] for key in ("name", "kind", "note", "checksum")}
    known |= {key: data[key] for key in ("n_train", "n_test")}
    known |= {f"seconds_{phase}": record["seconds"][phase] for phase in PHASES}
    known |= {
        key: provenance[key]
        for key in (
            "device", "device_name", "threads", "backends", "commit", "dirty", "fingerprint",
            "python", "libraries",
        )
    }  # fmt: skip
    known |= {
        "n_rounds": len(record["rounds"]),
        "n_clients": record["clients"]["n"],
        "attackers": record["clients"]["attackers"],
        "partition": record["partition"],
        "digest": record["digest"],
    }
    if record["diverged"] is not None:
        text = f"round {record['diverged']['round']}: {record['diverged']['cause']}"
        return planned | known | {"state": DIVERGED, "reason": text, "diverged": text}
    return planned | known | {"state": DONE} | _rates(record["rounds"])


def _rates(rounds: list[dict]) -> dict:
    """The rates after the last round, and their means over the last quarter, at most 50 rounds."""
    late = min(LATE_ROUNDS, max(1, len(rounds) // 4))
    rates = {"late_rounds": late}
    for rate in RATES:
        rates[rate] = rounds[-1][rate]
        values = [entry[rate] for entry in rounds[-late:] if entry[rate] is not None]
        rates[f"{rate}_late"] = float(np.mean(values)) if values else None
    return rates


def _round_rows(record: dict) -> Iterator[dict]:
    for entry in record["rounds"]:
        rates = {rate: entry[rate] for rate in RATES}
        numbers = {"round": entry["round"], "n_excluded": len(entry["excluded"])}
        yield {"cell_id": record["cell"]["id"]} | numbers | rates


def _weight_rows(record: dict) -> Iterator[dict]:
    """Nothing where the rule weighs all clients alike: that says no more than their number."""
    rounds = record["rounds"]
    if all(len(set(entry["weights"] or ())) <= 1 for entry in rounds):
        return
    attackers = set(record["clients"]["attackers"])
    # Evenly spaced, the first and the last among them.
    kept = np.unique(np.linspace(0, len(rounds) - 1, WEIGHT_ROUNDS).round().astype(int))
    for entry in (rounds[i] for i in kept):
        # A round that all clients take part in need not list them.
        clients = entry["clients"] or range(record["clients"]["n"])
        for client, weight in zip(clients, entry["weights"] or (), strict=bool(entry["weights"])):
            yield {
                "cell_id": record["cell"]["id"],
                "round": entry["round"],
                "client": client,
                "attacker": client in attackers,
                "weight": float(f"{weight:.6g}"),
            }


def _partition_rows(record: dict) -> Iterator[dict]:
    key = {"task": record["cell"]["task"], "seed": record["cell"]["seed"]}
    for client, counts in enumerate(record["clients"]["class_counts"]):
        yield key | {"client": client, "class_counts": counts}
