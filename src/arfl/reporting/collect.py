"""Turn a plan and its records into tidy frames, naming every cell that is missing or broken.

Four files per target: ``cells.csv`` (one row per row of the plan), ``rounds.csv`` (one row per
cell and round), ``weights.csv`` (one row per cell, round and client, rounds thinned) and
``partitions.csv`` (one row per task, seed and client), with their manifest (`frames`). Tables,
figures, claims and the report read these and nothing else, so they can be made again on any machine
from these files alone.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from arfl import record, seeds
from arfl.errors import UserError
from arfl.files import read_json
from arfl.record import BrokenRecordError
from arfl.reporting import frames
from arfl.reporting.frames import BROKEN, DIVERGED, DONE, MISSING, PHASES, RATES
from arfl.reporting.targets import ALL

# A heat map of a few hundred pixels cannot show more rounds, and 100 clients x 200 rounds x
# hundreds of cells would make the CSV a hundred megabytes.
WEIGHT_ROUNDS = 40
LATE_ROUNDS = 50


def collect(
    plan_path: str | Path,
    target: str,
    manifest: str | Path,
    packed: Mapping[str, str] | None = None,
) -> None:
    """Write the four CSV files of one target, and beside them the manifest that names them.

    A record that does not exist leaves its cell in state ``missing``; one that `arfl.record.read`
    refuses, that belongs to another cell or was trained with other settings than the plan's leaves
    it in state ``broken``, with the reason, and is named in the log. A cell whose training diverged
    is in state ``diverged`` and has no rates, rounds or weights.

    Args:
        plan_path: the run's plan; the paths in it are relative to the working directory.
        target: a target of the plan, or ``all`` for each cell of every target once.
        manifest: the ``collected.json`` to write.
        packed: cell id -> its record as a line of JSON, to be read instead of the plan's paths; see
            `arfl.batches.read`.

    Raises:
        UserError: the plan cannot be read or has no such target.
    """
    plan = read_json(plan_path)
    rows = _plan_rows(plan, target, plan_path)
    found: dict[str, dict | BrokenRecordError | None] = {}
    for row in rows:
        if row["record"] not in found:
            planned = plan["settings"][row["settings"]]
            found[row["record"]] = content = _read_record(row, planned, packed)
            if isinstance(content, BrokenRecordError):
                logging.warning("broken record %s: %s", row["record"], content)
    whole = [content for content in found.values() if isinstance(content, dict)]
    done = [content for content in whole if content["diverged"] is None]
    content = {
        "cells": (_cell_row(plan, target, row, found[row["record"]]) for row in rows),
        "rounds": (row for one in done for row in _round_rows(one)),
        "weights": (row for one in done for row in _weight_rows(one)),
        "partitions": (row for one in whole for row in _partition_rows(one)),
    }
    made = {name: frames.frame(name, rows) for name, rows in content.items()}
    # Most cells of a task and seed share one partition.
    made["partitions"] = made["partitions"].drop_duplicates(["task", "partition", "client"])
    frames.write(manifest, target, made)


def _plan_rows(plan: Mapping, target: str, plan_path: str | Path) -> list[dict]:
    targets = plan["targets"]
    if target == ALL:
        # One row per cell, from the first target that holds it: tables share cells.
        unique: dict[str, dict] = {}
        for rows in targets.values():
            for row in rows:
                unique.setdefault(row["cell"]["id"], row)
        return list(unique.values())
    if target not in targets:
        known = ", ".join(sorted({*targets, ALL}))
        raise UserError(f"{plan_path} has no target {target!r}; it has {known}")
    places = [(row["panel"], row["x"], row["cell"]["id"]) for row in targets[target]]
    if twice := [place for place, times in Counter(places).items() if times > 1]:
        raise UserError(f"{plan_path} has {twice[0][2]} twice at one point of {target}; plan again")
    return targets[target]


def _read_record(
    row: Mapping, settings: Mapping, packed: Mapping[str, str] | None
) -> dict | BrokenRecordError | None:
    """The record, None without one; whatever is wrong with it is given back, not raised."""
    cell, path = row["cell"], Path(row["record"])
    try:
        if packed is not None:
            line = packed.get(cell["id"])
            # It was checked when its batch was read.
            content = None if line is None else json.loads(line)
        else:
            content = record.read(path) if path.exists() else None
        if content is not None:
            _check_planned(content, cell, settings)
    except BrokenRecordError as problem:
        return BrokenRecordError(str(problem).removeprefix(f"{path}: "))
    return content


def _check_planned(content: Mapping, cell: Mapping, settings: Mapping) -> None:
    if content["cell"] != cell:
        raise BrokenRecordError(f"it is the record of {content['cell']['id']}")
    # A record copied to another seed keeps the streams of its own.
    streams = {role: seeds.integer(cell["seed"], role) for role in seeds.ROLES}
    if content["seeds"] != streams:
        raise BrokenRecordError(f"its random streams are not those of seed {cell['seed']}")
    difference = next(differences(content["settings"], settings), None)
    if difference:
        name, value, planned = difference
        raise BrokenRecordError(f"its {name} is {value!r}, not {planned!r} as planned")
    n_clients, planned = content["clients"]["n"], settings["task"].get("n_clients")
    if planned not in (None, n_clients):
        raise BrokenRecordError(f"it has {n_clients} clients, not {planned} as planned")


def differences(value: object, planned: object, name: str = "") -> Iterator[tuple]:
    """Where two nested dicts differ: the dotted name and both values, None where one has none."""
    if isinstance(value, dict) and isinstance(planned, dict):
        for key in planned | value:
            dotted = f"{name}.{key}" if name else key
            yield from differences(value.get(key), planned.get(key), dotted)
    elif value != planned:
        yield name, value, planned


def _cell_row(plan: Mapping, target: str, row: Mapping, content: Any) -> dict:
    cell, labels = row["cell"], plan["aggregators"]
    planned = {key: cell[key] for key in ("task", "attack", "n_attackers", "aggregator", "seed")}
    planned |= {key: row[key] for key in ("panel", "x_name", "x", "dataset", "record")}
    planned |= {key: plan[key] for key in ("run", "scale", "protocol")}
    planned |= {
        "target": target,
        "cell_id": cell["id"],
        "changes": cell["changes"],
        "label": labels.get(cell["aggregator"], {}).get("label", cell["aggregator"]),
        "settings": settings_of(plan, row),
    }
    if content is None:
        return planned | {"state": MISSING, "reason": "no record yet"}
    if isinstance(content, BrokenRecordError):
        return planned | {"state": BROKEN, "reason": str(content)}
    data, provenance = content["data"], content["provenance"]
    known = {f"data_{key}": data[key] for key in ("name", "kind", "note", "checksum")}
    known |= {key: data[key] for key in ("n_train", "n_test")}
    known |= {f"seconds_{phase}": content["seconds"][phase] for phase in PHASES}
    known |= {
        key: provenance[key]
        for key in (
            "device", "device_name", "threads", "backends", "commit", "dirty", "fingerprint",
            "python", "libraries",
        )
    }  # fmt: skip
    known |= {
        "n_rounds": len(content["rounds"]),
        "n_clients": content["clients"]["n"],
        "attackers": content["clients"]["attackers"],
        "partition": content["partition"],
        "digest": content["digest"],
    }
    if content["diverged"] is not None:
        text = f"in round {content['diverged']['round']}: {content['diverged']['cause']}"
        ended = {"state": DIVERGED, "reason": f"diverged {text}", "diverged": text}
        return planned | known | ended
    return planned | known | {"state": DONE} | _rates(content["rounds"])


def settings_of(plan: Mapping, row: Mapping) -> dict:
    """The settings of a plan's row, with the options of the data that it is trained on."""
    settings = plan["settings"][row["settings"]]
    # Records do not have them: other options make other data, with a checksum of their own.
    return settings | {"dataset": plan.get("datasets", {}).get(settings["task"].get("data"), {})}


