"""What a trained cell leaves behind: one JSON file with settings, metrics and provenance."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from arfl import seeds
from arfl.errors import UserError
from arfl.files import write_json

FORMAT = 1
_LIBRARIES = ("torch", "numpy", "numba", "arfl")


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


def provenance(device_type: str, gpu_name: str | None, threads: int, fingerprint: str) -> dict:
    """Where, when and with what a cell is being trained.

    Args:
        device_type: "cpu" or "cuda".
        gpu_name: the GPU's name, None on a CPU.
        threads: PyTorch's threads.
        fingerprint: of the numeric code, see `arfl.fingerprint`.
    """
    status = _git("status", "--porcelain", "--untracked-files=no")
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
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "arfl", *sys.argv[1:]]),
    }


def describe_data(meta: dict, stands_for: str) -> dict:
    """The part of a prepared dataset's metadata that every table made from it needs."""
    keys = ("name", "kind", "note", "checksum", "n_train", "n_test", "n_classes", "class_names")
    return {key: meta[key] for key in keys} | {"stands_for": stands_for}


def write(
    path: str | os.PathLike, cell: dict, settings: dict, data: dict, trained: dict, origin: dict
) -> None:
    """Write a cell's record atomically.

    Args:
        path: of the JSON file.
        cell: id, task, attack, n_attackers, noise_std, aggregator and seed.
        settings: the resolved settings that were trained with.
        data: from `describe_data`.
        trained: ``clients``, ``rounds`` and ``seconds`` from `arfl.federation.run`.
        origin: from `provenance`.

    Raises:
        UserError: if the disk refuses, or a number is not finite.
    """
    streams = {role: seeds.integer(cell["seed"], role) for role in seeds.ROLES}
    content = {
        "format": FORMAT,
        "cell": cell,
        "settings": settings,
        "data": data,
        **trained,
        "seeds": streams,
        "provenance": origin,
    }
    try:
        write_json(path, content)
    except ValueError as error:
        raise UserError(f"{path}: a metric is not a finite number ({error})") from error
