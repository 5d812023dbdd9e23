"""FLAME (Nguyen et al. 2022): a cluster of directions, clipped to the median length, and noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from arfl.aggregation import InRounds, rule
from arfl.errors import UserError
from arfl.kernels.backend import backend

_COLUMNS = 2**20
"""Columns multiplied at once: no float64 copy of all models is ever held."""


def check(*, noise: float) -> None:
    """Refuse a negative level of noise.

    Raises:
        UserError: if ``noise`` is negative or not finite.
    """
    if not 0 <= noise < float("inf"):
        raise UserError(f"flame: noise must be at least 0 and finite, got {noise}")


def cosine_distances(models: Tensor) -> Tensor:
    """(K, K) 1 - cos of the angles between (K, N) rows, in float64; 1 to a row of zeros."""
    products = torch.zeros(len(models), len(models), dtype=torch.float64, device=models.device)
    for block in models.split(_COLUMNS, dim=1):
        block = block.double()
        products += block @ block.T
    lengths = products.diagonal().sqrt()
    scale = lengths[:, None] * lengths[None, :]
    return 1 - torch.where(scale > 0, products / scale, 0)


def majority_cluster(distances: Tensor) -> list[int]:
    """The rows that HDBSCAN keeps when a cluster needs more than half of them, ascending.

    With min_cluster_size = K // 2 + 1, min_samples = 1 and a single cluster allowed there is one
    cluster at most: the first set of rows, as single linkage joins nearest sets, that holds so
    many.

    Args:
        distances: (K, K) symmetric.
    """
    n = len(distances)
    of_row = {row: [row] for row in range(n)}
    rows, columns = torch.triu_indices(n, n, offset=1, device=distances.device)
    order = distances[rows, columns].argsort(stable=True)
    for one, other in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        joined, added = of_row[one], of_row[other]
        if joined is added:
            continue
        joined += added
        for row in added:
            of_row[row] = joined
        if len(joined) > n // 2:
            return sorted(joined)
    return [0]


class _InRounds(InRounds):
    def __init__(self, *, noise: float = 0.001):
        self._noise = noise

    def combine(self, models, context):
        # A round's own noise, so that a training that goes on from a checkpoint repeats it.
        stream = torch.Generator().manual_seed(context.round_number)
        return flame.combine(
            models,
            context.global_model,
            noise=self._noise,
            generator=stream,
            buffer_slices=context.buffers,
        )


@rule(check=check, in_rounds=_InRounds)
def flame(
    models: Tensor,
    global_model: Tensor,
    *,
    noise: float = 0.001,
    generator: torch.Generator | None = None,
    buffer_slices: Sequence[slice] = (),
) -> tuple[Tensor, Tensor]:
    r"""One round of FLAME (Algorithm 1 there).

    The models whose cosine distances make up the one cluster of more than half of them are
    admitted. Their updates are clipped to the median S of all updates' lengths and averaged, and
    each parameter gets noise of standard deviation ``noise`` times S.

    Cost O(K² N). It needs a majority of honest clients, and that they are more alike than the
    attackers are to them.

    Args:
        models: (K, N) float32 or float64, one model a row. Rows with a NaN or an infinity are
            left out, with weight 0.
        global_model: (N,) the model that the clients started from.
        noise: λ; 0.001 in the paper for images and text. 0 adds none.
        generator: CPU stream of the noise; None for PyTorch's own.
        buffer_slices: the columns of batch-norm running statistics, which get no noise.

    Returns:
        The (N,) model and the (K,) weights: equal for the admitted models, 0 for the others.

    Examples:
        >>> models = torch.tensor([[1.0, 0.1], [1.0, 0.0], [1.0, -0.1], [-9.0, 9.0]])
        >>> model, weights = flame(models, torch.zeros(2), noise=0.0)
        >>> weights
        tensor([0.3333, 0.3333, 0.3333, 0.0000])

    Raises:
        UserError: if ``noise`` is out of range.
        ValueError: if shapes do not agree.
        NoFiniteModelError: if no model is finite.

    References:
        Nguyen et al., "FLAME: taming backdoors in federated learning", USENIX Security 2022.
    """
    check(noise=noise)
    if global_model.shape != models.shape[1:]:
        raise ValueError(
            f"global_model has shape {tuple(global_model.shape)}, models {tuple(models.shape)}"
        )
    admitted = majority_cluster(cosine_distances(models))
    lengths = (models - global_model).norm(dim=1).double()
    bound = lengths.quantile(0.5)
    weights = lengths.new_zeros(len(models))
    weights[admitted] = 1 / len(admitted)
    # The clipped step as a weighted sum of whole models: the rest goes to the global model.
    step = weights * torch.where(lengths > bound, bound / lengths, 1)
    model = backend(models).weighted_sum(models, step)
    model += (1 - step.sum()).to(models.dtype) * global_model
    if noise > 0:
        # Drawn on the CPU so that it is the same whatever device aggregates.
        drawn = torch.empty(model.shape).normal_(generator=generator).to(model)
        for columns in buffer_slices:
            drawn[columns] = 0
        model += noise * bound.to(models.dtype) * drawn
    return model, weights.to(models.dtype)
