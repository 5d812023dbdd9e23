"""Sorting networks, and the repeated-median line by them: as tables and as source code.

A network is an (n, 3) table of (row, row, outcome): outcome 0 keeps both the minimum (in the first
row) and the maximum (in the second), 1 needs the minimum only, 2 the maximum only. A fixed
sequence, with no branch that could depend on the data.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np


def _merge_exchange(n: int) -> list[tuple[int, int]]:
    """The exchanges of Batcher's sorting network for n rows (Knuth, TAOCP 5.2.2, algorithm M)."""
    exchanges = []
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            exchanges += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return exchanges


@functools.lru_cache(maxsize=64)
def network(n: int, wanted: tuple[int, ...]) -> np.ndarray:
    """The network that brings the ``wanted`` ranks of n rows in place.

    It is Batcher's network without the exchanges, and without the halves of exchanges, that no
    wanted rank depends on.
    """
    needed = set(wanted)
    table = []
    for first, second in reversed(_merge_exchange(n)):
        keeps = (first in needed, second in needed)
        if any(keeps):
            table.append((first, second, {(True, True): 0, (True, False): 1}.get(keeps, 2)))
            needed |= {first, second}
    return np.array(table[::-1], dtype=np.int64).reshape(-1, 3)


def middle_ranks(n: int, skip: int = 0) -> tuple[int, ...]:
    """The one or two middle ranks of the n - skip largest of n."""
    return tuple(sorted({skip + (n - skip - 1) // 2, skip + (n - skip) // 2}))


def exchange_lines(table: np.ndarray, names: Sequence[str]) -> Iterator[str]:
    """Source lines that apply a network to local variables, by functions ``min`` and ``max``."""
    for first, second, outcome in table.tolist():
        a, b = names[first], names[second]
        if outcome == 0:
            yield f"{a}, {b} = min({a}, {b}), max({a}, {b})"
        elif outcome == 1:
            yield f"{a} = min({a}, {b})"
        else:
            yield f"{b} = max({a}, {b})"


def middle_source(ordered: Sequence[str]) -> str:
    """Source of the mean of the middle one or two of sorted local variables."""
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else f"{low} + ({high} - {low}) * 0.5"


def middle_function(name: str, n: int, skip: int = 0) -> str:
    """Source of a function of n numbers: the median of their n - skip largest."""
    names = [f"v{i}" for i in range(n)]
    lines = [
        *exchange_lines(network(n, middle_ranks(n, skip)), names),
        f"return {middle_source(names[skip:])}",
    ]
    return f"def {name}({', '.join(names)}):\n" + "".join(f"    {line}\n" for line in lines)


def line_slopes(n: int, anchor: int) -> str:
    """Source of the slopes (Eq. 1) from the sorted value of rank ``anchor`` to the others."""
    return ", ".join(f"(y{j} - y{anchor}) * {1 / (j - anchor)!r}" for j in range(n) if j != anchor)


def line_crossings(n: int) -> str:
    """Source of the inner medians of Eq. 2, from the values y0, y1, ... and those of Eq. 1, m0, ...

    They need no selection of their own: (x_j y_i - x_i y_j) / (x_j - x_i) = y_i - x_i s_ij falls as
    the slope s_ij rises, so its median over j is y_i - x_i med_j s_ij.
    """
    return ", ".join(f"y{i} - {i + 1.0} * m{i}" for i in range(n))
