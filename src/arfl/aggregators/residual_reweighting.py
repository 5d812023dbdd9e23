"""Residual-based reweighting, the paper's rule ("ours"): Eq. 1-11 and Algorithm 1."""

import torch
from torch import Tensor

from arfl.aggregation import rule
from arfl.aggregators._line import check_variant
from arfl.errors import UserError
from arfl.kernels.backend import backend


def check(*, variant: str, lam: float, delta: float) -> None:
    """Refuse an unknown variant, a lam that is not positive, a delta outside [0, 1).

    Raises:
        UserError: naming the option and its range.
    """
    check_variant("residual_reweighting", variant)
    if not 0 < lam < float("inf"):
        raise UserError(f"residual_reweighting: lam must be positive and finite, got {lam}")
    if not 0 <= delta < 1:
        raise UserError(f"residual_reweighting: delta must be at least 0 and below 1, got {delta}")


@rule(check=check)
def residual_reweighting(
    models: Tensor, *, variant: str = "paper", lam: float = 2.0, delta: float = 0.1
) -> tuple[Tensor, Tensor]:
    r"""Average of corrected models, weighted by accumulated parameter confidence.

    For each parameter n the K values y are sorted, x being their ranks, and then

    1. the repeated-median line :math:`\beta_0 + \beta_1 x` (Eq. 1-2, see `repeated_median`);
    2. residuals :math:`r = y - \beta_0 - \beta_1 x`, their scale
       :math:`\tau = \gamma\,\mathrm{med}|r|\,(1 + 5/(K-1))` (Eq. 3-4), and
       :math:`e = r / \tau` (Eq. 5);
    3. the confidence :math:`w = \frac{\sqrt{1-h}}{e} \Psi(\frac{e}{\sqrt{1-h}})` with
       :math:`\Psi` clipping at :math:`Z = \lambda\sqrt{2/K}` and the leverage h (Eq. 6-7);
    4. values whose confidence is at most delta are replaced by the line (Eq. 8-9);
    5. model weights :math:`W^{(k)} = \sum_n w_n^{(k)} \sigma(w_n)` (Eq. 10) and the model
       :math:`\sum_k W^{(k)} \tilde M^{(k)} / \sum_i W^{(i)}` of the corrected models (Eq. 11).

    ``variant="paper"`` has ranks 1..K, the intercept of Eq. 2, gamma = 1.48, h = x²/Σx², and
    extreme values lose their confidence before the (population) standard deviation is taken.
    ``variant="released"`` is what the authors' public code computes: ranks 0..K-1, the intercept
    med(y) - β1 med(x), gamma = 1.4826 and tau increased by 1e-7, the scale from the K-1 largest
    \|r\|, h of the design with an intercept column, extreme values (w < delta) corrected but with
    their confidence kept, the sample standard deviation, and W divided by its maximum and squared.

    Edge rules: r = 0 has w = 1, and a residual below float64's rounding counts as 0; if the scale
    is 0, values off the line have w = 0; if every standard deviation is 0 (one or two clients, or
    all clients alike) the weights are uniform; equal values take their ranks in the order of the
    clients.

    Cost O(K²) to O(K² log² K) for each parameter; extra memory one copy of ``models``. Breakdown
    point 1/2 for the line; delta > 0 bounds how far from it a value may lie and still count.

    Args:
        models: (K, N) float32 or float64, one model a row. Rows with a NaN or an infinity are
            left out, with weight 0.
        variant: "paper" or "released".
        lam: λ of Eq. 6, positive; 2 throughout the paper.
        delta: δ of Eq. 8-9, in [0, 1); 0.01 for the paper's MNIST, 0.1 for its Amazon reviews and
            the default of the authors' code.

    Returns:
        The (N,) model and the (K,) weights, which sum to one.

    Raises:
        UserError: if an option is out of range.
        ValueError: if ``models`` is no such matrix.
        NoFiniteModelError: if no model is finite.

    References:
        Fu, Xie, Li, Chen, "Attack-resistant federated learning with residual-based reweighting",
        arXiv:1912.11464.
    """
    check(variant=variant, lam=lam, delta=delta)
    steps = backend(models)
    n_clients = len(models)
    uniform = torch.full((n_clients,), 1 / n_clients, dtype=torch.float64, device=models.device)
    if n_clients == 1:
        return models[0].clone(), uniform.to(models.dtype)
    corrected, sums = steps.reweight(models, variant, lam, delta)
    if variant == "released":
        sums = (sums / sums.max()).square()
    # A select instead of a branch: the weights of a GPU's models never visit the host.
    total = sums.sum()
    weights = torch.where(total > 0, sums / total, uniform)
    return steps.weighted_sum(corrected, weights), weights.to(models.dtype)
