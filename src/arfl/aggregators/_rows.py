"""What every rule asks of its input, in one place: a (K, N) matrix whose finite rows count."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from arfl.aggregators._backend import backend
from arfl.errors import UserError


class NoFiniteModelError(UserError):
    """Every submitted model holds a NaN or an infinity, so that there is nothing to aggregate."""


class FiniteRows(NamedTuple):
    """The rows that count, and where they stood."""

    models: Tensor
    """(K', N) the finite rows; the input itself, not a copy, if all are."""
    kept: tuple[int, ...]
    """their row indices in the input, ascending."""
    excluded: tuple[int, ...]
    """the row indices left out, ascending."""


def _check(models: Tensor) -> None:
    """Refuse what is no (K, N) matrix of float32 or float64, with a ValueError."""
    if models.ndim != 2 or models.shape[0] == 0 or models.shape[1] == 0:
        raise ValueError(
            f"models must be a (clients, parameters) matrix, got shape {tuple(models.shape)}"
        )
    if models.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"models must be float32 or float64, got {models.dtype}")


def finite_rows(models: Tensor) -> FiniteRows:
    """Leave out each row that holds a NaN or an infinity.

    One pass over the matrix where all rows are finite and, on a GPU, the only synchronisation of
    a rule.

    Args:
        models: (K, N) float32 or float64, K and N at least 1.

    Raises:
        ValueError: if the shape or the type is another.
        NoFiniteModelError: if no row is finite.
    """
    _check(models)
    models = models.detach()
    finite = backend(models).finite_rows(models)
    kept = tuple(row for row, good in enumerate(finite) if good)
    if not kept:
        raise NoFiniteModelError(
            f"none of the {len(finite)} submitted models is finite, so there is nothing to "
            "aggregate; lower the learning rate or the attack's scale"
        )
    if len(kept) == len(finite):
        return FiniteRows(models, kept, ())
    excluded = tuple(row for row, good in enumerate(finite) if not good)
    return FiniteRows(models[list(kept)], kept, excluded)


def _spread_weights(weights: Tensor | None, kept: tuple[int, ...], n_rows: int) -> Tensor | None:
    """(K,) weights from those (K',) of the kept rows; the rows left out get 0."""
    if weights is None or len(kept) == n_rows:
        return weights
    spread = weights.new_zeros(n_rows)
    spread[list(kept)] = weights
    return spread


def combine_finite(
    models: Tensor, combine: Callable[[FiniteRows], tuple[Tensor, Tensor | None]], linear: bool
) -> tuple[Tensor, Tensor | None, FiniteRows]:
    """Combine the finite rows of a matrix.

    Args:
        models: (K, N), see `finite_rows`.
        combine: from the rows to the (N,) model and their (K',) weights, or None for these.
        linear: whether the model is a sum of all rows with fixed factors. A row that is not finite
            then shows in the model, so that the rows are looked at only if it does.

    Returns:
        The model, the weights spread to (K,), and the rows.

    Raises:
        ValueError, NoFiniteModelError: see `finite_rows`.
    """
    if linear:
        _check(models)
        rows = FiniteRows(models.detach(), tuple(range(len(models))), ())
        model, weights = combine(rows)
        if all(backend(models).finite_rows(model.unsqueeze(0))):
            return model, weights, rows
    rows = finite_rows(models)
    model, weights = combine(rows)
    return model, _spread_weights(weights, rows.kept, len(models)), rows


def rule(*per_client: str, linear: bool = False) -> Callable:
    """Decorate a rule so that it leaves out the rows that are not finite.

    The function under the decorator (its ``__wrapped__``) sees finite rows only, unless it is
    linear: then it may first be called with all rows, and its result discarded.

    Args:
        per_client: names of the rule's arguments that hold one entry for each row of ``models``.
        linear: see `combine_finite`.
    """

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def on_finite_rows(*args, **kwargs):
            call = signature.bind(*args, **kwargs)
            models = call.arguments["models"]
            given = {
                name: call.arguments[name]
                for name in per_client
                if call.arguments.get(name) is not None
            }
            for name, entries in given.items():
                if len(entries) != len(models):
                    raise ValueError(f"{name} has {len(entries)} entries for {len(models)} models")

            def combine(rows: FiniteRows):
                call.arguments["models"] = rows.models
                if rows.excluded:
                    for name, entries in given.items():
                        call.arguments[name] = [entries[row] for row in rows.kept]
                return function(*call.args, **call.kwargs)

            return combine_finite(models, combine, linear)[:2]

        on_finite_rows.linear = linear
        return on_finite_rows

    return decorate
