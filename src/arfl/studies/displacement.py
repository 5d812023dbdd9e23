"""How far attackers who know residual reweighting move it, beside Eq. 14's bound and its model."""

import math
from collections.abc import Iterable

import torch

from arfl import attack
from arfl.aggregators.residual_reweighting import residual_reweighting
from arfl.attack import View
from arfl.studies import theory

COMBINATIONS = ((10, 1), (10, 2), (10, 4), (100, 5), (100, 10), (100, 20), (100, 40))
"""(K, A) with 5, 10, 20 and 40 % of attackers, where these are whole clients."""
_SAMPLES = 1000
"""S of the one-parameter model: enough that the skew of its clients' means does not show."""


def displacements(
    combinations: Iterable[tuple[int, int]] = COMBINATIONS,
    deltas: Iterable[float] = (0.01, 0.1),
    lam: float = 2.0,
    n_parameters: int = 1024,
    n_draws: int = 3,
    seed: int = 0,
) -> dict[str, list]:
    r"""What one round does where the honest parameters are normal with standard deviation 1.

    All lengths are in that deviation. The whole rule, its text's variant, is attacked by
    `arfl.attacks.adaptive`; the one-parameter model of Eq. 12-14 by the attacker "edge" of
    `arfl.studies.theory`, whose error is set beside it: there is no other parameter on which an
    attacker could earn weight.

    Args:
        combinations: pairs of K, all clients, and A, attackers.
        deltas: values of δ, in (0, 1).
        lam: λ.
        n_parameters: N of the whole rule's models.
        n_draws: draws for each row, of which the means are given.
        seed: of the random numbers; the same seed gives the same columns.

    Returns:
        Columns of equal length, a row for each (K, A, δ): ``n_clients``, ``n_attackers``,
        ``delta``; ``weight``, that of all attackers together; ``moved_most``, how far the parameter
        that is moved most is from where it is without attackers, and ``moved``, the root mean
        square over all; ``one_parameter``, the model's error; ``bound``, the term
        :math:`1/(\delta\sqrt K)` of Eq. 14, which bounds its model up to a constant.
    """
    names = (
        "n_clients", "n_attackers", "delta", "weight", "moved_most", "moved", "one_parameter",
        "bound",
    )  # fmt: skip
    columns: dict[str, list] = {name: [] for name in names}
    deltas = list(deltas)
    for n_clients, n_attackers in combinations:
        for delta in deltas:
            drawn = [
                _round(n_clients, n_attackers, lam, delta, n_parameters, seed + draw)
                for draw in range(n_draws)
            ]
            weight, most, moved = (sum(values) / n_draws for values in zip(*drawn, strict=True))
            model = theory.simulate(
                (n_clients,), (_SAMPLES,), (n_attackers / n_clients,), (delta,), lam, n_draws=500
            )
            edge = model["error"][0] * math.sqrt(_SAMPLES)
            row = (n_clients, n_attackers, delta, weight, most, moved, edge)
            for name, value in zip(names, (*row, model["rate_delta"][0]), strict=True):
                columns[name].append(value)
    return columns


def _round(
    n_clients: int, n_attackers: int, lam: float, delta: float, n_parameters: int, seed: int
) -> tuple[float, float, float]:
    """Weight of the attackers, and the largest and root mean square displacement."""
    stream = torch.Generator().manual_seed(seed)
    shape = (n_clients - n_attackers, n_parameters)
    honest = torch.randn(shape, dtype=torch.float64, generator=stream)
    # The honest clients have moved every parameter by one deviation.
    start = torch.full((n_parameters,), -1.0, dtype=torch.float64)
    attackers = tuple(range(n_attackers))
    view = View(start, honest, attackers, 1, tuple(torch.Generator() for _ in attackers))
    made = attack.make("adaptive", {"name": "drawn models"}, lam=lam, delta=delta)
    sent = made.collude(honest.new_zeros(n_attackers, n_parameters), view)
    model, weights = residual_reweighting(torch.cat([honest, sent]), lam=lam, delta=delta)
    without, _ = residual_reweighting(honest, lam=lam, delta=delta)
    distance = (model - without).abs()
    return (
        weights[-n_attackers:].sum().item(),
        distance.max().item(),
        distance.square().mean().sqrt().item(),
    )
