"""What an aggregation rule is: many clients' models in, one global model out.

A rule is a file of `arfl.aggregators` that decorates a function by `rule`: ``(models, *, options)``
to the new model and the clients' weights. The function can be called on its own::

    from arfl.aggregators import residual_reweighting

    model, weights = residual_reweighting(models, variant="paper", lam=2.0, delta=0.1)

The round loop gets it through `make`, which fixes the options, and hands over the `Context`::

    aggregate = make("residual_reweighting", delta=0.01)
    model, weights, excluded = aggregate(models, context)
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from arfl import registry
from arfl.errors import UserError
from arfl.kernels.backend import backend

SUBMISSIONS = ("models", "gradients")
"""What clients send: the models that they trained, or the model that one step at the honest
learning rate along the sum of all their local steps' gradients leads to."""


@dataclass(frozen=True)
class Context:
    """What a rule with a memory, or one that looks beyond the K submitted models, may use.

    Attributes:
        global_model: (N,) the model the round started from.
        client_ids: (K,) identity of each row of the models.
        sample_counts: (K,) training samples of each client.
        output_layer: the output layer's weight matrix in the flat model.
        buffers: batch-norm running statistics in the flat model; () if none.
        n_attackers: the declared number of attackers among the K clients, for rules that ask for
            it: the true number.
        round_number: counted from 1.
    """

    global_model: Tensor
    client_ids: tuple[int, ...]
    sample_counts: tuple[int, ...]
    output_layer: slice
    buffers: tuple[slice, ...]
    n_attackers: int = 0
    round_number: int = 1


class Aggregation(NamedTuple):
    """What a round's aggregation leaves.

    Attributes:
        model: (N,) the new global model.
        weights: (K,) the clients' weights, which sum to one; None for rules that weigh no client.
        excluded: the row indices left out because they held a NaN or an infinity.
    """

    model: Tensor
    weights: Tensor | None
    excluded: tuple[int, ...]


class NoFiniteModelError(UserError):
    """Every submitted model holds a NaN or an infinity, so that there is nothing to aggregate."""


class FiniteRows(NamedTuple):
    """The rows that count, and where they stood.

    Attributes:
        models: (K', N) the finite rows; the input itself, not a copy, if all are.
        kept: their row indices in the input, ascending.
        excluded: the row indices left out, ascending.
    """

    models: Tensor
    kept: tuple[int, ...]
    excluded: tuple[int, ...]


class InRounds:
    """A rule as the round loop calls it; the base of rules with a memory or in need of the context.

    Its constructor takes the rule's options by keyword.

    Attributes:
        submission: one of `SUBMISSIONS`.
    """

    submission = "models"

    def combine(self, models: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        """Finite models (K, N) to the (N,) model and (K,) weights, or None for these."""
        raise UserError(f"{type(self).__name__} must define combine(models, context)")

    def state(self) -> dict[str, Tensor]:
        """What the rule remembers from round to round, as named tensors; see `restore`."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned, on the device that the models are on."""


class _WithoutMemory(InRounds):
    def __init__(self, function: Callable, options: dict):
        self._function, self._options = function, options

    def combine(self, models, context):
        return self._function(models, **self._options)


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


def rule(
    *per_client: str,
    linear: bool = False,
    check: Callable | None = None,
    in_rounds: type[InRounds] | None = None,
) -> Callable:
    """Decorate a rule's function: it leaves out the rows that are not finite, and is registered.

    Args:
        per_client: names of the function's arguments that hold one entry for each row of
            ``models``.
        linear: see `combine_finite`. The function is then first called with all rows, and its
            result discarded where that is not finite.
        check: called with all options by keyword; raises `UserError` for a value out of range.
        in_rounds: how the round loop calls a rule with a memory, or one that looks at the
            `Context`; its constructor's options are then the rule's.

    Returns:
        The decorated function. Its attribute ``combine`` is the function as written, which sees
        finite rows only.
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

        on_finite_rows.combine = function
        on_finite_rows.linear = linear
        on_finite_rows.check = check
        on_finite_rows.in_rounds = in_rounds
        return registry.register(on_finite_rows)

    return decorate


class Aggregator:
    """A rule with its options fixed, for the rounds of one run; see `make`.

    Attributes:
        submission: what the clients send, one of `SUBMISSIONS`.
    """

    def __init__(self, in_rounds: InRounds, linear: bool):
        self._in_rounds, self._linear = in_rounds, linear
        self.submission = in_rounds.submission
        self.state, self.restore = in_rounds.state, in_rounds.restore

    def __call__(self, models: Tensor, context: Context) -> Aggregation:
        """Aggregate (K, N) models; if none is finite the global model is returned unchanged."""

        def of_rows(rows: FiniteRows) -> tuple[Tensor, Tensor | None]:
            if not rows.excluded:
                return self._in_rounds.combine(rows.models, context)
            kept = replace(
                context,
                client_ids=tuple(context.client_ids[row] for row in rows.kept),
                sample_counts=tuple(context.sample_counts[row] for row in rows.kept),
            )
            return self._in_rounds.combine(rows.models, kept)

        try:
            model, weights, rows = combine_finite(models, of_rows, self._linear)
        except NoFiniteModelError:
            return Aggregation(context.global_model.clone(), None, tuple(range(len(models))))
        return Aggregation(model, weights, rows.excluded)


def make(name: str, /, **options: object) -> Aggregator:
    """The rule ``name`` with its options fixed, for the rounds of one run.

    A rule with a memory (FoolsGold) keeps it in what is returned: make a new one for each run.

    Args:
        name: a file of `arfl.aggregators`.
        options: keyword options of the rule, see its function.

    Raises:
        UserError: if the name or an option is unknown, or a value out of range.
    """
    function = registry.get("aggregators", name)
    configured = function if function.in_rounds is None else function.in_rounds
    defaults = registry.options(configured)
    for option in options:
        if option not in defaults:
            raise registry.no_option(f"aggregator {name}", option, defaults)
    if function.check is not None:
        try:
            function.check(**(defaults | options))
        except TypeError as error:
            raise UserError(f"{name}: an option has a value of the wrong type: {error}") from None
    if function.in_rounds is None:
        return Aggregator(_WithoutMemory(function.combine, options), function.linear)
    return Aggregator(function.in_rounds(**options), function.linear)
