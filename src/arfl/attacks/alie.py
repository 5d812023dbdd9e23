"""A little is enough (Baruch et al. 2019): hide within the spread of the honest models."""

import math
from statistics import NormalDist

from arfl.attacks._colluding import Colluding, mean_and_deviation


def largest_z(n_clients: int, n_attackers: int) -> float:
    """How many standard deviations off the attackers may stay unnoticed (Algorithm 3 there).

    So far out that as many honest clients lie further out as the attackers lack to a majority:
    z with Φ(z) = (K - A - s) / (K - A), s = floor(K / 2 + 1) - A. 0 where there are so few honest
    clients that the quantile is none.

    Args:
        n_clients: K, the attackers included.
        n_attackers: A.
    """
    honest = n_clients - n_attackers
    supporters = math.floor(n_clients / 2 + 1) - n_attackers
    share = (honest - supporters) / honest
    # A majority of attackers needs no supporter: the quantile of one honest client more is used.
    share = min(share, honest / (honest + 1))
    return NormalDist().inv_cdf(share) if share > 0 else 0.0


class Alie(Colluding):
    r"""Each attacker sends mean + z standard deviation of the honest models, by parameter.

    Args:
        meta: the prepared dataset's metadata.
        z: how many standard deviations; None for the paper's `largest_z` of the round.

    References:
        Baruch, Baruch, Goldberg, "A little is enough: circumventing defenses for distributed
        learning", NeurIPS 2019.
    """

    def __init__(self, meta: dict, *, z: float | None = None):
        self._z = z

    def vector(self, crowd, view):
        """See `Colluding.vector`."""
        z, n_attackers = self._z, len(view.attackers)
        if z is None:
            z = largest_z(len(view.honest_models) + n_attackers, n_attackers)
        mean, deviation = mean_and_deviation(crowd)
        return mean + z * deviation
