"""Attacks on federated training, one file each; the file's name is the attack's name.

To add one, add a file that defines a subclass of `Attack` and names it ``ATTACK``; its keyword
arguments are the options of config.yaml. The first argument is the prepared dataset's metadata.
"""

import importlib
import inspect
import pkgutil

from arfl.attacks._base import Attack, Probe
from arfl.errors import UserError

__all__ = ["Attack", "Probe", "make", "names"]


def names() -> tuple[str, ...]:
    """The known attacks, by file name."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def make(name: str, meta: dict, /, **options) -> Attack:
    """The attack ``name`` on a dataset.

    Args:
        name: one of `names`.
        meta: the prepared dataset's metadata (classes, normalisation, trigger).
        options: the attack's own settings.

    Raises:
        UserError: for an unknown attack or option, or an option that the dataset cannot serve.
    """
    if name not in names():
        raise UserError(f"unknown attack {name!r}; choose one of {', '.join(names())}")
    rule = importlib.import_module(f"arfl.attacks.{name}").ATTACK
    known = {
        key: parameter
        for key, parameter in inspect.signature(rule).parameters.items()
        if key != "meta"
    }
    listed = ", ".join(known) or "none"
    for option in options:
        if option not in known:
            raise UserError(f"attack {name} has no option {option!r}; its options: {listed}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise UserError(
                f"attack {name} on {meta['name']} needs the option {option!r}; set it under the "
                f"task's `attacks` in config.yaml"
            )
    return rule(meta, **options)
