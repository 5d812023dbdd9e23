"""The one registry: aggregation rules, attacks, datasets, networks and partition schemes.

An entry is a file. Its name is the entry's name, and the folder it lies in says what it is:

==============  ==========================================  ====================================
folder          what its file defines                       contract
==============  ==========================================  ====================================
`aggregators`   a function decorated by ``@rule()``         `arfl.aggregation`
`attacks`       a subclass of ``Attack``                    `arfl.attack`
`datasets`      a function decorated by ``@dataset()``      `arfl.dataset`
`networks`      a subclass of ``Network``                   `arfl.network`
`partitions`    a function decorated by ``@scheme``         `arfl.partition`
==============  ==========================================  ====================================

A name with a slash is of another library, see `arfl.libraries`.

Keyword-only parameters are the entry's options, those without a default are required. Files whose
name starts with an underscore are shared parts and no entries. Nothing is imported before it is
asked for, and this module needs the standard library alone.
"""

import difflib
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from arfl import libraries
from arfl.errors import UserError

KINDS = {
    "aggregators": "aggregator",
    "attacks": "attack",
    "datasets": "dataset",
    "networks": "network",
    "partitions": "partition",
}
"""Folder -> what one of its entries is called in messages."""

_CONTRACTS = {
    "aggregators": "a function decorated by @rule() of arfl.aggregation",
    "attacks": "a subclass of arfl.attack.Attack",
    "datasets": "a function decorated by @dataset() of arfl.dataset",
    "networks": "a subclass of arfl.network.Network",
    "partitions": "a function decorated by @scheme of arfl.partition",
}
_ENTRIES: dict[str, Any] = {}


def names(folder: str) -> tuple[str, ...]:
    """The entries of one of `KINDS`, sorted, found by their files without importing any."""
    files = Path(__file__).parent.joinpath(folder).glob("[!_]*.py")
    return tuple(sorted(file.stem for file in files))


def _hint(name: object, what: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    listed = f"{what}: {', '.join(known) or 'none'}"
    return f"{listed}; did you mean {close[0]!r}?" if close else listed


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a name that is not known, with all that are and the nearest."""
    return UserError(f"unknown {what} {name!r}; {_hint(name, 'known', known)}")


def no_option(what: str, option: str, known: Iterable[str]) -> UserError:
    """The error for an option that an entry does not have, likewise."""
    return UserError(f"{what} has no option {option!r}; {_hint(option, 'its options', known)}")


def register(entry: Callable) -> Callable:
    """Note what a file defines; the contracts' decorators and base classes call this.

    Raises:
        UserError: if the file defines two entries, or a class with a misspelt hook.
    """
    module = entry.__module__
    if _ENTRIES.get(module, entry).__qualname__ != entry.__qualname__:
        raise UserError(
            f"{module} defines two entries, {_ENTRIES[module].__qualname__} and "
            f"{entry.__qualname__}; one file holds one"
        )
    if inspect.isclass(entry):
        _check_hooks(entry)
    _ENTRIES[module] = entry
    return entry


def fault(error: BaseException) -> str | None:
    """The entry's file and line that an error came from; None if it came from none.

    Whoever adds a rule or an attack is told its file, not where the package called it.
    """
    package, place = Path(__file__).parent, None
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        if file.parent.parent == package and file.parent.name in KINDS and file.stem[0] != "_":
            kind = KINDS[file.parent.name]
            place = f"{kind} {file.stem}, {file}, line {frame.lineno}"
    return place


def _check_hooks(entry: type) -> None:
    """Refuse a method whose name is nearly a hook's: nobody would ever call it."""
    hooks = {name for base in entry.__mro__[1:] for name in dir(base) if name[0] != "_"}
    for name in vars(entry):
        if name[0] == "_" or name in hooks:
            continue
        if close := difflib.get_close_matches(name, hooks, n=1, cutoff=0.8):
            raise UserError(
                f"{entry.__module__}: {entry.__qualname__} has {name!r}, which is no hook and is "
                f"never called; did you mean {close[0]!r}?"
            )


def get(folder: str, name: str) -> Any:
    """The entry ``name`` of a folder of `KINDS`, imported if need be.

    Raises:
        UserError: if there is no such file, or it does not define what its folder asks for; or
            the library that the name starts with is not installed.
    """
    if "/" in name:
        library, _ = libraries.split(folder, name)
        return importlib.import_module(f"arfl.{folder}._{library}").entry(name)
    if name not in names(folder):
        raise unknown(KINDS[folder], name, names(folder))
    module = importlib.import_module(f"arfl.{folder}.{name}")
    if module.__name__ not in _ENTRIES:
        raise UserError(
            f"{module.__file__} must define {_CONTRACTS[folder]}; see docs/extending.md"
        )
    return _ENTRIES[module.__name__]


def options(entry: Callable) -> dict[str, object]:
    """The entry's options and their defaults; `inspect.Parameter.empty` for a required one.

    Examples:
        >>> options(get("aggregators", "trimmed_mean"))
        {'share': 0.2}
    """
    parameters = inspect.signature(entry).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_options(folder: str, name: str, given: Mapping[str, object], where: str = "") -> None:
    """Refuse options that the entry does not have, and the lack of those that it needs.

    Args:
        folder: one of `KINDS`.
        name: the entry.
        given: its options.
        where: what the options are for, to be named in a message, for example a dataset.

    Raises:
        UserError: naming entry, option and what there is.
    """
    what = f"{KINDS[folder]} {name}"
    known = options(get(folder, name))
    for option in given:
        if option not in known:
            raise no_option(what, option, known)
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in given:
            raise UserError(
                f"{what}{f' on {where}' if where else ''} needs the option {option!r}; set it in "
                "config.yaml"
            )
