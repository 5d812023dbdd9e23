"""What a trained cell leaves behind: one JSON file with settings, metrics and provenance.

``record.schema.json`` beside this file is the format. What no schema can say is checked here too:
the digest of the content, rounds that are complete and in order, numbers that fit each other.
"""

import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arfl import seeds
from arfl.errors import UserError
from arfl.files import read_json, write_json

_SCHEMA = json.loads(Path(__file__).with_name("record.schema.json").read_text(encoding="utf-8"))
FORMAT = _SCHEMA["properties"]["format"]["const"]
_LIBRARIES = ("torch", "numpy", "numba", "arfl")


NO_FILE = "it is a folder, a pipe or another thing that is no file"


class BrokenRecordError(UserError):
    """A file that is no whole, unchanged record."""


def _git(*arguments: str) -> str | None:
    """Output of a git command in the source tree; None outside a checkout or without git."""
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def provenance(
    device_type: str,
    gpu_name: str | None,
    threads: int,
    fingerprint: str,
    backends: dict[str, str],
    resumed: int,
) -> dict:
    """Where, when and with what a cell is being trained.

    Args:
        device_type: "cpu" or "cuda".
        gpu_name: the GPU's name, None on a CPU.
        threads: PyTorch's threads.
        fingerprint: of the numeric code, see `arfl.fingerprint`.
        backends: what trains and what aggregates, see `arfl.federation.Scenario.backends`.
        resumed: how often the training has gone on from a checkpoint.
    """
    status = _git("status", "--porcelain", "--untracked-files=no", "--", ".")
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "fingerprint": fingerprint,
        "python": platform.python_version(),
        "libraries": versions,
        "device": device_type,
        "device_name": gpu_name or _cpu_name(),
        "host_cpus": os.cpu_count(),
        "threads": threads,
        "backends": backends,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "arfl", *sys.argv[1:]]),
        "resumed": resumed,
    }


def describe_data(meta: dict, stands_for: str) -> dict:
    """The part of a prepared dataset's metadata that every table made from it needs."""
    keys = ("name", "kind", "note", "checksum", "n_train", "n_test", "n_classes", "class_names")
    return {key: meta[key] for key in keys} | {"stands_for": stands_for}


def is_same_data(one: Mapping, other: Mapping) -> bool:
    """Whether two such descriptions are of the same data; their notes may be worded otherwise."""
    return {**one, "note": ""} == {**other, "note": ""}


def digest(content: Mapping) -> str:
    """SHA-256 of a record's canonical JSON, all but its own digest.

    Raises:
        UserError: for NaN and infinity, which JSON does not have.
    """
    rest = {key: value for key, value in content.items() if key != "digest"}
    try:
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise UserError("a metric is not a finite number") from None
    return hashlib.sha256(text.encode()).hexdigest()


def make(
    cell: dict,
    settings: dict,
    data: dict,
    partition: str,
    trained: dict,
    origin: dict,
) -> dict:
    """A cell's record.

    Args:
        cell: as `arfl.grid.Cell.describe` gives it.
        settings: the resolved settings that were trained with.
        data: from `describe_data`.
        partition: the partition's digest.
        trained: ``diverged``, ``clients``, ``rounds`` and ``seconds``.
        origin: from `provenance`.

    Raises:
        UserError: if a metric is not a finite number.
    """
    content = {
        "format": FORMAT,
        "cell": cell,
        "settings": settings,
        "data": data,
        "partition": partition,
        **trained,
        "seeds": {role: seeds.integer(cell["seed"], role) for role in seeds.ROLES},
        "provenance": origin,
    }
    return content | {"digest": digest(content)}


@functools.cache
def _schema_check() -> Callable[[Any], str | None]:
    """What tells the first thing that the schema does not allow, and where; None for a record."""
    # Imported here: the command line's other verbs do without. So does a machine that only trains;
    # whoever reads its records has it. Compiled, since a report reads up to thousands of records,
    # and interpreting the schema would take longer than all the rest (benchmarks/records.py).
    try:
        import fastjsonschema
    except ImportError:
        logging.warning("no fastjsonschema here: records are checked by their digests alone")
        return lambda content: None
    validate = fastjsonschema.compile(_SCHEMA, use_default=False)

    def first(content: Any) -> str | None:
        try:
            validate(content)
        except fastjsonschema.JsonSchemaValueException as error:
            place = error.name.removeprefix("data").removeprefix(".") or "the record"
            if error.rule == "required":
                missing = sorted(set(error.rule_definition) - set(error.value))
                return f"{place} lacks {', '.join(missing)}"
            reason = place + error.message.removeprefix(error.name)
            if not isinstance(error.value, dict | list):
                reason += f", not {error.value!r}"
            return reason[:200]
        return None

    return first


def check(content: Any, where: str | os.PathLike) -> dict:
    """The record, if it is one.

    Args:
        content: parsed JSON.
        where: its file, for messages.

    Raises:
        BrokenRecordError: naming the file and the first thing that is wrong.
    """

    def broken(reason: str) -> BrokenRecordError:
        return BrokenRecordError(f"{where}: {reason}")

    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise broken(f"format {content['format']!r} instead of {FORMAT}")
    if (reason := _schema_check()(content)) is not None:
        raise broken(reason)
    try:
        actual = digest(content)
    except UserError as error:
        raise broken(str(error)) from None
    if actual != content["digest"]:
        raise broken("the content does not match its digest: it was changed after the training")
    planned, rounds = content["settings"]["task"]["rounds"], content["rounds"]
    ended = content["diverged"]
    expected = planned if ended is None else ended["round"] - 1
    if [entry["round"] for entry in rounds] != list(range(1, expected + 1)) or expected > planned:
        raise broken(f"its rounds are not 1 to {expected}")
    for entry in rounds:
        # Not by the schema: it takes 1.0 for an integer, and longer for so many numbers.
        if not all(type(k) is int and k >= 0 for k in entry["clients"] + entry["excluded"]):
            raise broken(f"round {entry['round']} names a client that is no number")
        if not all(type(w) in (int, float) for w in entry["weights"] or ()):
            raise broken(f"round {entry['round']} has a weight that is no number")
        if entry["weights"] is not None and len(entry["weights"]) != len(entry["clients"]):
            raise broken(f"round {entry['round']} has not one weight for each client")
    clients = content["clients"]
    if len(clients["class_counts"]) != clients["n"]:
        raise broken("not one row of class counts for each client")
    if len(clients["attackers"]) != content["cell"]["n_attackers"]:
        raise broken("its attackers are not as many as its cell says")
    return content


def read(path: str | os.PathLike) -> dict:
    """Read a record.

    Raises:
        BrokenRecordError: if the file is missing or is not a whole, unchanged record.
    """
    # A pipe would be waited for.
    if os.path.exists(path) and not os.path.isfile(path):
        raise BrokenRecordError(f"{path}: {NO_FILE}")
    try:
        content = read_json(path)
    except UserError as error:
        raise BrokenRecordError(str(error)) from None
    except OSError as error:
        raise BrokenRecordError(f"{path}: {error.strerror}") from None
    return check(content, path)


def write(path: str | os.PathLike, content: dict) -> None:
    """Write a record atomically.

    Raises:
        UserError: if the disk refuses, or the record is not one.
    """
    # Without line breaks: a hundred clients' weights over 200 rounds would be 20,000 lines.
    write_json(path, check(content, path), indent=None)
