"""The numeric steps as compiled kernels on the CPU: the fast twin of `arfl.aggregators._steps`.

The same five functions with the same results to rounding. Each cuts the columns into chunks of a
width that depends on K alone, hands them to as many Python threads as torch has, and adds up what
chunks sum in the order of the chunks: results do not depend on the number of threads, bit for bit.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from arfl.aggregators._line import ZERO_RESIDUAL, scheme
from arfl.kernels import line_cpu, numba_tools, sorting_networks
from arfl.kernels.sorting_networks import middle_ranks, network

_SUM_WIDTH = 2**16
"""Columns of a chunk of what streams through memory in long rows."""


def _chunk_width(n_clients: int) -> int:
    """Columns of a chunk: what keeps its lines near 256 KiB, in whole blocks."""
    return max(1, 2**13 // (n_clients * line_cpu.LANES)) * line_cpu.LANES


_UNROLLED = range(8, 17)
"""Numbers of clients that have a generated kernel of their own, which takes seconds to compile
once: more clients take much longer, fewer gain little."""


@functools.lru_cache(maxsize=32)
def _line_step(n_clients: int) -> Callable:
    """A function ``(values, start, stop, lines)``, see `arfl.kernels.line_cpu.line_chunk`."""
    if n_clients in _UNROLLED:
        return line_cpu.unrolled_line_chunk(n_clients)
    full = network(n_clients, tuple(range(n_clients)))
    inner = network(n_clients - 1, middle_ranks(n_clients - 1))
    outer = network(n_clients, middle_ranks(n_clients))
    return lambda values, start, stop, lines: line_cpu.line_chunk(
        values, start, stop, full, inner, outer, lines
    )


def _lines(n_clients: int) -> np.ndarray:
    """Room for the lines of a chunk, see `arfl.kernels.line_cpu.line_chunk`."""
    return np.empty((_chunk_width(n_clients) // line_cpu.LANES, 4 * n_clients + 2, line_cpu.LANES))


@functools.cache
def _sources() -> str:
    """Hash of the files that the kernels come from."""
    modules = (numba_tools, line_cpu, sorting_networks)
    text = b"".join(Path(module.__file__).read_bytes() for module in modules)
    return hashlib.sha256(text).hexdigest()


def _compiled(step: Callable) -> Callable:
    """Decorate a step: its first call for a type and number of clients is for one parameter."""
    ready = set()

    @functools.wraps(step)
    def compiled_step(models, *options):
        kernel = (models.dtype, len(models) if len(models) in _UNROLLED else "any")
        if kernel not in ready:
            numba_tools.compile_alone(
                lambda: step(models[:, :1], *options),
                line_cpu.weighted_sum,
                f"{step.__name__} {kernel} {_sources()}",
            )
            ready.add(kernel)
        return step(models, *options)

    return compiled_step


@_compiled
def finite_rows(models: Tensor) -> list[bool]:
    """Whether each row holds neither NaN nor infinity."""
    values = models.contiguous().numpy()
    marks = np.empty((-(-values.shape[1] // _SUM_WIDTH), len(values)))
    numba_tools.over_chunks(
        values.shape[1],
        _SUM_WIDTH,
        lambda: lambda chunk, start, stop: line_cpu.finite_rows(values, start, stop, marks[chunk]),
    )
    return (marks.sum(axis=0) == 0).tolist()


@_compiled
def weighted_sum(models: Tensor, weights: Tensor) -> Tensor:
    """(N,) sum over k of ``weights[k] * models[k]``, accumulated in float64."""
    values, total = models.contiguous().numpy(), torch.empty_like(models[0])
    factors, out = weights.double().numpy(), total.numpy()
    numba_tools.over_chunks(
        values.shape[1],
        _SUM_WIDTH,
        lambda: lambda _, start, stop: line_cpu.weighted_sum(values, start, stop, factors, out),
    )
    return total


@_compiled
def trimmed_mean(models: Tensor, cut: int) -> Tensor:
    """(N,) mean of each parameter's values without the ``cut`` smallest and largest."""
    values, mean = models.contiguous().numpy(), torch.empty_like(models[0])
    n_clients, out = len(values), mean.numpy()
    table = network(n_clients, tuple(range(cut, n_clients - cut)))
    numba_tools.over_chunks(
        values.shape[1],
        _chunk_width(n_clients),
        lambda: lambda _, start, stop: line_cpu.trimmed_mean(values, start, stop, cut, table, out),
    )
    return mean


@_compiled
def repeated_median(models: Tensor) -> Tensor:
    """(N,) value at the centre rank of each parameter's repeated-median line (Eq. 1-2)."""
    n_clients = len(models)
    if n_clients == 1:
        return models[0].clone()
    values, centre = models.contiguous().numpy(), torch.empty_like(models[0])
    out = centre.numpy()
    fit_line = _line_step(n_clients)

    def work():
        lines = _lines(n_clients)

        def task(_, start, stop):
            fit_line(values, start, stop, lines)
            line_cpu.line_centre(lines, start, stop, (n_clients + 1) / 2, out)

        return task

    numba_tools.over_chunks(values.shape[1], _chunk_width(n_clients), work)
    return centre


@_compiled
def reweight(models: Tensor, variant: str, lam: float, delta: float) -> tuple[Tensor, Tensor]:
    """Corrected models and model weights of `residual_reweighting`, for K >= 2.

    Returns:
        The corrected models (K, N), Eq. 9, and the float64 sums (K,) over the parameters of
        confidence times its standard deviation, Eq. 10.
    """
    values, corrected = models.contiguous().numpy(), torch.empty_like(models)
    n_clients, n_parameters = values.shape
    out = corrected.numpy()
    constants = scheme(variant, n_clients, lam)
    skip = constants.skip_smallest
    settings = (
        np.array(constants.ranks),
        np.array(constants.leverage_root),
        network(n_clients, middle_ranks(n_clients, skip)),
        constants.separate_intercept,
        skip,
        constants.scale_factor,
        constants.scale_offset,
        constants.clip,
        constants.zero_extremes,
        constants.degrees_lost,
        float(delta),
        ZERO_RESIDUAL,
    )
    sums = np.empty((-(-n_parameters // _chunk_width(n_clients)), n_clients))

    fit_line = _line_step(n_clients)

    def work():
        lines = _lines(n_clients)

        def task(chunk, start, stop):
            fit_line(values, start, stop, lines)
            line_cpu.reweight_chunk(values, lines, start, stop, *settings, out, sums[chunk])

        return task

    numba_tools.over_chunks(n_parameters, _chunk_width(n_clients), work)
    return corrected, torch.from_numpy(sums.sum(axis=0))
