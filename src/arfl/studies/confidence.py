"""Figure 2: parameter confidence against normalised residual, from the aggregator's own code."""

from collections.abc import Iterable

import torch

from arfl.aggregators._line import scheme
from arfl.aggregators._steps import counted_confidence
from arfl.aggregators.residual_reweighting import check


def curves(
    lams: Iterable[float] = (1.0, 2.0, 3.0),
    deltas: Iterable[float] = (0.01, 0.1),
    n_clients: Iterable[int] = (10, 100),
    variant: str = "paper",
    largest: float = 40.0,
    n_points: int = 801,
) -> dict[str, list]:
    """Confidence that `arfl.aggregators.residual_reweighting` gives, for the centre rank.

    The curve depends on the rank through the leverage (Eq. 7); the centre, rank ceil(K / 2), is
    shown. Its zones are those of the paper's Figure 2: 1, then falling, then 0 (``variant``
    "paper") or corrected with the confidence kept ("released").

    Args:
        lams: values of λ.
        deltas: values of δ.
        n_clients: values of K, each at least 2.
        variant: "paper" or "released".
        largest: the normalised residuals e go from -``largest`` to ``largest``.
        n_points: how many residuals, evenly spaced.

    Returns:
        Columns of equal length, a row for each (K, λ, δ, residual): ``n_clients``, ``lam``,
        ``delta``, ``rank`` (from 1), ``normalised_residual`` (e, Eq. 5), ``confidence`` (in
        [0, 1], Eq. 6 and 8), ``corrected`` (0 or 1: whether the line replaces the value, Eq. 9).

    Raises:
        UserError: if an option is out of the rule's range.
    """
    columns: dict[str, list] = {
        name: []
        for name in (
            "n_clients",
            "lam",
            "delta",
            "rank",
            "normalised_residual",
            "confidence",
            "corrected",
        )
    }
    residuals = torch.linspace(-largest, largest, n_points, dtype=torch.float64)
    lams, deltas = list(lams), list(deltas)
    for n in n_clients:
        centre = (n - 1) // 2
        for lam in lams:
            for delta in deltas:
                check(variant=variant, lam=lam, delta=delta)
                weight, extreme = counted_confidence(
                    residuals.expand(n, n_points), scheme(variant, n, lam), delta
                )
                columns["n_clients"] += [n] * n_points
                columns["lam"] += [lam] * n_points
                columns["delta"] += [delta] * n_points
                columns["rank"] += [centre + 1] * n_points
                columns["normalised_residual"] += residuals.tolist()
                columns["confidence"] += weight[centre].tolist()
                columns["corrected"] += extreme[centre].int().tolist()
    return columns
