"""Coordinate-wise trimmed mean (Yin et al. 2018)."""

from torch import Tensor

from arfl.aggregation import rule
from arfl.errors import UserError
from arfl.kernels.backend import backend


def check(*, share: float) -> None:
    """Refuse a share that is negative or leaves nothing.

    Raises:
        UserError: if ``share`` is not in [0, 0.5).
    """
    if not 0 <= share < 0.5:
        raise UserError(f"trimmed_mean: share must be at least 0 and below 0.5, got {share}")


@rule(check=check)
def trimmed_mean(models: Tensor, *, share: float = 0.2) -> tuple[Tensor, None]:
    """Mean of each parameter without its ``int(share * K)`` smallest and as many largest values.

    Cost O(K log² K) for each parameter. Breakdown point ``share``. No client has a weight of its
    own, so the second result is None.

    Args:
        models: (K, N) float32 or float64, one model a row. Rows with a NaN or an infinity are
            left out before K is counted.
        share: part of the values cut at each end. The paper gives none; 0.2 is the default of the
            authors' code.

    Returns:
        The (N,) model and None.

    Raises:
        UserError: if ``share`` is not in [0, 0.5).
        ValueError: if ``models`` is no such matrix.
        NoFiniteModelError: if no model is finite.

    References:
        Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates",
        ICML 2018.
    """
    check(share=share)
    return backend(models).trimmed_mean(models, int(share * len(models))), None
