"""Compiled kernels for one chunk of parameters. Importing this imports numba.

The lanes of the vector unit are parameters: a block of `LANES` columns of the (K, N) matrix is
copied to float64 scratch of K rows, and each step is a short loop over the lanes, which LLVM turns
into vector instructions. Sorting and selecting go by sorting networks: fixed sequences of
exchanges, each a minimum and a maximum, with no branch that could depend on the data; their tables
come from `arfl.kernels.sorting_networks`.

What kernels take from other files are arguments: numba keeps a kernel on disk for as long as this
file is unchanged, and would not see another file's constant change.

Each uses one thread; `arfl.kernels.aggregation_cpu` runs them side by side.
"""

import functools

import numpy as np

from arfl.kernels import numba_tools
from arfl.kernels.sorting_networks import (
    exchange_lines,
    line_crossings,
    line_slopes,
    middle_function,
    network,
)

LANES = 64
SUM_LANES = 256


@numba_tools.inlined
def _exchange(rows, network):
    """Apply a network to the rows of a (n, LANES) scratch array."""
    for step in range(network.shape[0]):
        first, second, outcome = rows[network[step, 0]], rows[network[step, 1]], network[step, 2]
        if outcome == 0:
            for lane in range(LANES):
                a, b = first[lane], second[lane]
                first[lane] = min(a, b)
                second[lane] = max(a, b)
        elif outcome == 1:
            for lane in range(LANES):
                first[lane] = min(first[lane], second[lane])
        else:
            for lane in range(LANES):
                second[lane] = max(first[lane], second[lane])


@numba_tools.inlined
def _middle(rows, network, low, high, median):
    """Mean of the rows ``low`` and ``high`` that the network leaves, into ``median`` (LANES,)."""
    _exchange(rows, network)
    for lane in range(LANES):
        median[lane] = rows[low, lane] + (rows[high, lane] - rows[low, lane]) * 0.5


@numba_tools.inlined
def _load(models, start, width, rows):
    """Copy ``width`` columns to float64 lanes; lanes beyond them get zeros."""
    for client in range(models.shape[0]):
        values = models[client, start : start + width]
        for lane in range(width):
            rows[client, lane] = values[lane]
        for lane in range(width, LANES):
            rows[client, lane] = 0.0


@numba_tools.kernel
def finite_rows(models, start, stop, marks):
    """marks[k] = 0 if models[k, start:stop] are all finite, else NaN."""
    lanes = np.empty(SUM_LANES, models.dtype)
    for client in range(models.shape[0]):
        lanes[:] = 0.0
        for at in range(start, stop, SUM_LANES):
            values = models[client, at : min(at + SUM_LANES, stop)]
            for lane in range(len(values)):
                # 0 for a finite value, NaN for an infinity and for NaN
                lanes[lane] += values[lane] - values[lane]
        marks[client] = lanes.sum()


