"""Min-Max (Shejwalkar & Houmansadr 2021): as far as an honest model may be from another."""

import torch
from torch import Tensor

from arfl.attacks._colluding import Colluding, mean_and_deviation
from arfl.errors import UserError

DIRECTIONS = ("deviation", "update", "sign")


def farthest(crowd: Tensor, centre: Tensor, direction: Tensor) -> float:
    r"""Largest γ >= 0 for which centre + γ direction is no outlier by distances.

    That is, :math:`\max_h \|c + \gamma p - M^{(h)}\| \le \max_{hi} \|M^{(h)} - M^{(i)}\|` (Eq. 9
    there). For each h it is a quadratic inequality in γ, so that no search is needed.

    Args:
        crowd: (H, N) honest models.
        centre: (N,) their mean.
        direction: (N,) p.
    """
    offsets, direction = (crowd - centre).double(), direction.double()
    squares = offsets.square().sum(1)
    products = offsets @ offsets.T
    widest = (squares[:, None] + squares[None, :] - 2 * products).max()
    along, length = offsets @ direction, direction.square().sum()
    if length == 0:
        return 0.0
    root = (along.square() + length * (widest - squares)).clamp(min=0).sqrt()
    return max(0.0, ((along + root) / length).min().item())


class MinMax(Colluding):
    """Each attacker sends the mean plus as much of a direction as distances allow.

    Args:
        meta: the prepared dataset's metadata.
        direction: p of the paper: "deviation", minus the standard deviation of each parameter;
            "update", minus the mean update at length 1; "sign", minus its signs.

    Raises:
        UserError: if ``direction`` is none of these.

    References:
        Shejwalkar, Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and
        defenses for federated learning", NDSS 2021.
    """

    def __init__(self, meta: dict, *, direction: str = "deviation"):
        if direction not in DIRECTIONS:
            raise UserError(
                f"min_max: direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}"
            )
        self._direction = direction

    def vector(self, crowd, view):
        """See `Colluding.vector`."""
        mean, deviation = mean_and_deviation(crowd)
        update = mean - view.global_model
        if self._direction == "deviation":
            direction = -deviation
        elif self._direction == "update":
            direction = -torch.nn.functional.normalize(update, dim=0)
        else:
            direction = -update.sign()
        return mean + farthest(crowd, mean, direction) * direction
