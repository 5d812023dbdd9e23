"""What the two variants of the line and of the confidence are, as numbers and small tables."""

import math
from dataclasses import dataclass

from arfl.errors import UserError

VARIANTS = ("paper", "released")

ZERO_RESIDUAL = 16 * 2.0**-52
"""A residual below this share of the terms it is the difference of is rounding, and counts as 0.

Residuals are differences of float64 numbers. Where the values lie on a line exactly (two clients,
or most clients equal), what rounding leaves of them would otherwise be divided by its own median
and look like disagreement. The share refers to the client's own value and to the robust line, so
that no client can raise it for others.
"""


def check_variant(rule: str, variant: str) -> None:
    """Refuse a variant that is none of `VARIANTS`.

    Raises:
        UserError: naming the rule and the choices.
    """
    if variant not in VARIANTS:
        raise UserError(f"{rule}: variant must be one of {', '.join(VARIANTS)}, got {variant!r}")


@dataclass(frozen=True)
class Scheme:
    """The constants of one variant for K clients.

    The fields are what differs between ``paper`` (Eq. 1-11) and ``released`` (the authors' code).
    """

    ranks: tuple[float, ...]
    """x of the sorted values: 1..K or 0..K-1."""
    leverage_root: tuple[float, ...]
    """sqrt(1 - h_kk) of each rank (Eq. 7)."""
    separate_intercept: bool
    """whether the intercept is the repeated median of Eq. 2; else med(y) - slope * med(x)."""
    skip_smallest: int
    """how many of the smallest absolute residuals the scale's median leaves out."""
    scale_factor: float
    """gamma * (1 + 5 / (K - 1)) (Eq. 3)."""
    scale_offset: float
    """added to the scale."""
    clip: float
    """Z = lam * sqrt(2 / K), where Huber's psi clips."""
    zero_extremes: bool
    """whether a confidence of delta or less becomes 0 (Eq. 8); else one below delta is kept."""
    degrees_lost: int
    """K minus the divisor of the variance of the confidences."""


def scheme(variant: str, n_clients: int, lam: float) -> Scheme:
    """The `Scheme` of ``variant`` for ``n_clients`` >= 2 and Huber constant ``lam``."""
    inflation = 1 + 5 / (n_clients - 1)
    clip = lam * math.sqrt(2 / n_clients)
    if variant == "paper":
        ranks = tuple(float(x) for x in range(1, n_clients + 1))
        squares = sum(x * x for x in ranks)
        return Scheme(
            ranks=ranks,
            leverage_root=tuple(math.sqrt(1 - x * x / squares) for x in ranks),
            separate_intercept=True,
            skip_smallest=0,
            scale_factor=1.48 * inflation,
            scale_offset=0.0,
            clip=clip,
            zero_extremes=True,
            degrees_lost=0,
        )
    ranks = tuple(float(x) for x in range(n_clients))
    centre = (n_clients - 1) / 2
    squares = sum((x - centre) ** 2 for x in ranks)
    return Scheme(
        ranks=ranks,
        # Of two clients each has the leverage 1, up to rounding.
        leverage_root=tuple(
            math.sqrt(max(0.0, 1 - 1 / n_clients - (x - centre) ** 2 / squares)) for x in ranks
        ),
        separate_intercept=False,
        skip_smallest=1,
        scale_factor=1.4826 * inflation,
        scale_offset=1e-7,
        clip=clip,
        zero_extremes=False,
        degrees_lost=1,
    )