@numba_tools.kernel
def weighted_sum(models, start, stop, weights, total):
    """total[n] = sum over k of weights[k] * models[k, n] for start <= n < stop."""
    n_clients = models.shape[0]
    lanes = np.empty(SUM_LANES)
    for at in range(start, stop, SUM_LANES):
        out = total[at : min(at + SUM_LANES, stop)]
        width = len(out)
        lanes[:width] = 0.0
        # Four clients at a time: the sums are fetched and stored a quarter as often.
        for client in range(0, n_clients - 3, 4):
            w0, w1 = weights[client], weights[client + 1]
            w2, w3 = weights[client + 2], weights[client + 3]
            v0, v1 = models[client, at : at + width], models[client + 1, at : at + width]
            v2, v3 = models[client + 2, at : at + width], models[client + 3, at : at + width]
            for lane in range(width):
                lanes[lane] += (w0 * v0[lane] + w1 * v1[lane]) + (w2 * v2[lane] + w3 * v3[lane])
        for client in range(n_clients // 4 * 4, n_clients):
            w0, v0 = weights[client], models[client, at : at + width]
            for lane in range(width):
                lanes[lane] += w0 * v0[lane]
        for lane in range(width):
            out[lane] = lanes[lane]


@numba_tools.kernel
def trimmed_mean(models, start, stop, cut, network, mean):
    """mean[n] of the values from rank ``cut`` to K - 1 - cut, for start <= n < stop."""
    n_clients = models.shape[0]
    rows = np.empty((n_clients, LANES))
    lanes = np.empty(LANES)
    for at in range(start, stop, LANES):
        width = min(LANES, stop - at)
        _load(models, at, width, rows)
        _exchange(rows, network)
        lanes[:] = 0.0
        for rank in range(cut, n_clients - cut):
            for lane in range(LANES):
                lanes[lane] += rows[rank, lane]
        for lane in range(width):
            mean[at + lane] = lanes[lane] / (n_clients - 2 * cut)


@numba_tools.inlined
def _places(raw, client, place):
    """place[.] = rank from 0 of one client's value; equal values rank in the order of clients."""
    place[:] = 0.0
    for other in range(client):
        for lane in range(LANES):
            place[lane] += 1.0 if raw[other, lane] <= raw[client, lane] else 0.0
    for other in range(client + 1, raw.shape[0]):
        for lane in range(LANES):
            place[lane] += 1.0 if raw[other, lane] < raw[client, lane] else 0.0


@numba_tools.kernel
def line_chunk(models, start, stop, full, inner, outer, lines):
    """Lines of Eq. 1-2 for ranks 1..K and the columns start..stop, in blocks of lanes.

    The networks sort K rows (``full``), select the middle of K - 1 (``inner``) and of K
    (``outer``). The result ``lines`` is (blocks, 4 K + 2, LANES): of each block K rows of values
    by client, K of sorted values, K of each client's rank from 0, one of slopes, one of
    intercepts, and K of the medians of the slopes from each sorted value.

    The inner medians of Eq. 2 follow from those of Eq. 1, see `sorting_networks.line_crossings`.
    """
    n_clients = models.shape[0]
    rows = np.empty((n_clients, LANES))
    low, high = (n_clients - 1) // 2, n_clients // 2
    for block in range((stop - start + LANES - 1) // LANES):
        at = start + block * LANES
        raw, values = lines[block, :n_clients], lines[block, n_clients : 2 * n_clients]
        medians = lines[block, 3 * n_clients + 2 :]
        _load(models, at, min(LANES, stop - at), raw)
        for client in range(n_clients):
            _places(raw, client, lines[block, 2 * n_clients + client])
        values[:] = raw
        _exchange(values, full)
        for anchor in range(n_clients):
            for other in range(n_clients - 1):
                partner = other if other < anchor else other + 1
                inverse = 1.0 / (partner - anchor)
                for lane in range(LANES):
                    rows[other, lane] = (values[partner, lane] - values[anchor, lane]) * inverse
            _middle(rows, inner, (n_clients - 2) // 2, (n_clients - 1) // 2, medians[anchor])
        rows[:] = medians
        _middle(rows, outer, low, high, lines[block, 3 * n_clients])
        for rank in range(n_clients):
            for lane in range(LANES):
                rows[rank, lane] = values[rank, lane] - (rank + 1.0) * medians[rank, lane]
        _middle(rows, outer, low, high, lines[block, 3 * n_clients + 1])


@numba_tools.inlined
def _at_most(a, b):
    return 1.0 if a <= b else 0.0


@functools.lru_cache(maxsize=32)
def unrolled_line_chunk(n_clients):
    """`line_chunk` with the networks of one small K written out, so that all stays in registers.

    About three times as fast as the table-driven kernel, which loads and stores two rows for each
    exchange. The source is generated from the same networks.

    Returns:
        A kernel ``(models, start, stop, lines)``.
    """
    clients = range(n_clients)

    def at(row):
        # One array and constant offsets: LLVM sees that no store overlaps a later load.
        return f"block_lines[{row * LANES} + lane]"

    raw, ordered = [f"r{k}" for k in clients], [f"y{k}" for k in clients]
    fetch_raw = [f"{r} = {at(k)}" for k, r in enumerate(raw)]
    fetch_ordered = [f"{y} = {at(n_clients + k)}" for k, y in enumerate(ordered)]
    fetch_medians = [f"m{k} = {at(3 * n_clients + 2 + k)}" for k in clients]
    loops = [
        fetch_raw
        + list(exchange_lines(network(n_clients, tuple(clients)), raw))
        + [f"{at(n_clients + k)} = {r}" for k, r in enumerate(raw)]
    ]
    for j in clients:
        below = [f"_at_most(r{i}, r{j})" for i in range(j)]
        above = [f"1.0 - _at_most(r{j}, r{k})" for k in range(j + 1, n_clients)]
        loops.append([*fetch_raw, f"{at(2 * n_clients + j)} = {' + '.join([*below, *above])}"])
    for i in clients:
        median = f"{at(3 * n_clients + 2 + i)} = _inner({line_slopes(n_clients, i)})"
        loops.append([*fetch_ordered, median])
    medians = ", ".join(f"m{i}" for i in clients)
    loops.append([*fetch_medians, f"{at(3 * n_clients)} = _outer({medians})"])
    intercept = f"{at(3 * n_clients + 1)} = _outer({line_crossings(n_clients)})"
    loops.append([*fetch_ordered, *fetch_medians, intercept])
    source = (
        middle_function("_inner", n_clients - 1)
        + middle_function("_outer", n_clients)
        + "def NAME(models, start, stop, lines):\n"
        + "    for block in range((stop - start + LANES - 1) // LANES):\n"
        + "        at = start + block * LANES\n"
        + "        _load(models, at, min(LANES, stop - at), lines[block])\n"
        + "        block_lines = lines[block].reshape(-1)\n"
        + "".join(
            "        for lane in range(LANES):\n"
            + "".join(f"            {line}\n" for line in loop)
            for loop in loops
        )
    )
    # One short loop for each result: LLVM does not vectorise one long one.
    space = {"LANES": LANES, "_load": _load, "_at_most": _at_most}
    return numba_tools.generated(
        __file__, f"line_chunk_{n_clients}", source, space, inlined=("_inner", "_outer")
    )


@numba_tools.kernel
def line_centre(lines, start, stop, middle, centre):
    """centre[n] = the value at the rank ``middle`` of `line_chunk`'s lines, start <= n < stop."""
    slope = 3 * (lines.shape[1] - 2) // 4
    intercept = slope + 1
    for n in range(stop - start):
        block, lane = n // LANES, n % LANES
        centre[start + n] = lines[block, intercept, lane] + lines[block, slope, lane] * middle


@numba_tools.kernel
def reweight_chunk(
    models, lines, start, stop,
    ranks, roots, network, separate, skip, factor, offset, clip, zero, lost, delta, rounding,
    corrected, sums,
):  # fmt: skip
    """Eq. 3-10 for start <= n < stop: corrected (K, N) and the chunk's sums (K,).

    ``ranks`` to ``lost`` are the fields of `arfl.aggregators._line.Scheme`, ``rounding`` is its
    ZERO_RESIDUAL; ``network`` selects the middle of the K - ``skip`` largest of K rows.
    """
    n_clients = len(ranks)
    rows, weight = np.empty((n_clients, LANES)), np.empty((n_clients, LANES))
    total = np.zeros((n_clients, LANES))
    scale, mean, spread, keep = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    first, last = (n_clients - 1) // 2, n_clients // 2
    low = skip + (n_clients - skip - 1) // 2
    high = skip + (n_clients - skip) // 2
    for block in range((stop - start + LANES - 1) // LANES):
        at = start + block * LANES
        width = min(LANES, stop - at)
        values = lines[block, n_clients : 2 * n_clients]
        slope, intercept = lines[block, 3 * n_clients], lines[block, 3 * n_clients + 1]
        if not separate:
            for lane in range(LANES):
                middle = values[first, lane] + (values[last, lane] - values[first, lane]) * 0.5
                intercept[lane] = middle - slope[lane] * ((n_clients - 1) * 0.5)
        for rank in range(n_clients):
            x = ranks[rank]
            for lane in range(LANES):
                size = abs(values[rank, lane] - (intercept[lane] + slope[lane] * x))
                terms = abs(values[rank, lane]) + abs(intercept[lane]) + slope[lane] * ranks[-1]
                size = 0.0 if size <= rounding * terms else size
                rows[rank, lane] = size
                weight[rank, lane] = size
        _middle(rows, network, low, high, scale)
        for lane in range(LANES):
            scale[lane] = clip * (factor * scale[lane] + offset)
            mean[lane] = 0.0
            spread[lane] = 0.0
        for rank in range(n_clients):
            root = roots[rank]
            for lane in range(LANES):
                size = weight[rank, lane]
                w = 1.0 if size == 0.0 else min(1.0, scale[lane] * root / size)
                # Until the clients have fetched it, an extreme value's confidence is negative.
                extreme = w <= delta if zero else w < delta
                counted = 0.0 if zero and extreme else w
                mean[lane] += counted
                rows[rank, lane] = counted
                weight[rank, lane] = -1.0 - counted if extreme else counted
        for lane in range(LANES):
            mean[lane] /= n_clients
        for rank in range(n_clients):
            for lane in range(LANES):
                spread[lane] += (rows[rank, lane] - mean[lane]) ** 2
        for lane in range(LANES):
            spread[lane] = np.sqrt(spread[lane] / (n_clients - lost))
        for client in range(n_clients):
            place = lines[block, 2 * n_clients + client]
            for lane in range(LANES):
                keep[lane] = weight[np.uintp(place[lane]), lane]
            # The lanes beyond the width hold equal values, whose spread is 0.
            for lane in range(LANES):
                counted = -1.0 - keep[lane] if keep[lane] < 0.0 else keep[lane]
                total[client, lane] += counted * spread[lane]
            raw, out = models[client, at : at + width], corrected[client, at : at + width]
            for lane in range(width):
                fit = intercept[lane] + slope[lane] * (place[lane] + ranks[0])
                out[lane] = fit if keep[lane] < 0.0 else raw[lane]
    for client in range(n_clients):
        sums[client] = 0.0
        for lane in range(LANES):
            sums[client] += total[client, lane]
