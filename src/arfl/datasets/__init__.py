"""Datasets: one file per dataset, the file's name is the dataset's name.

Three steps, each of which leaves files that can be opened:

- `fetch` puts verified source files and the receipt ``fetched.json`` into a raw folder,
- `prepare` turns them into memory-mappable arrays with a ``meta.json``,
- `load` maps a prepared folder; it needs NumPy alone, so that training starts quickly.

A dataset's module has ``EMBEDDED`` (true when it needs no file) and a function
``prepare(raw_dir, *, ...options)`` that returns a `Preparation`. Modules whose name starts with an
underscore are shared parts.
"""

import importlib
import inspect
import os
from pathlib import Path
from types import ModuleType

from arfl.datasets import _sources
from arfl.datasets._prepared import Preparation, PreparedDataset, load, write
from arfl.errors import UserError
from arfl.files import write_json

__all__ = ["Preparation", "PreparedDataset", "fetch", "load", "names", "prepare"]


def names() -> tuple[str, ...]:
    """The datasets that `fetch` and `prepare` know, sorted."""
    files = Path(__file__).parent.glob("[!_]*.py")
    return tuple(sorted(file.stem for file in files))


def fetch(
    name: str,
    raw_dir: str | os.PathLike,
    sources: str | os.PathLike,
    mirror: str | os.PathLike | None = None,
) -> None:
    """Put a dataset's source files, verified, and the receipt ``fetched.json`` into a folder.

    With a mirror, the files are taken from ``<mirror>/<name>/`` and nowhere else; without one, from
    ``raw_dir`` if the user has put them there, else from the network. Files may be packed as
    ``.gz`` or ``.xz``; the raw folder gets them unpacked. Nothing is written to a mirror.

    Args:
        name: one of `names`; for an embedded dataset the receipt alone is written.
        raw_dir: this dataset's raw folder, for example ``data/raw/mnist``.
        sources: the table of sources, ``workflow/resources/datasets.csv``.
        mirror: a folder with one folder per dataset; by default the environment variable
            ``ARFL_DATA_MIRROR``, if it is set.

    Raises:
        UserError: if a file cannot be had or is not what it should be; the message says what to
            put where.
    """
    if _module(name).EMBEDDED:
        write_json(Path(raw_dir) / _sources.RECEIPT, {"dataset": name, "files": []})
        return
    if mirror is None:
        mirror = os.environ.get("ARFL_DATA_MIRROR") or None
    _sources.fetch(name, Path(raw_dir), sources, mirror)


def prepare(
    name: str, raw_dir: str | os.PathLike, out_dir: str | os.PathLike, /, **options: object
) -> PreparedDataset:
    """Turn fetched files into the prepared form and load it.

    Args:
        name: one of `names`.
        raw_dir: the folder that `fetch` filled for this dataset; embedded datasets ignore it.
        out_dir: the folder to write, for example ``data/prepared/mnist``; it appears complete or
            not at all and replaces an older one.
        options: settings of the dataset, the keyword arguments of its module's ``prepare``.

    Raises:
        UserError: for an unknown dataset or option, and for whatever is wrong with the files.
    """
    module = _module(name)
    known = [
        parameter.name
        for parameter in inspect.signature(module.prepare).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "none"
            raise UserError(f"dataset {name} has no option {option!r}; its options: {listed}")
    write(name, module.prepare(Path(raw_dir), **options), Path(out_dir))
    return load(out_dir)


def _module(name: str) -> ModuleType:
    if name not in names():
        raise UserError(f"unknown dataset {name!r}; known datasets: {', '.join(names())}")
    return importlib.import_module(f"arfl.datasets.{name}")
