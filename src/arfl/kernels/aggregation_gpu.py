"""The numeric steps as Triton kernels on a GPU: the fast twin there of `arfl.aggregators._steps`.

The same four functions with the same results to rounding, in float64. For the numbers of clients in
`UNROLLED` one GPU thread takes one parameter and holds all that belongs to it in registers: the
values are sorted, and medians selected, by the networks of `arfl.kernels.sorting_networks` written
out for the number of clients. For those in `TILED` a program takes a tile of a few parameters by a
power of two of clients, sorts its rows by `tl.sort`, and goes through the anchors of Eq. 1 in a
loop. More clients go to plain torch. Nothing waits for the GPU, and sums over the parameters are
taken in an order that depends on N alone.

Kernels are compiled at the first call for a number of clients and kept on disk by Triton
(``TRITON_CACHE_DIR``, by default in the user's home).
"""

import functools
import hashlib
import linecache
import subprocess

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import TritonError

from arfl.aggregators import _steps
from arfl.aggregators._line import ZERO_RESIDUAL, scheme
from arfl.kernels.sorting_networks import (
    exchange_lines,
    line_crossings,
    line_slopes,
    middle_function,
    middle_source,
    network,
)

# Compile times measured, see benchmarks/RESULTS.md.
UNROLLED = range(2, 17)
"""Numbers of clients with a generated kernel, which takes seconds to compile; more take minutes."""

TILED = range(17, 129)
"""Numbers of clients that share kernels over tiles."""

_THREADS = 128
"""Parameters of one program, one a thread."""


@triton.jit
def _low(a, b):
    return tl.where(a < b, a, b)


@triton.jit
def _high(a, b):
    return tl.where(a < b, b, a)


@triton.jit(do_not_specialize=["n_parameters", "n_clients"])
def _weighted_sum(models, n_parameters, n_clients, weights, total, WIDTH: tl.constexpr):
    columns = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < n_parameters
    row = models + columns
    sums = tl.zeros((WIDTH,), dtype=tl.float64)
    for client in range(n_clients):
        sums += tl.load(weights + client) * tl.load(row, mask=inside, other=0.0).to(tl.float64)
        row += n_parameters
    tl.store(total + columns, sums, mask=inside)


_PAD = tl.constexpr(1.7976931348623157e308)
"""Fills a tile's rows to a power of two: the largest float64, since Triton's sort has multiplied
by zero what it does not choose, and infinity does not survive that."""


@triton.jit
def _tile(models, n_parameters, n_clients, PARAMETERS: tl.constexpr, SIZE: tl.constexpr):
    """Addresses of a tile's first row, its values, and which parameters and clients there are."""
    columns = tl.program_id(0).to(tl.int64) * PARAMETERS + tl.arange(0, PARAMETERS)
    clients = tl.arange(0, SIZE)[None, :]
    places = clients.to(tl.int64) * n_parameters + columns[:, None]
    inside = (columns < n_parameters)[:, None] & (clients < n_clients)
    # Beyond the last parameter all values are 0, whose confidences do not differ.
    values = tl.load(models + places, mask=inside, other=0.0).to(tl.float64)
    return columns, clients, places, inside, values


@triton.jit
def _sorted(values, ranks, n_clients):
    """The rows of (P, S) values sorted, of each the first ``n_clients``, and after them _PAD."""
    return tl.sort(tl.where(ranks < n_clients, values, _PAD), 1)


@triton.jit
def _at_rank(ordered, ranks, rank):
    return tl.sum(tl.where(ranks == rank, ordered, 0.0), axis=1)[:, None]


