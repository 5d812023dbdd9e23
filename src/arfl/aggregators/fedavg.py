"""FedAvg: the mean of the models (McMahan et al. 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from arfl.aggregation import InRounds, rule
from arfl.kernels.backend import backend


class _InRounds(InRounds):
    def __init__(self, *, weighted: bool = False):
        self._weighted = weighted

    def combine(self, models, context):
        counts = context.sample_counts if self._weighted else None
        return fedavg.combine(models, sample_counts=counts)


@rule("sample_counts", linear=True, in_rounds=_InRounds)
def fedavg(models: Tensor, *, sample_counts: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    r"""Average the models, :math:`\sum_k n_k M^{(k)} / \sum_i n_i`.

    Cost O(K N). Breakdown point 0: one model can move the result anywhere.

    Args:
        models: (K, N) float32 or float64, one model a row. Rows with a NaN or an infinity are
            left out, with weight 0.
        sample_counts: (K,) training samples n_k of each client; None weighs all clients alike,
            as the paper does.

    Returns:
        The (N,) model and the (K,) weights, which sum to one.

    Raises:
        ValueError: if the shapes do not agree or no sample count is positive.
        NoFiniteModelError: if no model is finite.

    References:
        McMahan et al., "Communication-efficient learning of deep networks from decentralized
        data", AISTATS 2017.
    """
    counts = [1] * len(models) if sample_counts is None else list(sample_counts)
    if min(counts) < 0 or max(counts) <= 0:
        raise ValueError(f"sample counts must be positive, got {counts}")
    total = sum(counts)
    weights = torch.tensor(
        [count / total for count in counts], dtype=torch.float64, device=models.device
    )
    return backend(models).weighted_sum(models, weights), weights.to(models.dtype)
