"""How far a run is: which cells are trained, which train now and in which round, which failed.

It reads what trainings leave: records, their kept copies, the lock that a training holds, its log
and its checkpoint. So it tells the same of a run on this machine and of one on a cluster that
shares the folder, and needs neither PyTorch nor Snakemake.
"""

import fcntl
import json
import os
import re
import subprocess
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import mean

from arfl.grid import Cell, Grid

STATES = ("done", "running", "failed", "stopped", "outdated", "left")
"""``stopped`` was begun and is not finished, ``outdated`` is of other settings or other code;
both are trained when the run goes on, like what is ``left``."""

_ROUND = re.compile(r": round (\d+)/(\d+), .*?, about (?:(\d+) days?, )?(\d+):(\d\d):(\d\d) left$")
_GOES_ON = re.compile(r": goes on after round (\d+)$")
_FAULT = re.compile(r"^(error: |[A-Za-z_.]*(?:Error|Exception)\b|Killed$)")


def look(grid: Grid, cells: Mapping[str, Cell]) -> dict:
    """The state of each cell, and what is left to do.

    Args:
        grid: the project in the current folder.
        cells: the cells that are asked for, by id.

    Returns:
        ``run``, ``counts`` by state, ``cells`` (for each its ``id``, ``state`` and ``log``; where
        known ``round``, ``n_rounds``, ``fault``, ``seconds_left``), ``queue`` (states of this
        folder's SLURM jobs, None without SLURM) and ``seconds_left``: of all that is not done,
        shared by as many trainings as run now; None where no cell has been timed.
    """
    queue = _queue()
    found = [_state(grid, cell, queue) for cell in cells.values()]
    _estimate(grid, cells, found)
    counts = Counter(entry["state"] for entry in found)
    open_ones = [entry for entry in found if entry["state"] != "done"]
    known = [entry["seconds_left"] for entry in open_ones if entry["seconds_left"] is not None]
    # Where few of the cells have been timed, they stand for the others.
    whole = mean(known) * len(open_ones) if known else None if open_ones else 0
    at_once = max(1, counts["running"])
    return {
        "run": grid.run,
        "counts": {state: counts[state] for state in STATES},
        "seconds_left": whole if whole is None else round(whole / at_once),
        "at_once": at_once,
        "queue": queue,
        "cells": found,
    }


def text(status: Mapping, longest: int = 20) -> str:
    """The status in lines for a terminal.

    Args:
        status: of `look`.
        longest: how many running and how many failed cells are named.
    """
    counts, total = status["counts"], len(status["cells"])
    parts = [f"{counts['done']} of {total} cells done"]
    parts += [f"{n} {state}" for state, n in counts.items() if n and state != "done"]
    lines = [f"{status['run']}: {', '.join(parts)}"]
    if counts["done"] < total:
        if status["seconds_left"] is None:
            lines.append("time left: unknown until a cell has been trained")
        else:
            left, at_once = timedelta(seconds=status["seconds_left"]), status["at_once"]
            lines.append(f"about {left} of training left, {at_once} at a time")
    if status["queue"] is not None:
        jobs = ", ".join(f"{n} {state.lower()}" for state, n in sorted(status["queue"].items()))
        lines.append(f"SLURM jobs of this folder: {jobs or 'none'}")
    for state in ("running", "failed"):
        named = [entry for entry in status["cells"] if entry["state"] == state]
        for entry in named[:longest]:
            lines.append(f"{state}  {entry['id']}{_detail(entry)}")
            if state == "failed":
                lines.append(f"    {entry['log']}: {entry['fault']}")
        if len(named) > longest:
            lines.append(f"{state}  and {len(named) - longest} more (--json names all)")
    return "\n".join(lines)


def _detail(entry: Mapping) -> str:
    if entry["round"] is None:
        return ""
    whole = f"/{entry['n_rounds']}" if entry["n_rounds"] else ""
    left = entry["seconds_left"] if entry["state"] == "running" else None
    return f"  round {entry['round']}{whole}" + (
        "" if left is None else f", about {timedelta(seconds=round(left))} left"
    )