def _rates(rounds: list[dict]) -> dict:
    """The rates after the last round, and their means over the last quarter, at most 50 rounds."""
    late = min(LATE_ROUNDS, max(1, len(rounds) // 4))
    rates: dict[str, float | None] = {"late_rounds": late}
    for rate in RATES:
        rates[rate] = rounds[-1][rate]
        values = [entry[rate] for entry in rounds[-late:] if entry[rate] is not None]
        rates[f"{rate}_late"] = float(np.mean(values)) if values else None
    return rates


def _round_rows(content: dict) -> Iterator[dict]:
    for entry in content["rounds"]:
        rates = {rate: entry[rate] for rate in RATES}
        numbers = {"round": entry["round"], "n_excluded": len(entry["excluded"])}
        yield {"cell_id": content["cell"]["id"]} | numbers | rates


def _weight_rows(content: dict) -> Iterator[dict]:
    """Nothing where the rule weighs all clients alike: that says no more than their number."""
    rounds = content["rounds"]
    if all(len(set(entry["weights"] or ())) <= 1 for entry in rounds):
        return
    attackers = set(content["clients"]["attackers"])
    # Evenly spaced, the first and the last among them.
    kept = np.unique(np.linspace(0, len(rounds) - 1, WEIGHT_ROUNDS).round().astype(int))
    for entry in (rounds[i] for i in kept):
        # A round may have no weights where others have some.
        for client, weight in zip(entry["clients"], entry["weights"] or (), strict=False):
            yield {
                "cell_id": content["cell"]["id"],
                "round": entry["round"],
                "client": client,
                "attacker": client in attackers,
                "weight": float(f"{weight:.6g}"),
            }


def _partition_rows(content: dict) -> Iterator[dict]:
    # The task with its changed options, as in the cell's id: they may divide the data otherwise.
    key = {
        "task": content["cell"]["id"].split("/")[0],
        "partition": content["partition"],
        "seed": content["cell"]["seed"],
    }
    for client, counts in enumerate(content["clients"]["class_counts"]):
        yield key | {"client": client, "class_counts": counts}
