"""What every rule asks of its input, in one place: a (K, N) matrix whose finite rows count."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

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


def finite_rows(models: Tensor) -> FiniteRows:
    """Check the matrix and leave out each row that holds a NaN or an infinity.

    One pass over the matrix where all rows are finite and, on a GPU, the only synchronisation of
    a rule.

    Args:
        models: (K, N) float32 or float64, K and N at least 1.

    Raises:
        ValueError: if the shape or the type is another.
        NoFiniteModelError: if no row is finite.
    """
    if models.ndim != 2 or models.shape[0] == 0 or models.shape[1] == 0:
        raise ValueError(
            f"models must be a (clients, parameters) matrix, got shape {tuple(models.shape)}"
        )
    if models.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"models must be float32 or float64, got {models.dtype}")
    models = models.detach()
    # A sum passes NaN and infinity on and needs no (K, N) mask, but may itself overflow.
    finite = models.sum(dim=1).isfinite().tolist()
    if not all(finite):
        finite = (models.amin(dim=1).isfinite() & models.amax(dim=1).isfinite()).tolist()
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


def spread_weights(weights: Tensor | None, kept: tuple[int, ...], n_rows: int) -> Tensor | None:
    """(K,) weights from those (K',) of the kept rows; the rows left out get 0."""
    if weights is None or len(kept) == n_rows:
        return weights
    spread = weights.new_zeros(n_rows)
    spread[list(kept)] = weights
    return spread


def rule(*per_client: str) -> Callable:
    """Decorate a rule so that it leaves out the rows that are not finite.

    The function under the decorator (its ``__wrapped__``) sees finite rows only.

    Args:
        per_client: names of the rule's arguments that hold one entry for each row of ``models``.
    """

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def on_finite_rows(*args, **kwargs):
            call = signature.bind(*args, **kwargs)
            n_rows = len(call.arguments["models"])
            for name in per_client:
                entries = call.arguments.get(name)
                if entries is not None and len(entries) != n_rows:
                    raise ValueError(f"{name} has {len(entries)} entries for {n_rows} models")
            rows = finite_rows(call.arguments["models"])
            call.arguments["models"] = rows.models
            if rows.excluded:
                for name in per_client:
                    if call.arguments.get(name) is not None:
                        entries = call.arguments[name]
                        call.arguments[name] = [entries[row] for row in rows.kept]
            model, weights = function(*call.args, **call.kwargs)
            return model, spread_weights(weights, rows.kept, n_rows)

        return on_finite_rows

    return decorate
