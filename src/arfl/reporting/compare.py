"""Measured beside printed: mean, spread over seeds, difference, and whether chance explains it.

**The rule for a mark.** The paper prints one number, the mean of m = 3 runs, without a spread. If
our runs and the paper's are draws of the same distribution, the difference of the two means has
variance s^2 (1/n + 1/m), with s the standard deviation of our n seeds. A difference is marked when

    |measured - paper| > t(0.975, n - 1) * s * sqrt(1/n + 1/m) + e,

the 95 % prediction interval for the mean of m further runs, widened by e, half a unit of the last
printed digit (0.005 for points read off Figure 3). With fewer than two seeds nothing is marked, and
neither is anything on data or at a scale that is not the paper's. For three seeds the factor is
4.30 * 0.816 = 3.5 standard deviations. One comparison in twenty is expected to be marked by chance
alone.
"""

import numpy as np
import pandas as pd

from arfl.reporting import captions
from arfl.reporting.frames import BROKEN, DIVERGED, MISSING, PHASES, RATES, x_text
from arfl.reporting.paper import PaperNumbers

PAPER_RUNS = 3  # "the average of running the same experiments 3 times", section 4
AVERAGE = "average"
# Rates are fractions. ``column`` is the swept value as text, "average" for the mean over the sweep,
# empty if nothing is swept; ``paper_column`` the paper's value that it stands beside. ``std`` is
# the sample standard deviation over the ``n_done`` seeds, ``late`` the mean over the last
# ``late_rounds`` rounds, ``allowance`` the right-hand side of the rule above.
COLUMNS = (
    "target", "panel", "metric", "aggregator", "label", "x_name", "column", "paper_column",
    "paper", "measured", "std", "late", "late_rounds", "n_done", "n_diverged", "n_planned",
    "difference", "allowance", "beyond", "source",
)  # fmt: skip
_ENTRY = ["panel", "metric", "aggregator", "column"]