def _state(grid: Grid, cell: Cell, queue: Mapping | None) -> dict:
    kept = Path(grid.record_path(cell, "kept"))
    log = Path("logs", grid.run, "cells", f"{cell.id}.log")
    entry = {
        "id": cell.id,
        "state": "left",
        "round": None,
        "n_rounds": grid.task(cell.part("task"))["rounds"],
        "seconds_left": None,
        "seconds": None,
        "fault": None,
        "log": str(log),
    }
    code, settings = grid.fingerprint(cell), grid.settings(cell)
    outdated = False
    # A group of a cluster may lose its outputs; the kept records are taken up again.
    for path in (Path(grid.record_path(cell)), kept):
        trained = _read(path)
        if trained is None:
            continue
        current = trained.get("settings") == settings
        if current and trained.get("provenance", {}).get("fingerprint") == code:
            seconds = trained.get("seconds", {}).get("total")
            return entry | {"state": "done", "seconds": seconds, "round": entry["n_rounds"]}
        outdated = True
    if _is_training(kept.with_suffix(".lock"), queue):
        return entry | {"state": "running"} | _reached(log)
    reached = _reached(log)["round"]
    entry["round"] = _saved(kept.with_suffix(".checkpoint.npz"))
    if outdated:
        return entry | {"state": "outdated"}
    fault = _fault(log)
    if fault is not None:
        return entry | {"state": "failed", "fault": fault}
    begun = reached is not None or entry["round"] is not None
    return entry | {"state": "stopped" if begun else "left"}


def _read(path: Path) -> dict | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _is_training(lock: Path, queue: Mapping | None) -> bool:
    """Whether a process holds a training's lock."""
    try:
        with lock.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        pass
    # The locks of another node may not be seen here; its training has the file all the same.
    return queue is not None and queue.get("RUNNING", 0) > 0


def _lines(log: Path) -> list[str]:
    """The end of a log: its last 64 KB."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - (1 << 16)))
            return stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _reached(log: Path) -> dict:
    """Round, and time left, as a training's log says them last."""
    for line in reversed(_lines(log)):
        if said := _ROUND.search(line):
            days, hours, minutes, seconds = (int(part or 0) for part in said.groups()[2:])
            left = ((24 * days + hours) * 60 + minutes) * 60 + seconds
            return {"round": int(said[1]), "n_rounds": int(said[2]), "seconds_left": left}
        if said := _GOES_ON.search(line):
            return {"round": int(said[1])}
    return {"round": None}


def _fault(log: Path) -> str | None:
    """The message with which a training ended; None if it did not fail."""
    said = [line for line in _lines(log) if not line.startswith("$ ")]
    return said[-1] if said and _FAULT.match(said[-1]) else None


def _saved(checkpoint: Path) -> int | None:
    """The round that a checkpoint holds."""
    import numpy as np

    try:
        with np.load(checkpoint, allow_pickle=False) as stored:
            return len(json.loads(str(stored["rest"]))["rounds"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _queue() -> dict[str, int] | None:
    """How many SLURM jobs of this folder there are, by state; None where there is no SLURM."""
    command = ["squeue", "--me", "--noheader", "--format=%T %Z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = (line.partition(" ") for line in listed.stdout.splitlines())
    return dict(Counter(state for state, _, folder in rows if folder.strip() == os.getcwd()))


def _estimate(grid: Grid, cells: Mapping[str, Cell], found: Sequence[dict]) -> None:
    """Set what cells have left that do not say it themselves, by those already trained."""
    taken: dict[tuple, list[float]] = {}
    keys = {
        entry["id"]: (
            (cells[entry["id"]].part("task"), cells[entry["id"]].aggregator),
            (cells[entry["id"]].task,),
        )
        for entry in found
    }
    for entry in found:
        if entry["seconds"] is not None:
            for key in keys[entry["id"]]:
                taken.setdefault(key, []).append(entry["seconds"])
    for entry in found:
        if entry["state"] == "done" or entry["seconds_left"] is not None:
            continue
        for key in keys[entry["id"]]:
            if key in taken:
                share = 1 - (entry["round"] or 0) / entry["n_rounds"]
                entry["seconds_left"] = mean(taken[key]) * share
                break
