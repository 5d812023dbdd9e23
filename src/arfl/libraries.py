"""Rules of other libraries: names like ``byzfl/NNM+TrMean``, checked without importing anything.

What lies before the slash is a library, and what follows are its classes, in the order in which
they are applied: pre-aggregators and, last, an aggregator. Standard library only, as the Snakefile
needs.
"""

import ast
import functools
import importlib.metadata
import importlib.util
import re
from pathlib import Path

from arfl.errors import UserError

BRIDGES = {"aggregators": ("byzfl",)}
"""Folder of `arfl.registry` -> libraries; ``<folder>/_<library>.py`` builds their entries."""
_FILES = {"byzfl": ("aggregators/aggregators.py", "aggregators/preaggregators.py")}
_CHAIN = re.compile(r"[A-Za-z]\w*(\+[A-Za-z]\w*)*")


def folder_of(library: str) -> Path | None:
    """Where the library lies; None if it is not installed."""
    found = importlib.util.find_spec(library)
    return Path(found.origin).parent if found is not None and found.origin else None


def version(library: str) -> str | None:
    """The installed version; None without it."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def classes(library: str) -> tuple[str, ...]:
    """The classes that can stand in a name, sorted, read from the library's files.

    Raises:
        UserError: if the library is not installed.
    """
    folder = folder_of(library)
    if folder is None:
        raise UserError(f"{library} is not installed: pip install {library}")
    found = []
    for name in _FILES[library]:
        tree = ast.parse(folder.joinpath(name).read_text(encoding="utf-8"))
        found += [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return tuple(sorted(found))


def split(folder: str, name: str) -> tuple[str, tuple[str, ...]]:
    """Library and classes of a name.

    Raises:
        UserError: if there is no such library here, or the rest does not read ``A+B``.
    """
    library, _, chain = name.partition("/")
    known = BRIDGES.get(folder, ())
    if library not in known or not _CHAIN.fullmatch(chain):
        raise UserError(
            f"{name!r} does not read library/Class or library/Class+Class with one of the "
            f"libraries {', '.join(known) or 'none'}"
        )
    return library, tuple(chain.split("+"))


def check(folder: str, name: str) -> None:
    """Refuse a name of no class; where the library is not installed, form alone is checked.

    So a report can be made of records where the library is not at hand; training says what lacks.

    Raises:
        UserError: naming what there is.
    """
    library, chain = split(folder, name)
    if folder_of(library) is None:
        return
    for member in chain:
        if member not in classes(library):
            raise UserError(
                f"{library} {version(library)} has no aggregator {member!r}; it has "
                f"{', '.join(classes(library))}"
            )