@triton.jit
def _middle(ordered, ranks, skip, n):
    """(P, 1) median of the values of rank ``skip`` to ``n`` - 1."""
    low = _at_rank(ordered, ranks, skip + (n - skip - 1) // 2)
    high = _at_rank(ordered, ranks, skip + (n - skip) // 2)
    return low + (high - low) * 0.5


@triton.jit
def _tile_line(ordered, ranks, n_clients):
    """Slope (P, 1) of Eq. 1 and its inner medians (P, S), from sorted rows."""
    medians = tl.zeros_like(ordered)
    for anchor in range(n_clients):
        own = ranks == anchor
        distance = tl.where(own, 1, ranks - anchor).to(tl.float64)
        slopes = (ordered - _at_rank(ordered, ranks, anchor)) / distance
        smallest_first = tl.sort(tl.where(own | (ranks >= n_clients), _PAD, slopes), 1)
        medians = tl.where(own, _middle(smallest_first, ranks, 0, n_clients - 1), medians)
    return _middle(_sorted(medians, ranks, n_clients), ranks, 0, n_clients), medians


@triton.jit
def _tile_intercept(ordered, medians, ranks, n_clients):
    """Intercept (P, 1) of Eq. 2 for ranks 1 to K, see `sorting_networks.line_crossings`."""
    crossings = ordered - (ranks + 1).to(tl.float64) * medians
    return _middle(_sorted(crossings, ranks, n_clients), ranks, 0, n_clients)


@triton.jit
def _store_column(out, columns, n_parameters, result):
    tl.store(out + columns[:, None], result, mask=(columns < n_parameters)[:, None])


@triton.jit(do_not_specialize=["n_parameters", "n_clients", "cut"])
def _tiled_trimmed_mean(
    models, n_parameters, n_clients, cut, out, PARAMETERS: tl.constexpr, SIZE: tl.constexpr
):
    columns, ranks, _, _, values = _tile(models, n_parameters, n_clients, PARAMETERS, SIZE)
    ordered = _sorted(values, ranks, n_clients)
    kept = (ranks >= cut) & (ranks < n_clients - cut)
    total = tl.sum(tl.where(kept, ordered, 0.0), axis=1)[:, None]
    _store_column(out, columns, n_parameters, total / (n_clients - 2 * cut).to(tl.float64))


@triton.jit(do_not_specialize=["n_parameters", "n_clients"])
def _tiled_repeated_median(
    models, n_parameters, n_clients, out, PARAMETERS: tl.constexpr, SIZE: tl.constexpr
):
    columns, ranks, _, _, values = _tile(models, n_parameters, n_clients, PARAMETERS, SIZE)
    ordered = _sorted(values, ranks, n_clients)
    slope, medians = _tile_line(ordered, ranks, n_clients)
    intercept = _tile_intercept(ordered, medians, ranks, n_clients)
    centre = (n_clients + 1).to(tl.float64) * 0.5
    _store_column(out, columns, n_parameters, intercept + slope * centre)


@triton.jit(do_not_specialize=["n_parameters", "n_clients"])
def _tiled_reweight(
    models,
    n_parameters,
    n_clients,
    settings,
    corrected_out,
    sums_out,
    PARAMETERS: tl.constexpr,
    SIZE: tl.constexpr,
    ZERO: tl.constexpr,
    FIRST_RANK: tl.constexpr,
    SEPARATE_INTERCEPT: tl.constexpr,
    SKIP: tl.constexpr,
    ZERO_EXTREMES: tl.constexpr,
    DEGREES_LOST: tl.constexpr,
):
    columns, clients, places, inside, values = _tile(
        models, n_parameters, n_clients, PARAMETERS, SIZE
    )
    there = clients < n_clients
    ordered = _sorted(values, clients, n_clients)
    slope, medians = _tile_line(ordered, clients, n_clients)
    if SEPARATE_INTERCEPT:
        intercept = _tile_intercept(ordered, medians, clients, n_clients)
    else:
        centre = (n_clients - 1).to(tl.float64) * 0.5
        intercept = _middle(ordered, clients, 0, n_clients) - slope * centre
    # The rank among the others; equal values rank in the order of the clients.
    rank = tl.zeros_like(values).to(tl.int32)
    row = models + columns
    for client in range(n_clients):
        other = tl.load(row, mask=columns < n_parameters, other=0.0).to(tl.float64)[:, None]
        before = (other < values) | ((other == values) & (clients > client))
        rank += before.to(tl.int32)
        row += n_parameters
    fit = intercept + slope * (rank + FIRST_RANK).to(tl.float64)
    last_rank = (n_clients - 1 + FIRST_RANK).to(tl.float64)
    terms = tl.abs(values) + tl.abs(intercept) + slope * last_rank
    size = tl.abs(values - fit)
    size = tl.where(size <= ZERO * terms, 0.0, size)
    clip, factor = tl.load(settings), tl.load(settings + 1)
    offset, delta = tl.load(settings + 2), tl.load(settings + 3)
    typical = _middle(_sorted(size, clients, n_clients), clients, SKIP, n_clients)
    scale = clip * (factor * typical + offset)
    root = tl.load(settings + 4 + rank, mask=inside, other=0.0)
    ratio = scale * root / tl.where(size == 0.0, 1.0, size)
    weight = tl.where(size == 0.0, 1.0, _low(ratio, 1.0))
    extreme = weight <= delta if ZERO_EXTREMES else weight < delta
    tl.store(corrected_out + places, tl.where(extreme, fit, values), mask=inside)
    if ZERO_EXTREMES:
        weight = tl.where(extreme, 0.0, weight)
    weight = tl.where(there, weight, 0.0)
    mean = tl.sum(weight, axis=1)[:, None] / n_clients.to(tl.float64)
    deviation = tl.where(there, weight - mean, 0.0)
    variance = tl.sum(deviation * deviation, axis=1) / (n_clients - DEGREES_LOST).to(tl.float64)
    # Beyond the last parameter the confidences are equal, and the spread is 0.
    each = weight * tl.sqrt(variance)[:, None]
    sums = sums_out + tl.program_id(0).to(tl.int64) * n_clients + tl.arange(0, SIZE)
    tl.store(sums, tl.sum(each, axis=0), mask=tl.arange(0, SIZE) < n_clients)


def _kernel(functions: str, arguments: list[str], body: list[str]) -> triton.JITFunction:
    """Make a kernel from source, one thread for each parameter.

    Args:
        functions: source of the functions that the body calls, each under ``@triton.jit``.
        arguments: the kernel's, after the (K, N) ``models`` and ``n_parameters``.
        body: its lines, after those that find the thread's ``columns`` and which are ``inside``.
    """
    lines = [
        "columns = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)",
        "inside = columns < n_parameters",
        *body,
    ]
    source = (
        functions
        + '@triton.jit(do_not_specialize=["n_parameters"])\n'
        + f"def kernel(models, n_parameters, {', '.join(arguments)}, WIDTH: tl.constexpr):\n"
        + "".join(f"    {line}\n" for line in lines)
    )
    # Triton reads a kernel's source as `inspect` does, which looks here for what is in no file.
    name = f"<arfl.kernels.aggregation_gpu {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space = {"__name__": name, "triton": triton, "tl": tl, "min": _low, "max": _high}
    exec(compile(source, name, "exec"), space)
    return space["kernel"]


def _jitted(function_source: str) -> str:
    return f"@triton.jit\n{function_source}"


def _at(row: int, matrix: str) -> str:
    """Source of the addresses of a row's elements; Triton's own integers would overflow."""
    return f"{matrix} + {row} * n_parameters.to(tl.int64) + columns"


def _fetch(n_clients: int) -> list[str]:
    """Lines that load the values as float64: by client r0, r1, ...; 0 beyond the last parameter."""
    return [
        f"r{k} = tl.load({_at(k, 'models')}, mask=inside, other=0.0).to(tl.float64)"
        for k in range(n_clients)
    ]


def _sort(n_clients: int, wanted: range) -> list[str]:
    """Lines that bring the wanted ranks in place: y0, y1, ... from r0, r1, ..."""
    ordered = [f"y{k}" for k in range(n_clients)]
    copies = [f"y{k} = r{k}" for k in range(n_clients)]
    return [*copies, *exchange_lines(network(n_clients, tuple(wanted)), ordered)]


def _line(n_clients: int) -> list[str]:
    """Lines that sort the values and find the slope of Eq. 1 and its medians m0, m1, ..."""
    ranks = range(n_clients)
    lines = _sort(n_clients, ranks)
    for i in ranks:
        lines.append(f"m{i} = inner({line_slopes(n_clients, i)})")
    return [*lines, f"slope = outer({', '.join(f'm{i}' for i in ranks)})"]


def _intercept(n_clients: int) -> str:
    """The line for the intercept of Eq. 2 and ranks 1..K."""
    return f"intercept = outer({line_crossings(n_clients)})"


def _medians(n_clients: int) -> str:
    return _jitted(middle_function("inner", n_clients - 1)) + _jitted(
        middle_function("outer", n_clients)
    )


@functools.lru_cache(maxsize=32)
def _trimmed_mean_kernel(n_clients: int, cut: int) -> triton.JITFunction:
    kept = range(cut, n_clients - cut)
    body = [
        *_fetch(n_clients),
        *_sort(n_clients, kept),
        f"mean = ({' + '.join(f'y{k}' for k in kept)}) / {float(len(kept))}",
        f"tl.store({_at(0, 'mean_out')}, mean, mask=inside)",
    ]
    return _kernel("", ["mean_out"], body)


@functools.lru_cache(maxsize=32)
def _repeated_median_kernel(n_clients: int) -> triton.JITFunction:
    body = [
        *_fetch(n_clients),
        *_line(n_clients),
        _intercept(n_clients),
        f"centre = intercept + slope * {(n_clients + 1) / 2}",
        f"tl.store({_at(0, 'centre_out')}, centre, mask=inside)",
    ]
    return _kernel(_medians(n_clients), ["centre_out"], body)


@functools.lru_cache(maxsize=32)
def _reweight_kernel(n_clients: int, variant: str) -> triton.JITFunction:
    constants = scheme(variant, n_clients, 1.0)
    clients = range(n_clients)
    below = "<=" if constants.zero_extremes else "<"
    if constants.separate_intercept:
        intercept = _intercept(n_clients)
    else:
        middle = middle_source([f"y{i}" for i in clients])
        intercept = f"intercept = {middle} - slope * {(n_clients - 1) / 2}"
    body = [*_fetch(n_clients), *_line(n_clients), intercept]
    for k in clients:
        # The rank among the others; equal values rank in the order of the clients.
        places = [f"(r{i} <= r{k}).to(tl.int32)" for i in range(k)]
        places += [f"(r{i} < r{k}).to(tl.int32)" for i in range(k + 1, n_clients)]
        body += [
            f"place{k} = {' + '.join(places)}",
            f"fit{k} = intercept + slope * (place{k} + {int(constants.ranks[0])}).to(tl.float64)",
            f"terms = tl.abs(r{k}) + tl.abs(intercept) + slope * {constants.ranks[-1]}",
            f"size = tl.abs(r{k} - fit{k})",
            f"size{k} = tl.where(size <= {ZERO_RESIDUAL!r} * terms, 0.0, size)",
        ]
    body += [
        "clip, factor = tl.load(settings), tl.load(settings + 1)",
        "offset, delta = tl.load(settings + 2), tl.load(settings + 3)",
        f"scale = clip * (factor * largest({', '.join(f'size{k}' for k in clients)}) + offset)",
    ]
    for k in clients:
        body += [
            f"off = tl.where(size{k} == 0.0, 1.0, size{k})",
            f"ratio = scale * tl.load(settings + 4 + place{k}) / off",
            f"w{k} = tl.where(size{k} == 0.0, 1.0, min(ratio, 1.0))",
            f"extreme = w{k} {below} delta",
            f"corrected = tl.where(extreme, fit{k}, r{k})",
            f"tl.store({_at(k, 'corrected_out')}, corrected, mask=inside)",
        ]
        if constants.zero_extremes:
            body.append(f"w{k} = tl.where(extreme, 0.0, w{k})")
    squares = " + ".join(f"(w{k} - mean) * (w{k} - mean)" for k in clients)
    body += [
        f"mean = ({' + '.join(f'w{k}' for k in clients)}) / {float(n_clients)}",
        # Threads beyond the last parameter hold equal values, whose spread is 0.
        f"spread = tl.sqrt(({squares}) / {float(n_clients - constants.degrees_lost)})",
        f"sums = sums_out + tl.program_id(0).to(tl.int64) * {n_clients}",
        *(f"tl.store(sums + {k}, tl.sum(w{k} * spread, axis=0))" for k in clients),
    ]
    largest = _jitted(middle_function("largest", n_clients, constants.skip_smallest))
    arguments = ["settings", "corrected_out", "sums_out"]
    return _kernel(_medians(n_clients) + largest, arguments, body)


@functools.lru_cache(maxsize=32)
def _settings(
    variant: str, n_clients: int, lam: float, delta: float, device: torch.device
) -> Tensor:
    """Float64 constants of the kernel; kept, since each copy to a GPU would wait for it."""
    constants = scheme(variant, n_clients, lam)
    values = (constants.clip, constants.scale_factor, constants.scale_offset, delta)
    return torch.tensor((*values, *constants.leverage_root), dtype=torch.float64, device=device)


def _launch(
    kernel: triton.JITFunction,
    models: Tensor,
    *arguments: Tensor | int,
    width: int = _THREADS,
    **fixed: int | float | bool,
) -> None:
    """Queue a kernel for the models' GPU, in programs of ``width`` parameters."""
    n_parameters = models.shape[1]
    # Each operation rounds, as in the other implementations: Triton's default differs by version.
    options = {"num_warps": _THREADS // 32, "enable_fp_fusion": False}
    with torch.cuda.device_of(models):
        kernel[(triton.cdiv(n_parameters, width),)](
            models.contiguous(), n_parameters, *arguments, **(fixed or {"WIDTH": width}), **options
        )


def _launch_tiled(
    kernel: triton.JITFunction,
    models: Tensor,
    *arguments: Tensor | int,
    **fixed: int | float | bool,
) -> None:
    """Queue a kernel over tiles; its arguments after ``n_clients``."""
    size = triton.next_power_of_2(len(models))
    width = _parameters_of_tile(len(models))
    sides = {"PARAMETERS": width, "SIZE": size}
    _launch(kernel, models, len(models), *arguments, width=width, **sides, **fixed)


def _parameters_of_tile(n_clients: int) -> int:
    """Parameters of one program: eight float64 values a thread."""
    return 8 * _THREADS // triton.next_power_of_2(n_clients)


def probe() -> None:
    """Compile and run the smallest kernel on the current GPU.

    Raises:
        RuntimeError: saying what is missing, if Triton cannot.
    """
    try:
        weighted_sum(torch.ones(1, 1, device="cuda"), torch.ones(1, device="cuda"))
    except (TritonError, OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(str(error)) from error


finite_rows = _steps.finite_rows


def weighted_sum(models: Tensor, weights: Tensor) -> Tensor:
    """(N,) sum over k of ``weights[k] * models[k]``, accumulated in float64."""
    total = torch.empty_like(models[0])
    # A few parameters for each thread: there is little to do but to wait for memory.
    _launch(_weighted_sum, models, len(models), weights.double(), total, width=4 * _THREADS)
    return total


def trimmed_mean(models: Tensor, cut: int) -> Tensor:
    """(N,) mean of each parameter's values without the ``cut`` smallest and largest."""
    if len(models) not in UNROLLED and len(models) not in TILED:
        return _steps.trimmed_mean(models, cut)
    mean = torch.empty_like(models[0])
    if len(models) in TILED:
        _launch_tiled(_tiled_trimmed_mean, models, cut, mean)
    else:
        _launch(_trimmed_mean_kernel(len(models), cut), models, mean)
    return mean


def repeated_median(models: Tensor) -> Tensor:
    """(N,) value at the centre rank of each parameter's repeated-median line (Eq. 1-2)."""
    if len(models) not in UNROLLED and len(models) not in TILED:
        return _steps.repeated_median(models)
    centre = torch.empty_like(models[0])
    if len(models) in TILED:
        _launch_tiled(_tiled_repeated_median, models, centre)
    else:
        _launch(_repeated_median_kernel(len(models)), models, centre)
    return centre


def reweight(models: Tensor, variant: str, lam: float, delta: float) -> tuple[Tensor, Tensor]:
    """Corrected models and model weights of `residual_reweighting`, for K >= 2.

    Returns:
        The corrected models (K, N), Eq. 9, and the float64 sums (K,) over the parameters of
        confidence times its standard deviation, Eq. 10.
    """
    n_clients, n_parameters = models.shape
    if n_clients not in UNROLLED and n_clients not in TILED:
        return _steps.reweight(models, variant, lam, delta)
    settings = _settings(variant, n_clients, lam, delta, models.device)
    corrected = torch.empty(models.shape, dtype=models.dtype, device=models.device)
    tiled = n_clients in TILED
    programs = triton.cdiv(n_parameters, _parameters_of_tile(n_clients) if tiled else _THREADS)
    sums = torch.empty(programs, n_clients, dtype=torch.float64, device=models.device)
    if tiled:
        constants = scheme(variant, n_clients, lam)
        _launch_tiled(
            _tiled_reweight,
            models,
            settings,
            corrected,
            sums,
            ZERO=ZERO_RESIDUAL,
            FIRST_RANK=int(constants.ranks[0]),
            SEPARATE_INTERCEPT=constants.separate_intercept,
            SKIP=constants.skip_smallest,
            ZERO_EXTREMES=constants.zero_extremes,
            DEGREES_LOST=constants.degrees_lost,
        )
    else:
        _launch(_reweight_kernel(n_clients, variant), models, settings, corrected, sums)
    return corrected, sums.sum(dim=0)
