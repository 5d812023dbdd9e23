"""How far a statement is fulfilled, as numbers per seed, and what a few seeds can settle.

A test turns a statement into *margins*, one per thing compared (an aggregator, an x, a panel, a
bound), each a number per seed that is positive where the statement holds. Rules are compared within
a seed, since all rules of a seed share data, attackers and initial model, so that the spread of a
margin is the spread of the difference.

**One level for the whole ledger.** A statement is true or false, so only one of the two verdicts
can be wrong. With F statements in the ledger each may be wrong with probability 0.05 / F, and so
any of them with 0.05 at most (Bonferroni; the tests simulate it). A statement
**holds** when for every margin the one-sided interval mean - t(1 - 0.05/F, n-1) s / sqrt(n) lies
above 0: each part must hold by itself, so no correction for their number is needed. It **does not
hold** when for some of its m margins the mean + t(1 - 0.05/(F m), n-1) s / sqrt(n) lies below 0,
since the worst of many margins is picked. It is **unclear** otherwise, and always where a seed
contradicts the others or the seeds split into two modes. The interval that is shown is the one that
decides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arfl.reporting import captions
from arfl.reporting.compare import student_t
from arfl.reporting.frames import x_text

FAMILY_LEVEL = 0.05
HOLDS, FAILS, UNCLEAR, NO_RECORDS = "holds", "does not hold", "unclear", "not enough records"
# Values that span this much, with this share of it in one gap, are two modes and no spread.
_TWO_MODES_SPAN, _TWO_MODES_GAP = 0.2, 0.75


class NotEnoughError(Exception):
    """The values that a statement is about are not all there; the text says which."""


@dataclass(frozen=True)
class Margin:
    """One part of a statement.

    Attributes:
        label: what is compared.
        values: (seeds,) positive where it holds.
        measured: (seeds,) what was measured, in the words of the claim.
        claimed: the claimed side of it, as text.
        unit: of ``measured``, empty for the claim's.
    """

    label: str
    values: np.ndarray
    measured: np.ndarray
    claimed: str
    unit: str = ""

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(self.values.mean())


@dataclass(frozen=True)
class Judgement:
    """What margins say together: the state, the margin that decides and its interval.

    Attributes:
        state: `HOLDS`, `FAILS` or `UNCLEAR`.
        margin: the worst of those that decide.
        half_width: of the deciding interval, None for a single seed.
        level: of that interval.
        n_margins: how many were looked at.
        why: what makes it unclear, empty otherwise.
    """

    state: str
    margin: Margin
    half_width: float | None
    level: float
    n_margins: int
    why: str


def judge(margins: list[Margin], strict: bool, family: int) -> Judgement:
    """Decide on a statement.

    Args:
        margins: its parts, at least one.
        strict: whether a margin of 0 refutes it.
        family: number of statements in the ledger.
    """
    alpha = FAMILY_LEVEL / family
    levels = {HOLDS: alpha, FAILS: alpha / len(margins), UNCLEAR: alpha}
    states = [(*_state(m, strict, alpha, len(margins)), m) for m in margins]
    for state in (FAILS, UNCLEAR, HOLDS):
        deciding = [(m, why) for s, why, m in states if s == state]
        if deciding:
            margin, why = min(deciding, key=lambda pair: pair[0].mean)
            half = _half_width(margin.values, levels[state])
            return Judgement(state, margin, half, 1 - levels[state], len(margins), why)
    raise AssertionError("a statement has at least one margin")


def judge_printed(margins: list[Margin], exact: list[Margin], strict: bool) -> tuple[str, Margin]:
    """Decide on numbers that are known up to an error.

    Args:
        margins: with ``values`` for draws of the numbers within their errors.
        exact: the same from the numbers as printed.
        strict: whether a margin of 0 refutes it.

    Returns:
        The state, `UNCLEAR` where the errors leave it open, and the worst margin as printed.
    """
    worst = min(exact, key=lambda m: m.mean)
    if all(_positive(float(np.quantile(m.values, 0.025)), strict) for m in margins):
        return HOLDS, worst
    if any(not _positive(float(np.quantile(m.values, 0.975)), strict) for m in margins):
        return FAILS, worst
    return UNCLEAR, worst


def seeds_needed(margin: Margin, family: int) -> int | None:
    """How many seeds would settle a margin of this mean and spread; None beyond 100."""
    if len(margin.values) < 2 or margin.mean == 0:
        return None
    ratio = float(margin.values.std(ddof=1)) / abs(margin.mean)
    return next((n for n in range(3, 101) if detectable(n, family) * ratio < 1), None)


def detectable(n_seeds: int, family: int) -> float:
    """The smallest margin that n seeds settle, as a multiple of its spread over the seeds."""
    return student_t(1 - FAMILY_LEVEL / family, n_seeds - 1) / np.sqrt(n_seeds)


def _state(margin: Margin, strict: bool, alpha: float, n_margins: int) -> tuple[str, str]:
    values = margin.values
    if len(values) < 2:
        return UNCLEAR, "one seed"
    if two_modes(margin.measured):
        return UNCLEAR, "the seeds split into two modes"
    if _positive(margin.mean - _half_width(values, alpha), strict):
        if all(_positive(v, strict) for v in values):
            return HOLDS, ""
        return UNCLEAR, "one of the seeds contradicts the others"
    # Zero spread and zero margin (two rules always equal) refute a strict statement.
    if _positive(margin.mean + _half_width(values, alpha / n_margins), strict):
        return UNCLEAR, "the seeds do not settle it"
    return FAILS, ""


def two_modes(values: np.ndarray) -> bool:
    """Whether rates fall into two groups far apart, such as 0, 0 and 1."""
    ordered = np.sort(values)
    span = ordered[-1] - ordered[0]
    return bool(span >= _TWO_MODES_SPAN and np.diff(ordered).max() >= _TWO_MODES_GAP * span)


def _positive(margin: float, strict: bool) -> bool:
    # Printed decimals such as 0.1031 - 0.0981 must not miss a bound by their last bit.
    return margin > 1e-12 if strict else margin >= -1e-12


def _half_width(values: np.ndarray, alpha: float) -> float | None:
    n = len(values)
    if n < 2:
        return None
    return student_t(1 - alpha, n - 1) * float(values.std(ddof=1)) / float(np.sqrt(n))


class Values:
    """One metric of one target: a curve over x for each panel and rule, a column per seed.

    Args:
        places: ``panel``, ``aggregator`` and ``x`` of each point, in the order of the plan.
        values: (points, seeds), NaN where there is no value.
        seeds: names of the columns.
    """

    def __init__(self, places: pd.DataFrame, values: np.ndarray, seeds: Sequence):
        self._curves: dict[tuple[str, str], pd.DataFrame] = {}
        x = np.array(["" if x is None else x for x in places.x], dtype=object)
        for key, rows in places.groupby(["panel", "aggregator"], sort=False).indices.items():
            self._curves[key] = pd.DataFrame(values[rows], index=x[rows], columns=seeds)

    @classmethod
    def of_cells(cls, long: pd.DataFrame) -> "Values":
        """From ``panel``, ``aggregator``, ``x``, ``seed`` and ``value``, one row per cell."""
        seeds = sorted(long.seed.unique())
        keys = ["panel", "aggregator", "column"]
        table = long.assign(column=long.x.map(x_text)).pivot(
            index=keys, columns="seed", values="value"
        )
        places = long.assign(column=long.x.map(x_text)).drop_duplicates(keys)
        # Numbers in their order, however they were planned: the first is the smallest.
        numbers = pd.to_numeric(places.x, errors="coerce")
        sortable = numbers.notna().groupby(places.panel).transform("all")
        order = numbers.where(sortable, range(len(places)))
        places = places.assign(order=order).sort_values("order", kind="stable")
        values = table.loc[list(places[keys].itertuples(index=False, name=None)), seeds]
        return cls(places, values.to_numpy(float), seeds)

    def rules(self, panel: str) -> list[str]:
        """The rules of a panel."""
        return [rule for p, rule in self._curves if p == panel]

    def curve(self, panel: str, rule: str, x: object, over_x: str) -> pd.DataFrame:
        """Values by x (rows) and seed, restricted to ``x`` and summarised ``over_x``."""
        name = captions.rule_name(rule) + (f" in {captions.panel_title(panel)}" if panel else "")
        curve = self._curves.get((panel, rule))
        if curve is None:
            raise NotEnoughError(f"no values of {name}")
        chosen = _select(curve, x, name)
        if over_x == "each":
            whole = chosen.dropna(axis="index", how="all")
            if len(whole) < len(chosen):
                raise NotEnoughError(f"{name}: not every point has values")
            return whole
        if len(chosen) < 2:
            raise NotEnoughError(f"{name}: one point has no {over_x.replace('_', ' ')}")
        whole = chosen.dropna(axis="columns")
        if whole.empty:
            raise NotEnoughError(f"{name}: no seed has every point")
        summary = _OVER_X[over_x](whole)
        return pd.DataFrame(summary[None, :], index=[""], columns=whole.columns)


def _select(curve: pd.DataFrame, x: object, name: str) -> pd.DataFrame:
    places = list(curve.index)
    if isinstance(x, list):
        chosen = [p for p in places if p in x]
        if len(chosen) < len(x):
            raise NotEnoughError(f"{name}: not every one of {', '.join(map(str, x))} is planned")
    elif isinstance(x, str):
        named = {
            "all": places, "first": places[:1], "last": places[-1:],
            "positive": [p for p in places if p != "" and p > 0] if x == "positive" else [],
        }  # fmt: skip
        chosen = named[x]
    else:
        chosen = [p for p in places if p == x]
    if not chosen:
        raise NotEnoughError(f"{name}: no value at {x}")
    return curve.loc[chosen]


def _per_doubling(curve: pd.DataFrame) -> np.ndarray:
    """Mean change of the value per doubling of x: comparable between ranges of any width."""
    ordered = curve.sort_index()
    doublings = np.log2(ordered.index[-1] / ordered.index[0])
    return np.abs(np.diff(ordered.to_numpy(), axis=0)).sum(0) / doublings


_OVER_X: Mapping[str, Callable] = {
    "average": lambda curve: curve.to_numpy().mean(0),
    "spread": lambda curve: curve.to_numpy().std(0),
    "change_per_doubling": _per_doubling,
}


def of(claim, values: Values) -> list[Margin]:
    """The margins of a claim, see the head of ``claims.yaml``.

    Raises:
        NotEnoughError: if a value that the statement is about is not there.
    """
    return _TESTS[claim.test](claim, values)


def _against_level(claim, values: Values) -> list[Margin]:
    margins = []
    # Told apart from the other rates of a rule, of which a statement may be too.
    subject = "accuracy of " if claim.metric == "accuracy" else ""
    for panel in claim.panels:
        for rule in claim.aggregators:
            curve = values.curve(panel, rule, claim.x, claim.over_x)
            for x, by_seed in curve.iterrows():
                measured = by_seed.dropna().to_numpy(float)
                label = _label(panel, f"{subject}{captions.rule_name(rule)}", x)
                if claim.test == "between":
                    low, high = claim.level
                    margins += _within(label, measured, low, high, claim.unit)
                else:
                    sign = 1 if claim.test == "above" else -1
                    claimed = f"{claim.test} {amount(claim.level, claim.unit)}"
                    difference = sign * (measured - claim.level)
                    margins.append(Margin(label, difference, measured, claimed, claim.unit))
    return margins


def _within(label: str, measured: np.ndarray, low: float, high: float, unit: str) -> list[Margin]:
    claimed = f"{amount(low, unit)} to {amount(high, unit)}"
    return [
        Margin(label, measured - low, measured, claimed),
        Margin(label, high - measured, measured, claimed),
    ]


def _against_rules(claim, values: Values) -> list[Margin]:
    sign = 1 if claim.test == "exceeds" else -1
    margins = []
    for panel in claim.panels:
        other_panel = panel if claim.against_panel is None else claim.against_panel
        others = claim.against
        if others == "others":
            others = [r for r in values.rules(panel) if r not in claim.aggregators]
        for rule in claim.aggregators:
            left = values.curve(panel, rule, claim.x, claim.over_x)
            for other in others:
                other_x = claim.x if claim.against_x is None else claim.against_x
                right = values.curve(other_panel, other, other_x, claim.over_x)
                if claim.against_x is not None:
                    left, right = left.set_axis([""]), right.set_axis([""])
                if list(left.index) != list(right.index):
                    raise NotEnoughError(f"{rule} and {other} have not the same points")
                against = captions.rule_name(other) if other != rule else "itself"
                for x, difference in (left - right).iterrows():
                    measured = difference.dropna().to_numpy(float)
                    if not len(measured):
                        raise NotEnoughError(f"{rule} and {other} have no seed in common")
                    subject = f"{captions.rule_name(rule)} against {against}"
                    label = _label(panel, subject, x)
                    margins += _differences(claim, label, measured, sign)
    return margins


def _differences(claim, label: str, measured: np.ndarray, sign: int) -> list[Margin]:
    if isinstance(claim.by, list):
        low, high = sorted(sign * bound for bound in claim.by)
        return _within(label, measured, low, high, "points")
    bound = sign * claim.by
    words = "more than" if sign > 0 else "less than"
    bounded = f"{_BOUND[sign]} {amount(bound, 'points')}"
    claimed = f"{words} 0 points" if claim.by == 0 else bounded
    return [Margin(label, sign * measured - claim.by, measured, claimed)]


_BOUND = {1: "at least", -1: "at most"}


def _against_reference(claim, values: Values) -> list[Margin]:
    """Steady, no drop, drops: each x against the reference x, within a seed."""
    margins = []
    for panel in claim.panels:
        for rule in claim.aggregators:
            curve = values.curve(panel, rule, "all", "each")
            base = _select(curve, claim.reference, rule).iloc[0]
            others = curve[curve.index != base.name]
            if claim.test == "drops":
                others = others.iloc[-1:]
            if others.empty:
                raise NotEnoughError(f"{rule}: nothing to compare with {base.name}")
            for x, there in others.iterrows():
                change = (there - base).dropna().to_numpy(float)
                if not len(change):
                    raise NotEnoughError(f"{rule}: no seed has both {base.name} and {x}")
                margins += _change(claim, _label(panel, captions.rule_name(rule), x), change)
    return margins


def _change(claim, label: str, change: np.ndarray) -> list[Margin]:
    if claim.test == "steady":
        return _within(label, change, -claim.tolerance, claim.tolerance, "points")
    if claim.test == "drops":
        return [Margin(label, -change - claim.by, change, f"at most {amount(-claim.by, 'points')}")]
    claimed = f"at least {amount(-claim.tolerance, 'points')}"
    return [Margin(label, claim.tolerance + change, change, claimed)]


_TESTS: Mapping[str, Callable] = {
    "above": _against_level,
    "below": _against_level,
    "between": _against_level,
    "exceeds": _against_rules,
    "undercuts": _against_rules,
    "steady": _against_reference,
    "no_drop": _against_reference,
    "drops": _against_reference,
}


def amount(value: float, unit: str) -> str:
    """A fraction as percent, a signed difference in points, or another number as it is."""
    if unit == "number":
        return f"{value:.3g}"
    text = f"{100 * value:+.2f} points" if unit == "points" else f"{100 * value:.2f} %"
    return text.replace("-", "−")


def _label(panel: str, subject: str, x: object) -> str:
    parts = [subject]
    if panel:
        parts.append(captions.panel_title(panel))
    if x != "":
        parts.append(f"at {x_text(x)}")
    return ", ".join(parts)
