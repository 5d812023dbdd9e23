"""Against residual reweighting itself: attackers that know the rule and stay inside its bound."""

import math

import torch
from torch import Tensor

from arfl.aggregators.median import median
from arfl.aggregators.residual_reweighting import residual_reweighting
from arfl.attacks._colluding import Colluding
from arfl.kernels.backend import SMALL

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the parameters that the attackers try to move."""
REACHES = (0.3, 0.99, 2.0, 4.0)
"""How far they try to move them, as multiples of the bound for the honest values alone."""
PROBE = 1024
"""Parameters on which they try the rule where it has no compiled kernel."""


def _tried(n_clients: int, n_parameters: int) -> slice:
    """Evenly spaced parameters: few, or as many as the rule's compiled kernels are used for."""
    values = n_clients * n_parameters
    step = values // (2 * SMALL) if values >= SMALL else -(-n_parameters // PROBE)
    return slice(None, None, max(1, step))


def reach(crowd: Tensor, n_clients: int, lam: float, delta: float) -> tuple[Tensor, Tensor]:
    r"""Centre and reach (N,) of the values that the rule keeps, judged by the honest models.

    The reach is :math:`Z \tau / \delta`, :math:`Z = \lambda\sqrt{2/K}`, with the median for the
    line and :math:`\tau = 1.48 (1 + 5 / (K - 1)) \mathrm{med}|y - \tilde y|`: Eq. 12-14's rule, and
    the attacker "edge" of `arfl.studies.theory`.

    Args:
        crowd: (H, N) honest models.
        n_clients: K, the attackers included.
        lam: λ.
        delta: δ, positive.
    """
    centre, _ = median.combine(crowd)
    spread, _ = median.combine((crowd - centre).abs())
    tau = 1.48 * (1 + 5 / (n_clients - 1)) * spread
    return centre, lam * math.sqrt(2 / n_clients) * tau / delta


def inconspicuous(crowd: Tensor, n_attackers: int) -> Tensor:
    """(A, N) values among the middle half of the (H, N) honest ones, each between two of them.

    They are apart from each other, since equal values lie on no line of the ranks and lose
    confidence.
    """
    ordered = crowd.sort(dim=0).values
    places = 0.25 + 0.5 * (torch.arange(n_attackers, dtype=torch.float64) + 0.5) / n_attackers
    places = places * (len(crowd) - 1)
    low = places.long().clamp(max=max(0, len(crowd) - 2))
    part = (places - low).to(crowd)[:, None]
    low = low.to(crowd.device)
    return torch.lerp(ordered[low], ordered[(low + 1).clamp(max=len(crowd) - 1)], part)


class Adaptive(Colluding):
    r"""The attackers move some parameters to the bound, and are beyond reproach in all others.

    Residual reweighting keeps a value whose confidence exceeds δ, and weighs a client's whole model
    by the sum of its confidences (Eq. 10). So a value among the middle of the honest ones earns
    weight, with a confidence near 1, and the weight so earned moves other parameters, where the
    value lies as far as the rule lets it: against the honest update, near the distance
    :math:`Z\tau/\delta`. Which share of the parameters, those with the longest reach, and how near,
    is found by trying the rule on the round's honest models: what moves the result furthest from
    the one without attackers.

    Args:
        meta: the prepared dataset's metadata.
        variant: of the attacked `residual_reweighting`.
        lam: its λ.
        delta: its δ, in (0, 1).
    """

    def __init__(self, meta: dict, *, variant: str = "paper", lam: float = 2.0, delta: float = 0.1):
        self._options = {"variant": variant, "lam": lam, "delta": delta}

    def vector(self, crowd, view):
        """See `Colluding.vector`."""
        n_attackers = len(view.attackers)
        options = self._options
        centre, bound = reach(
            crowd, len(view.honest_models) + n_attackers, options["lam"], options["delta"]
        )
        against = torch.where(crowd.mean(0) < view.global_model, bound, -bound)
        among = inconspicuous(crowd, n_attackers)
        tried = _tried(len(crowd) + n_attackers, crowd.shape[1])
        honest = crowd[:, tried]
        without, _ = residual_reweighting.combine(honest, **options)
        best, chosen = -1.0, among
        order = bound.argsort(descending=True)
        for share in SHARES:
            moved = torch.zeros_like(bound, dtype=torch.bool)
            moved[order[: max(1, round(share * len(order)))]] = True
            for multiple in REACHES:
                sent = torch.where(moved, centre + multiple * against, among)
                rows = torch.cat([honest, sent[:, tried]])
                effect = (residual_reweighting.combine(rows, **options)[0] - without).norm().item()
                if effect > best:
                    best, chosen = effect, sent
        return chosen
