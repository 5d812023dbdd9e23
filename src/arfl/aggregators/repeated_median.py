"""Coordinate-wise repeated median (Siegel 1982): the robust line's value at the centre rank."""

from torch import Tensor

from arfl.aggregation import rule
from arfl.aggregators._line import check_variant
from arfl.kernels.backend import backend


def check(*, variant: str) -> None:
    """Refuse an unknown variant.

    Raises:
        UserError: if ``variant`` is neither "paper" nor "released".
    """
    check_variant("repeated_median", variant)


@rule(check=check)
def repeated_median(models: Tensor, *, variant: str = "paper") -> tuple[Tensor, None]:
    r"""Value of the repeated-median line of each parameter at the centre rank (K + 1) / 2.

    For each parameter the sorted values :math:`y_1 \le \dots \le y_K` are regressed on their ranks
    :math:`x_i = i` (Eq. 1-2):

    .. math::
        \beta_1 = \mathop{\mathrm{med}}_i \mathop{\mathrm{med}}_{j \ne i}
                  \frac{y_j - y_i}{x_j - x_i}, \qquad
        \beta_0 = \mathop{\mathrm{med}}_i \mathop{\mathrm{med}}_{j \ne i}
                  \frac{x_j y_i - x_i y_j}{x_j - x_i},

    the line of ``scipy.stats.siegelslopes(method="separate")``. Cost O(K²) to O(K² log² K) for each
    parameter. Breakdown point 1/2. No client has a weight of its own, so the second result is
    None.

    Args:
        models: (K, N) float32 or float64, one model a row. Rows with a NaN or an infinity are
            left out.
        variant: "paper", or "released": the authors' code takes the intercept from the medians,
            and then the value at the centre is the median, identically.

    Returns:
        The (N,) model and None.

    Raises:
        UserError: if ``variant`` is unknown.
        ValueError: if ``models`` is no such matrix.
        NoFiniteModelError: if no model is finite.

    References:
        Siegel, "Robust regression using repeated medians", Biometrika 69(1), 1982.
    """
    check(variant=variant)
    if variant == "released":
        return backend(models).trimmed_mean(models, (len(models) - 1) // 2), None
    return backend(models).repeated_median(models), None
