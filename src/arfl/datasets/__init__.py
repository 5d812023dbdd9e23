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

from arfl.datasets._prepared import Preparation, PreparedDataset, load, write
from arfl.errors import UserError

__all__ = ["Preparation", "PreparedDataset", "load", "names", "prepare"]


def names() -> tuple[str, ...]:
    """The datasets that `fetch` and `prepare` know, sorted."""
    files = Path(__file__).parent.glob("[!_]*.py")
    return tuple(sorted(file.stem for file in files))


def prepare(
    name: str, raw_dir: str | os.PathLike, out_dir: str | os.PathLike, **options: object
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
