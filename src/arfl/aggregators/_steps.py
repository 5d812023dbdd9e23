"""The numeric steps in plain torch, on any device: the fallback of the kernels of CPU and GPU.

The public functions take (K, N) models, all but `finite_rows` finite ones. They work in float64 on
chunks of columns that fit a fixed budget of memory, so that nothing of size K x K x N is ever held.
No step loops over parameters, and none but `finite_rows` waits for a GPU, except for the first of a
K: all shapes follow from K and N.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from arfl.aggregators._line import ZERO_RESIDUAL, Scheme, scheme

_CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**30}


def _chunks(models: Tensor, values_per_parameter: int) -> Iterator[slice]:
    """Slices of columns for which ``values_per_parameter`` float64 numbers each fit the budget."""
    budget = _CHUNK_BYTES.get(models.device.type, _CHUNK_BYTES["cpu"])
    width = max(1, budget // (8 * values_per_parameter))
    for start in range(0, models.shape[1], width):
        yield slice(start, start + width)


def _middle(values: Tensor) -> Tensor:
    """Median along the first axis; of an even number, the mean of the middle two."""
    ordered = values.sort(dim=0).values
    low, high = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
    return low + (high - low) / 2 if len(values) % 2 == 0 else low


@functools.lru_cache(maxsize=32)
def _others(n_clients: int, device: torch.device) -> Tensor:
    """(K, K-1) the indices j != i for each i."""
    table = [[j for j in range(n_clients) if j != i] for i in range(n_clients)]
    return torch.tensor(table, device=device)


@functools.lru_cache(maxsize=32)
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(K, 1) float64 constants; kept, since each copy to a GPU would wait for it."""
    return torch.tensor(values, dtype=torch.float64, device=device)[:, None]


def line(ordered: Tensor, constants: Scheme) -> tuple[Tensor, Tensor]:
    """Slope and intercept (C,) of the repeated-median line of sorted values (K, C), Eq. 1-2."""
    n_clients = len(ordered)
    ranks = _column(constants.ranks, ordered.device)
    others = _others(n_clients, ordered.device)
    distances = ranks[others] - ranks[:, None]
    slopes = (ordered[others] - ordered[:, None]) / distances
    medians = _middle(slopes.transpose(0, 1))
    slope = _middle(medians)
    if constants.separate_intercept:
        # (x_j y_i - x_i y_j) / (x_j - x_i) = y_i - x_i s_ij falls as the slope s_ij rises, so its
        # median over j needs no selection of its own.
        return slope, _middle(ordered - ranks * medians)
    return slope, _middle(ordered) - slope * (n_clients - 1) / 2


def counted_confidence(
    normalised: Tensor, constants: Scheme, delta: float
) -> tuple[Tensor, Tensor]:
    """Confidence of normalised residuals e (K, C) whose row i has rank i, Eq. 6 and 8.

    Returns:
        The confidences (K, C) that count towards the model weights, 1 where e = 0, and whether
        each is so low that the line replaces the value.
    """
    roots = _column(constants.leverage_root, normalised.device)
    weight = (constants.clip * roots / normalised.abs()).clamp(max=1)
    weight = weight.masked_fill(normalised == 0, 1)
    if constants.zero_extremes:
        extreme = weight <= delta
        return weight.masked_fill(extreme, 0), extreme
    return weight, weight < delta


def reweight_sorted(
    ordered: Tensor, constants: Scheme, delta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 3-9 for sorted values (K, C).

    Returns:
        The corrected values (K, C), the confidences (K, C) that count towards the model weights,
        and their standard deviation (C,).
    """
    n_clients = len(ordered)
    slope, intercept = line(ordered, constants)
    ranks = _column(constants.ranks, ordered.device)
    fitted = intercept + slope * ranks
    residual = ordered - fitted
    terms = ordered.abs() + intercept.abs() + slope * constants.ranks[-1]
    residual = residual.masked_fill(residual.abs() <= ZERO_RESIDUAL * terms, 0)
    smallest_first = residual.abs().sort(dim=0).values
    scale = constants.scale_factor * _middle(smallest_first[constants.skip_smallest :])
    normalised = (residual / (scale + constants.scale_offset)).masked_fill(residual == 0, 0)
    weight, extreme = counted_confidence(normalised, constants, delta)
    deviation = weight - weight.mean(dim=0)
    spread = (deviation.square().sum(dim=0) / (n_clients - constants.degrees_lost)).sqrt()
    return torch.where(extreme, fitted, ordered), weight, spread


def finite_rows(models: Tensor) -> list[bool]:
    """Whether each row holds neither NaN nor infinity. Waits for the GPU, once if all do."""
    # A sum passes NaN and infinity on and needs no (K, N) mask, but may itself overflow.
    finite = models.sum(dim=1).isfinite().tolist()
    if not all(finite):
        finite = (models.amin(dim=1).isfinite() & models.amax(dim=1).isfinite()).tolist()
    return finite


def weighted_sum(models: Tensor, weights: Tensor) -> Tensor:
    """(N,) sum over k of ``weights[k] * models[k]``, accumulated in float64."""
    weights = weights.double()
    total = torch.empty_like(models[0])
    for columns in _chunks(models, len(models)):
        total[columns] = weights @ models[:, columns].double()
    return total


def trimmed_mean(models: Tensor, cut: int) -> Tensor:
    """(N,) mean of each parameter's values without the ``cut`` smallest and largest."""
    mean = torch.empty_like(models[0])
    for columns in _chunks(models, 4 * len(models)):
        ordered = models[:, columns].sort(dim=0).values
        mean[columns] = ordered[cut : len(models) - cut].double().mean(dim=0)
    return mean


def repeated_median(models: Tensor) -> Tensor:
    """(N,) value at the centre rank of each parameter's repeated-median line (Eq. 1-2)."""
    n_clients = len(models)
    if n_clients == 1:
        return models[0].clone()
    constants = scheme("paper", n_clients, 1.0)
    centre = torch.empty_like(models[0])
    for columns in _chunks(models, 4 * n_clients**2):
        slope, intercept = line(models[:, columns].double().sort(dim=0).values, constants)
        centre[columns] = intercept + slope * (n_clients + 1) / 2
    return centre


def reweight(models: Tensor, variant: str, lam: float, delta: float) -> tuple[Tensor, Tensor]:
    """Corrected models and model weights of `residual_reweighting`, for K >= 2.

    Returns:
        The corrected models (K, N), Eq. 9, and the float64 sums (K,) over the parameters of
        confidence times its standard deviation, Eq. 10.
    """
    constants = scheme(variant, len(models), lam)
    corrected = torch.empty_like(models)
    sums = torch.zeros(len(models), dtype=torch.float64, device=models.device)
    for columns in _chunks(models, 4 * len(models) ** 2):
        # A stable sort gives equal values their ranks in the order of the clients.
        ordered, clients = models[:, columns].double().sort(dim=0, stable=True)
        values, weight, spread = reweight_sorted(ordered, constants, delta)
        corrected[:, columns] = torch.empty_like(values).scatter_(0, clients, values).to(models)
        by_client = torch.empty_like(weight).scatter_(0, clients, weight * spread)
        sums += by_client.sum(dim=1)
    return corrected, sums
