"""Measured beside printed: mean, spread over seeds, difference, and whether chance explains it.

**The rule for a mark.** The paper prints one number, the mean of m = 3 runs, without a spread. If
our runs and the paper's are draws of the same distribution, the difference of the two means has
variance s^2 (1/n + 1/m), with s the standard deviation of our n seeds. A difference is marked when

    |measured - paper| > t(0.975, n - 1) * s * sqrt(1/n + 1/m) + e,

the 95 % prediction interval for the mean of m further runs, widened by e, half a unit of the last
printed digit (0.005 for points read off Figure 3). With fewer than two seeds nothing is marked.
For three seeds the factor is 4.30 * 0.816 = 3.5 standard deviations. One comparison in twenty is
expected to be marked by chance alone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from arfl.reporting.captions import x_text
from arfl.reporting.collect import RATES, CellRow
from arfl.reporting.paper import PaperNumbers, PaperValue

PAPER_RUNS = 3  # "the average of running the same experiments 3 times", section 4
AVERAGE = "average"
# The targets whose table in the paper has a column "Average"; figure 3 is spoken of that way.
AVERAGED = ("figure3", "table1", "table2", "table4")


@dataclass(frozen=True)
class Comparison:
    """One entry of a table: the paper's number, the measured one and their difference.

    Rates are fractions. ``column`` is the swept value as text, ``average`` for the mean over the
    sweep, empty if nothing is swept; ``paper_column`` is the paper's value that it stands beside.
    ``std`` is the sample standard deviation over the ``n_done`` seeds, None for fewer than two; of
    the others, ``n_diverged`` diverged;
    ``allowance`` the right-hand side of the rule above.
    """

    target: str
    panel: str
    metric: str
    aggregator: str
    label: str
    x_name: str
    column: str
    paper_column: str
    paper: float | None
    measured: float | None
    std: float | None
    n_done: int
    n_planned: int
    n_diverged: int
    difference: float | None
    allowance: float | None
    beyond: bool | None
    source: str


COLUMNS = [f.name for f in fields(Comparison)]


def student_t(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution."""
    # scipy.stats takes ten times as long to import as the function it would be used for.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    mean = float(np.mean(values)) if len(values) else None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return mean, std


def compare(cells: Sequence[CellRow], paper: PaperNumbers) -> list[Comparison]:
    """Compare a target's cells with the paper's numbers, in the order of the plan.

    Gives one entry per (panel, metric, aggregator, x), and one for the average over the sweep
    where the paper's table has one. A metric that no cell of a panel has is left out.
    """
    entries = []
    n_clients = paper.participants(cells)
    for panel in unique(c.panel for c in cells):
        in_panel = [c for c in cells if c.panel == panel]
        for metric in RATES:
            if metric != "accuracy" and all(getattr(c, metric) is None for c in in_panel):
                continue
            for aggregator in unique(c.aggregator for c in in_panel):
                row = [c for c in in_panel if c.aggregator == aggregator]
                entries += _compare_row(row, metric, paper, n_clients)
    return entries


def _compare_row(
    cells: list[CellRow], metric: str, paper: PaperNumbers, n_clients: int | None
) -> list[Comparison]:
    entries, printed = [], []
    for x in unique(c.x for c in cells):
        at_x = [c for c in cells if c.x == x]
        paper_x = paper.paper_x(at_x[0].x_name, x, n_clients)
        value = paper.values.get((at_x[0].panel, at_x[0].aggregator, metric, paper_x))
        printed.append(value)
        values = [v for c in at_x if (v := getattr(c, metric)) is not None]
        # A cell without attackers is done and has no attack success rate: none is missing.
        planned = len(values) + sum(not c.done for c in at_x)
        entries.append(_entry(at_x, metric, x_text(x), x_text(paper_x), values, planned, value))
    if metric == "accuracy" and cells[0].target in AVERAGED and len(entries) > 1:
        values = list(seed_means(cells, metric).values())
        # The paper's average is taken over the same points, so that like is compared with like.
        whole = [v for v in printed if v is not None]
        value = None
        if len(whole) == len(printed):
            mean = float(np.mean([v.value for v in whole]))
            value = PaperValue(mean, max(v.error for v in whole), whole[0].source)
        planned = len({c.seed for c in cells})
        entries.append(_entry(cells, metric, AVERAGE, AVERAGE, values, planned, value))
    return entries


def seed_means(cells: Iterable[CellRow], metric: str) -> dict[int, float]:
    """Mean over the sweep for every seed whose cells are all there."""
    by_seed: dict[int, list[float | None]] = {}
    for cell in cells:
        by_seed.setdefault(cell.seed, []).append(getattr(cell, metric))
    return {s: float(np.mean(v)) for s, v in by_seed.items() if None not in v}


def _entry(
    cells: Sequence[CellRow],
    metric: str,
    column: str,
    paper_column: str,
    values: list[float],
    n_planned: int,
    printed: PaperValue | None,
) -> Comparison:
    cell, diverged = cells[0], {c.seed for c in cells if c.state == "diverged"}
    mean, std = mean_std(values)
    difference = allowance = beyond = None
    if mean is not None and printed is not None:
        difference = mean - printed.value
        if std is not None:
            n = len(values)
            half = student_t(0.975, n - 1) * std * math.sqrt(1 / n + 1 / PAPER_RUNS)
            allowance = half + printed.error
            beyond = abs(difference) > allowance
    return Comparison(
        target=cell.target,
        panel=cell.panel,
        metric=metric,
        aggregator=cell.aggregator,
        label=cell.label,
        x_name=cell.x_name,
        column=column,
        paper_column=paper_column if printed else "",
        paper=printed.value if printed else None,
        measured=mean,
        std=std,
        n_done=len(values),
        n_planned=n_planned,
        n_diverged=len(diverged),
        difference=difference,
        allowance=allowance,
        beyond=beyond,
        source=printed.source if printed else "",
    )


def unique(values: Iterable) -> list:
    """The distinct values, in the order of their first appearance."""
    return list(dict.fromkeys(values))