def student_t(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution."""
    # scipy.stats takes ten times as long to import as the function it would be used for.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def prediction_factor(n: int) -> float:
    """How many standard deviations of n seeds the rule for a mark allows; NaN for one seed."""
    return student_t(0.975, n - 1) * float(np.sqrt(1 / n + 1 / PAPER_RUNS))


def compare(cells: pd.DataFrame, paper: PaperNumbers, averaged: bool = False) -> pd.DataFrame:
    """Compare a target's cells with the paper's numbers, in the order of the plan.

    Args:
        cells: of one target.
        paper: the paper's numbers for it.
        averaged: add entries for the average over the sweep.

    Returns:
        `COLUMNS`, one row per (panel, metric, aggregator, x). A metric that no cell of a panel has
        is left out.
    """
    n_clients = paper.participants(cells)
    cells = cells.assign(
        column=cells.x.map(x_text),
        paper_column=[
            paper.column(name, x, n_clients)
            for name, x in zip(cells.x_name, cells.x, strict=True)
        ],
    )  # fmt: skip
    long = pd.concat(
        [cells.assign(metric=r, value=cells[r], late=cells[f"{r}_late"]) for r in RATES]
    )
    held = long.groupby(["panel", "metric"]).value.transform("count") > 0
    long = long[held | (long.metric == "accuracy")]
    # A cell without attackers is done and has no attack success rate: none is missing.
    long["planned"] = long.value.notna() | long.state.isin([MISSING, BROKEN, DIVERGED])
    entries = _summary(long)
    printed = paper.values.rename(columns={"column": "paper_column", "value": "paper"})
    keys = ["panel", "metric", "aggregator", "paper_column"]
    printed = printed[[*keys, "paper", "error", "source"]]
    entries = entries.merge(printed, "left", on=keys)
    if averaged:
        entries = _with_averages(entries, long)
    ours = entries.n_done.clip(lower=1)
    factor = ours.map(prediction_factor)
    difference = entries.measured - entries.paper
    allowance = factor * entries["std"] + entries.error
    known = difference.notna() & allowance.notna() & captions.comparable(cells)
    entries = entries.assign(
        difference=difference,
        allowance=allowance,
        beyond=(difference.abs() > allowance).astype(object).where(known, None),
        paper_column=entries.paper_column.where(entries.paper.notna(), ""),
        source=entries.source.fillna(""),
    )
    return _in_order(entries, long)[list(COLUMNS)]


def _summary(long: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds for every entry; ``std`` is NaN for a single seed."""
    groups = long.groupby(_ENTRY, sort=False)
    first = groups[["target", "label", "x_name", "paper_column"]].first()
    values = groups.value.agg(measured="mean", std="std", n_done="count")
    rest = pd.DataFrame(
        {
            "late": groups.late.mean(),
            "late_rounds": groups.late_rounds.max(),
            "n_planned": groups.planned.sum(),
            "n_diverged": groups.state.agg(lambda states: (states == DIVERGED).sum()),
        }
    )
    return pd.concat([first, values, rest], axis=1).reset_index()


def _with_averages(entries: pd.DataFrame, long: pd.DataFrame) -> pd.DataFrame:
    """Averages over the sweep within a seed, then over the seeds whose sweep is whole."""
    long = long[(long.metric == "accuracy") & (long.x_name != "")]
    swept = long.groupby(["panel", "aggregator"]).column.transform("nunique") > 1
    long = long[swept]
    keys = ["target", "panel", "metric", "aggregator", "label", "x_name", "seed"]
    groups = long.groupby(keys, sort=False)
    means = groups[["value", "late"]].agg(lambda v: v.mean(skipna=False)).reset_index()
    states = groups.state.agg(lambda s: DIVERGED if (s == DIVERGED).any() else "").values
    means = means.assign(
        column=AVERAGE, paper_column=AVERAGE, planned=True, state=states,
        late_rounds=groups.late_rounds.max().values,
    )  # fmt: skip
    if means.empty:
        return entries
    # The paper's average is taken over the same points, so that like is compared with like.
    printed = entries[entries.metric == "accuracy"].groupby(["panel", "aggregator"])
    whole = pd.DataFrame(
        {
            "paper": printed.paper.agg(lambda v: v.mean(skipna=False)),
            "error": printed.error.agg(lambda v: v.max(skipna=False)),
            "source": printed.source.first(),
        }
    ).reset_index()
    averages = _summary(means).merge(whole, "left", on=["panel", "aggregator"])
    return pd.concat([entries, averages], ignore_index=True)


def _in_order(entries: pd.DataFrame, long: pd.DataFrame) -> pd.DataFrame:
    """Panels, metrics, rules and columns as planned, an average last."""
    order = {
        key: {value: i for i, value in enumerate(dict.fromkeys(values))}
        for key, values in (
            ("panel", long.panel),
            ("metric", RATES),
            ("aggregator", long.aggregator),
            ("column", [*long.column, AVERAGE]),
        )
    }
    return entries.sort_values(
        _ENTRY, key=lambda column: column.map(order[column.name]), ignore_index=True
    )


TIMING = (
    "Medians over the cells of a task, as measured in the job that trained the cell; jobs that ran "
    "beside others on the same machine are slower."
)


def timing(cells: pd.DataFrame) -> pd.DataFrame:
    """Median seconds by (task, aggregator, clients, device), in the order of the cells.

    Returns:
        ``task``, ``aggregator``, ``label``, ``n_clients``, ``device``, ``n_cells``, and seconds:
        ``aggregation_per_round``, ``training_per_round``, ``evaluation_per_round``,
        ``total_per_cell``.
    """
    done = cells[cells.state == "done"]
    device = done.device_name.where(done.device_name != "", done.device)
    per_round = {f"{p}_per_round": done[f"seconds_{p}"] / done.n_rounds for p in PHASES[1::-1]}
    per_round["evaluation_per_round"] = done.seconds_evaluation / done.n_rounds
    seconds = done.assign(device=device, total_per_cell=done.seconds_total, **per_round)
    keys = ["task", "aggregator", "label", "n_clients", "device"]
    groups = seconds.groupby(keys, sort=False)
    rows = groups[[*per_round, "total_per_cell"]].median()
    rows.insert(0, "n_cells", groups.size())
    rows = rows.reset_index().astype({"n_clients": int})
    ranks = {key: list(dict.fromkeys(cells[key])) for key in ("aggregator", "task")}
    return rows.sort_values(
        ["aggregator", "task"], key=lambda c: c.map(ranks[c.name].index), ignore_index=True
    )
