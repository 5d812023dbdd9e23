"""Coordinate-wise median (Yin et al. 2018)."""

from torch import Tensor

from arfl.aggregation import rule
from arfl.kernels.backend import backend


@rule()
def median(models: Tensor) -> tuple[Tensor, None]:
    """Median of each parameter over the clients; of an even number, the mean of the middle two.

    Cost O(K log² K) for each parameter. Breakdown point 1/2. No client has a weight of its own, so
    the second result is None.

    Args:
        models: (K, N) float32 or float64, one model a row. Rows with a NaN or an infinity are
            left out.

    Returns:
        The (N,) model and None.

    Raises:
        ValueError: if ``models`` is no such matrix.
        NoFiniteModelError: if no model is finite.

    References:
        Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates",
        ICML 2018.
    """
    # The median is what a trimmed mean leaves when it cuts all but the middle one or two.
    return backend(models).trimmed_mean(models, (len(models) - 1) // 2), None
