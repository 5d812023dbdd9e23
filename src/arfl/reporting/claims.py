"""The claims ledger: each testable statement of the paper, evaluated on the records.

Statements are data (``claims.yaml`` beside the paper's numbers; its head explains the fields). A
test turns a statement into *margins*, one per thing compared (an aggregator, an x, a panel), each a
number per seed that is positive where the statement holds. Rules are compared within a seed, since
all rules of a seed share data, attackers and initial model, so that the spread of a margin is the
spread of the difference.

**Holds** when for every margin the 95 % t interval of its mean lies above 0: each part of the
statement must hold by itself, so no correction for their number is needed. **Does not hold** when
for some margin the interval lies below 0, its level raised after Bonferroni to 1 - 0.05 / (number
of margins), since the worst of many margins is picked. **Unclear** otherwise.

That is what the records at hand say. It becomes a verdict (reproduced, not reproduced) only at the
paper's scale, on complete real data, with at least three seeds and every cell done; otherwise the
verdict is *undecided* and the reasons are listed. The same tests run on the paper's own printed
numbers, as points without spread: not every statement agrees with its own table.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import yaml

from arfl.errors import UserError
from arfl.files import write_text
from arfl.reporting import captions, paper
from arfl.reporting.collect import CellRow, Collected, RoundRow, write_csv
from arfl.reporting.compare import student_t
from arfl.reporting.paper import PaperNumbers

MINIMUM_SEEDS = 3
REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"
HOLDS, FAILS, UNCLEAR, NO_RECORDS = "holds", "does not hold", "unclear", "no records"
NOT_PRINTED = "not printed"

# One metric of one target: (panel, aggregator, x) -> {seed: value}.
Values = Mapping[tuple[str, str, float | str | None], Mapping[int, float]]


@dataclass(frozen=True)
class Claim:
    """One statement; the head of ``claims.yaml`` explains the fields."""

    id: str
    where: str
    quote: str
    target: str
    test: str
    aggregators: list[str]
    reading: str = ""
    against: list[str] | str = field(default_factory=list)
    metric: str = "accuracy"
    panels: list[str] = field(default_factory=lambda: [""])
    against_panel: str | None = None
    x: str | float = "all"
    against_x: str | float | str | None = None
    over_x: str = "each"
    over_rounds: str = "last"
    reference: str | float = "first"
    level: float = 0.0
    by: float = 0.0
    tolerance: float = 0.0


@dataclass(frozen=True)
class Margin:
    """How far one part of a statement is fulfilled: positive where it holds, one value a seed."""

    label: str
    by_seed: dict[int, float]


@dataclass(frozen=True)
class Finding:
    """One row of the ledger."""

    id: str
    where: str
    quote: str
    reading: str
    target: str
    verdict: str
    reason: str
    at_hand: str
    numbers: str
    papers_own: str
    papers_numbers: str


class _NotEnoughError(Exception):
    """The values that a statement is about are not there."""


def evaluate(
    collected_dirs: Iterable[str | Path], paper_dir: str | Path, out_prefix: str | Path
) -> None:
    """Write the ledger as ``<out_prefix>.csv`` and ``.md``.

    Args:
        collected_dirs: folders of collected CSV, each named like its target; a claim about a
            target that is not here is undecided.
        paper_dir: folder with the paper's numbers and ``claims.yaml``.
        out_prefix: where to write.
    """
    collected = {Path(folder).name: Collected(folder) for folder in collected_dirs}
    findings = ledger(collected, paper_dir)
    write_csv(f"{out_prefix}.csv", [f.name for f in fields(Finding)], map(vars, findings))
    write_text(f"{out_prefix}.md", markdown(findings))


def ledger(collected: Mapping[str, Collected], paper_dir: str | Path) -> list[Finding]:
    """Evaluate every claim on what has been collected."""
    findings = []
    for claim in read(Path(paper_dir) / "claims.yaml"):
        of_target = collected.get(claim.target)
        cells = of_target.cells if of_target else []
        rounds = of_target.rounds if of_target and claim.over_rounds != "last" else []
        findings.append(find(claim, cells, rounds, paper.load(paper_dir, claim.target)))
    return findings


def read(path: str | Path) -> list[Claim]:
    """Read the claims; an unknown field or test is a `UserError`."""
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; it holds the paper's statements") from None
    claims = []
    for entry in entries:
        try:
            claim = Claim(**entry)
        except TypeError as problem:
            raise UserError(f"{path}, {entry.get('id', entry)}: {problem}") from None
        if claim.test not in _TESTS:
            known = ", ".join(_TESTS)
            raise UserError(f"{path}, {claim.id}: unknown test {claim.test!r}; known are {known}")
        claims.append(claim)
    return claims


def find(
    claim: Claim, cells: Sequence[CellRow], rounds: Sequence[RoundRow], numbers: PaperNumbers
) -> Finding:
    """Evaluate one claim on its target's cells and rounds, and on the paper's own numbers.

    ``rounds`` are looked at only by claims about more than the last round.
    """
    panels = {*claim.panels, claim.against_panel}
    cells = [c for c in cells if c.panel in panels]
    if claim.against != "others":
        named = {*claim.aggregators, *claim.against}
        cells = [c for c in cells if c.aggregator in named]
    at_hand, text = _at_hand(claim, _our_values(claim, cells, rounds))
    reasons = _obstacles(cells)
    if at_hand == NO_RECORDS:
        reasons.append("no usable records")
    elif at_hand == UNCLEAR:
        reasons.append("the seeds do not settle it")
    verdict = UNDECIDED
    if not reasons:
        verdict = REPRODUCED if at_hand == HOLDS else NOT_REPRODUCED
    own, own_text = _papers_own(claim, numbers)
    return Finding(
        id=claim.id,
        where=claim.where,
        quote=claim.quote,
        reading=claim.reading,
        target=claim.target,
        verdict=verdict,
        reason="; ".join(reasons),
        at_hand=at_hand,
        numbers=text,
        papers_own=own,
        papers_numbers=own_text,
    )


def markdown(findings: Sequence[Finding]) -> str:
    """The ledger as Markdown."""
    counts = {v: sum(f.verdict == v for f in findings) for v in _VERDICTS}
    lines = [
        "# Claims of the paper",
        "",
        ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) + ".",
        "",
        "| claim | verdict | records at hand | the paper's own numbers |",
        "|---|---|---|---|",
    ]
    for f in findings:
        reading = f"<br>Tested: {f.reading}." if f.reading else ""
        reason = f"<br>{f.reason}" if f.reason else ""
        lines.append(
            f"| “{f.quote}”<br>{f.where}{reading} | **{f.verdict}**{reason} "
            f"| {f.at_hand}<br>{f.numbers} | {f.papers_own}<br>{f.papers_numbers} |"
        )
    return "\n".join(lines) + "\n"


_VERDICTS = (REPRODUCED, NOT_REPRODUCED, UNDECIDED)


def _obstacles(cells: Sequence[CellRow]) -> list[str]:
    """Why no verdict may rest on these cells."""
    if not cells:
        return []
    reasons = []
    if cells[0].scale != "paper":
        reasons.append(f"scale is {cells[0].scale}, not paper")
    kinds = sorted({c.data_kind for c in cells if c.done} - {"complete"})
    if kinds:
        reasons.append(f"data: {', '.join(kinds)}")
    seeds = len({c.seed for c in cells if c.done})
    if seeds < MINIMUM_SEEDS:
        reasons.append(f"{captions.counted(seeds, 'seed')}, {MINIMUM_SEEDS} are needed")
    left = sum(c.state in ("missing", "broken") for c in cells)
    if left:
        reasons.append(f"{left} of {len(cells)} cells missing or broken")
    diverged = sum(c.state == "diverged" for c in cells)
    if diverged:
        reasons.append(f"{diverged} of {len(cells)} cells diverged")
    return reasons


def _our_values(claim: Claim, cells: Sequence[CellRow], rounds: Sequence[RoundRow]) -> Values:
    if claim.over_rounds == "last":
        by_cell = {c.cell_id: getattr(c, claim.metric) for c in cells}
    else:
        reduce = {"max": max, "mean": lambda v: float(np.mean(v))}[claim.over_rounds]
        series: dict[str, list[float]] = {}
        for entry in rounds:
            value = getattr(entry, claim.metric)
            if value is not None:
                series.setdefault(entry.cell_id, []).append(value)
        by_cell = {cell_id: reduce(values) for cell_id, values in series.items()}
    values: dict[tuple, dict[int, float]] = {}
    for c in cells:
        value = by_cell.get(c.cell_id)
        if value is not None:
            values.setdefault((c.panel, c.aggregator, c.x), {})[c.seed] = value
    return values


def _at_hand(claim: Claim, values: Values) -> tuple[str, str]:
    try:
        margins = _margins(claim, values)
    except _NotEnoughError as problem:
        return NO_RECORDS, str(problem)
    by_state: dict[str, list[Margin]] = {FAILS: [], UNCLEAR: [], HOLDS: []}
    for margin in margins:
        by_state[_state(margin, len(margins), claim)].append(margin)
    # The first that is not empty decides, and its worst margin is the one to show.
    state, deciding = next((s, m) for s, m in by_state.items() if m)
    return state, _margin_text(min(deciding, key=_mean), len(margins))


def _papers_own(claim: Claim, numbers: PaperNumbers) -> tuple[str, str]:
    """The same test on the printed numbers, as if they were one seed without spread."""
    if claim.over_rounds != "last":
        return NOT_PRINTED, "the paper prints no values per round"
    values = {
        (panel, aggregator, x): {0: printed.value}
        for (panel, aggregator, metric, x), printed in numbers.values.items()
        if metric == claim.metric
    }
    try:
        margins = _margins(claim, values)
    except _NotEnoughError as problem:
        return NOT_PRINTED, str(problem)
    worst = min(margins, key=_mean)
    holds = all(_positive(_mean(m), claim) for m in margins)
    return (HOLDS if holds else FAILS), f"{_of(worst, len(margins))}: margin {_pp(_mean(worst))}"


def _state(margin: Margin, n_margins: int, claim: Claim) -> str:
    if len(margin.by_seed) < 2:
        return UNCLEAR
    mean = _mean(margin)
    if _positive(mean - _half_width(margin, 0.05), claim):
        return HOLDS
    # Zero spread and zero margin (two rules always equal) refute a strict statement.
    upper = mean + _half_width(margin, 0.05 / n_margins)
    return UNCLEAR if _positive(upper, claim) else FAILS


def _positive(margin: float, claim: Claim) -> bool:
    """Whether a margin fulfils the statement; 'more than' is strict, a stated bound is not."""
    # Printed decimals such as 0.1031 - 0.0981 must not miss a bound by their last bit.
    if claim.test in ("exceeds", "undercuts") and claim.by == 0:
        return margin > 1e-12
    return margin >= -1e-12


def _mean(margin: Margin) -> float:
    return float(np.mean(list(margin.by_seed.values())))


def _half_width(margin: Margin, alpha: float) -> float:
    values = list(margin.by_seed.values())
    n = len(values)
    return student_t(1 - alpha / 2, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)


def _margin_text(margin: Margin, n_margins: int) -> str:
    n = len(margin.by_seed)
    text = f"{_of(margin, n_margins)}: margin {_pp(_mean(margin))}"
    if n > 1:
        half = f"{100 * _half_width(margin, 0.05):.2f}"
        return f"{text} ± {half} (95 % interval, {n} seeds)"
    return f"{text} (one seed, no interval)"


def _of(margin: Margin, n_margins: int) -> str:
    return f"worst of {n_margins}, {margin.label}" if n_margins > 1 else margin.label


def _pp(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−") + " points"


def _margins(claim: Claim, values: Values) -> list[Margin]:
    if not values:
        raise _NotEnoughError(f"{claim.metric.replace('_', ' ')}: no values")
    return _TESTS[claim.test](claim, values)


def _against_level(claim: Claim, values: Values) -> list[Margin]:
    sign = 1 if claim.test == "above" else -1
    return [
        Margin(label, {s: sign * (v - claim.level) for s, v in by_seed.items()})
        for label, by_seed in _quantities(claim, values, claim.aggregators)
    ]


def _against_rules(claim: Claim, values: Values) -> list[Margin]:
    sign = 1 if claim.test == "exceeds" else -1
    margins = []
    for panel in claim.panels:
        for rule in claim.aggregators:
            for other in _resolve(claim, values):
                other_panel = panel if claim.against_panel is None else claim.against_panel
                other_x = claim.x if claim.against_x is None else claim.against_x
                left = _summarised(values, panel, rule, claim.x, claim.over_x)
                right = _summarised(values, other_panel, other, other_x, claim.over_x)
                margins += _differences(claim, (panel, rule, left), (other, right), sign)
    return margins


def _differences(claim: Claim, one: tuple, another: tuple, sign: int) -> list[Margin]:
    panel, rule, left = one
    other, right = another
    # A comparison between two x has one value on each side, whatever the x.
    pairs = [(x, left[x], right[x]) for x in left if x in right]
    if claim.against_x is not None:
        pairs = [(None, next(iter(left.values())), next(iter(right.values())))]
    if not pairs:
        raise _NotEnoughError(f"{rule} and {other} have no x in common")
    margins = []
    for x, a, b in pairs:
        by_seed = {s: sign * (a[s] - b[s]) - claim.by for s in a if s in b}
        if not by_seed:
            raise _NotEnoughError(f"{rule} and {other} have no seed in common")
        margins.append(Margin(_label(panel, f"{rule} against {other}", x), by_seed))
    return margins


def _against_reference(claim: Claim, values: Values) -> list[Margin]:
    """Steady, no drop, drops: each x against the reference x, within a seed."""
    margins = []
    for panel in claim.panels:
        for rule in claim.aggregators:
            curve = _curve(values, panel, rule)
            reference = _select(curve, claim.reference)[0]
            others = [x for x in curve if x != reference]
            if claim.test == "drops":
                others = others[-1:]
            if not others:
                raise _NotEnoughError(f"{rule}: nothing to compare with the value at {reference}")
            for x in others:
                base, there = curve[reference], curve[x]
                changes = {s: there[s] - base[s] for s in base if s in there}
                if not changes:
                    raise _NotEnoughError(f"{rule}: no seed has both {reference} and {x}")
                margin = {s: _change_margin(claim, change) for s, change in changes.items()}
                margins.append(Margin(_label(panel, rule, x), margin))
    return margins


def _change_margin(claim: Claim, change: float) -> float:
    if claim.test == "drops":
        return -change - claim.by
    if claim.test == "no_drop":
        return claim.tolerance + change
    return claim.tolerance - abs(change)


_TESTS = {
    "above": _against_level,
    "below": _against_level,
    "exceeds": _against_rules,
    "undercuts": _against_rules,
    "steady": _against_reference,
    "no_drop": _against_reference,
    "drops": _against_reference,
}


def _quantities(
    claim: Claim, values: Values, rules: Iterable[str]
) -> list[tuple[str, dict[int, float]]]:
    return [
        (_label(panel, rule, x), by_seed)
        for panel in claim.panels
        for rule in rules
        for x, by_seed in _summarised(values, panel, rule, claim.x, claim.over_x).items()
    ]


def _resolve(claim: Claim, values: Values) -> list[str]:
    if claim.against != "others":
        return list(claim.against)
    rules = dict.fromkeys(rule for _, rule, _ in values)
    return [rule for rule in rules if rule not in claim.aggregators]


def _curve(values: Values, panel: str, rule: str) -> dict[float | str | None, Mapping[int, float]]:
    curve = {x: v for (p, r, x), v in values.items() if (p, r) == (panel, rule)}
    if not curve:
        name = captions.panel_title(panel)
        raise _NotEnoughError(f"no values of {rule}" + (f" in {name}" if name else ""))
    return dict(sorted(curve.items(), key=lambda item: (isinstance(item[0], str), item[0] or 0)))


def _select(curve: Mapping[float | str | None, object], x: str | float) -> list[float | str | None]:
    everything = list(curve)
    named = {
        "all": everything,
        "positive": [v for v in everything if v],
        "first": everything[:1],
        "last": everything[-1:],
    }
    chosen = named[x] if isinstance(x, str) else [v for v in everything if v == x]
    if not chosen:
        raise _NotEnoughError(f"no value at {x}")
    return chosen


def _summarised(
    values: Values, panel: str, rule: str, x: str | float, over_x: str
) -> dict[float | str | None, Mapping[int, float]]:
    """Values by x and seed; a summary over x has the one key None and only whole seeds."""
    curve = _curve(values, panel, rule)
    chosen = {v: curve[v] for v in _select(curve, x)}
    if over_x == "each":
        return chosen
    summary = {"average": np.mean, "spread": np.std, "range": np.ptp}[over_x]
    seeds = set.intersection(*(set(by_seed) for by_seed in chosen.values()))
    if not seeds:
        raise _NotEnoughError(f"{rule}: no seed has every x")
    return {None: {s: float(summary([v[s] for v in chosen.values()])) for s in sorted(seeds)}}


def _label(panel: str, subject: str, x: float | str | None) -> str:
    parts = [subject.replace("_", " ")]
    if panel:
        parts.append(captions.panel_title(panel))
    if x is not None:
        parts.append(f"at {captions.x_text(x)}")
    return ", ".join(parts)
