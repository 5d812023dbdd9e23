"""Aggregation rules: many clients' models in, one global model out.

Each rule is a plain function on a (K, N) tensor, one model a row::

    from arfl.aggregators import residual_reweighting

    model, weights = residual_reweighting(models, variant="paper", lam=2.0, delta=0.1)

and has a name in the registry, through which the round loop gets it::

    aggregate = make("residual_reweighting", delta=0.01)
    model, weights, excluded = aggregate(models, context)

A rule is one file of this folder: its name is the rule's name, and it defines a function of that
name, decorated by `arfl.aggregators._rows.rule`, whose keyword-only arguments are the rule's
options. Two optional functions go with it: ``check(**options)`` raises `UserError` for a value out
of range, and a rule that looks at the `Context` or keeps state over rounds has
``for_rounds(**options)``, which returns its ``(models, context) -> (model, weights)``.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from arfl.aggregators._backend import compile_kernels
from arfl.aggregators._rows import FiniteRows, NoFiniteModelError, combine_finite
from arfl.errors import UserError


@dataclass(frozen=True)
class Context:
    """What a stateful or model-aware rule may look at, besides the K submitted models."""

    global_model: Tensor
    """(N,) the model the round started from."""
    client_ids: tuple[int, ...]
    """(K,) identity of each row of the models."""
    sample_counts: tuple[int, ...]
    """(K,) training samples of each client."""
    output_layer: slice
    """the output layer's weight matrix in the flat model."""
    buffers: tuple[slice, ...]
    """batch-norm running statistics in the flat model; () if none."""


class Aggregation(NamedTuple):
    """What a round's aggregation leaves."""

    model: Tensor
    """(N,) the new global model."""
    weights: Tensor | None
    """(K,) the clients' weights, which sum to one; None for rules that weigh no client."""
    excluded: tuple[int, ...]
    """the row indices left out because they held a NaN or an infinity."""


def names() -> tuple[str, ...]:
    """Names of all rules, sorted: the files of this folder that do not start with ``_``."""
    return tuple(
        sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    )


def make(name: str, /, **options: object) -> Callable[[Tensor, Context], Aggregation]:
    """The rule ``name`` with its options fixed, for the rounds of one run.

    Args:
        name: one of `names`.
        options: keyword options of the rule, see its function.

    Returns:
        A function ``(models, context) -> Aggregation`` of (K, N) models. Rows with a NaN or an
        infinity are left out; if none is left, the global model is returned unchanged. A rule with
        a memory (FoolsGold) keeps it in this function: make a new one for each run.

    Raises:
        UserError: if the name or an option is unknown, or a value out of range.
    """
    if name not in names():
        raise UserError(f"unknown aggregator {name!r}; known aggregators: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    function = _function(name)
    plain = function.__wrapped__
    maker = getattr(module, "for_rounds", None)
    parameters = inspect.signature(maker or plain).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise UserError(
            f"{name} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(sorted(defaults)) or 'none'}"
        )
    if hasattr(module, "check"):
        try:
            module.check(**(defaults | options))
        except TypeError as error:
            raise UserError(f"{name}: an option has a value of the wrong type: {error}") from None
    combine = maker(**options) if maker else lambda models, _: plain(models, **options)

    def aggregate(models: Tensor, context: Context) -> Aggregation:
        def of_rows(rows: FiniteRows) -> tuple[Tensor, Tensor | None]:
            if not rows.excluded:
                return combine(rows.models, context)
            kept = replace(
                context,
                client_ids=tuple(context.client_ids[row] for row in rows.kept),
                sample_counts=tuple(context.sample_counts[row] for row in rows.kept),
            )
            return combine(rows.models, kept)

        try:
            model, weights, rows = combine_finite(models, of_rows, function.linear)
        except NoFiniteModelError:
            return Aggregation(context.global_model.clone(), None, tuple(range(len(models))))
        return Aggregation(model, weights, rows.excluded)

    return aggregate


def _function(name: str) -> Callable:
    """The decorated function of the rule ``name``."""
    module = importlib.import_module(f"{__name__}.{name}")
    function = getattr(module, name, None)
    if not hasattr(function, "__wrapped__"):
        raise UserError(
            f"{module.__file__} must define the function {name}, decorated by @rule() of "
            "arfl.aggregators._rows; see docs/aggregators.md"
        )
    return function


# The functions under their names; each hides the submodule of the same name.
for _name in names():
    globals()[_name] = _function(_name)

__all__ = [
    "Aggregation",
    "Context",
    "NoFiniteModelError",
    "compile_kernels",
    "make",
    "names",
    *names(),
]
