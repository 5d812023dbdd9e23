"""The claims ledger: each testable statement of the paper, evaluated on the records.

Statements are data (``claims.yaml`` beside the paper's numbers; its head explains the fields).
`margins` says how each is tested and when it holds; `evidence` whether the records are the paper's
experiment. What the records at hand say becomes a verdict (reproduced, not reproduced) only where
nothing stands in the way; otherwise it is *undecided*, and every obstacle is named. A verdict under
another reading of the text, such as protocol released, carries that reading's name. The same tests
run on the paper's own printed numbers, within the error that they were printed or read with: not
every statement agrees with its own table.
"""

import difflib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import yaml

from arfl.errors import UserError
from arfl.files import write_json, write_text
from arfl.reporting import captions, evidence, frames, margins, paper
from arfl.reporting.evidence import Experiment
from arfl.reporting.frames import Collected
from arfl.reporting.margins import (
    FAILS,
    HOLDS,
    NO_RECORDS,
    UNCLEAR,
    Margin,
    NotEnoughError,
    Values,
    amount,
)  # fmt: skip
from arfl.reporting.paper import PaperNumbers

REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, UNDECIDED)
NOT_PRINTED = "not printed"
# The vocabulary of others; "toy" is what scale or data alone keep from a verdict.
VERIFIED, FALSIFIED, TOY, INCONCLUSIVE = "verified", "falsified", "toy", "inconclusive"
# A client with less than this share of an equal weight is left out of the model.
LEFT_OUT = 0.1
DRAWS = 1000
HARM = "harm"
# What names a run.
_RUN = ("run", "scale", "protocol")
THEORY_COLUMNS = ("n_clients", "n_samples", "error", "error_standard_error", "rate")


@dataclass(frozen=True)
class Claim:
    """One statement; the head of ``claims.yaml`` explains the fields."""

    id: str
    where: str
    quote: str
    target: str
    test: str
    aggregators: list[str] = field(default_factory=list)
    reading: str = ""
    against: list[str] | str = field(default_factory=list)
    metric: str = "accuracy"
    panels: list[str] = field(default_factory=lambda: [""])
    against_panel: str | None = None
    x: str | float | list[float] = "all"
    against_x: str | float | None = None
    over_x: str = "each"
    over_rounds: str = "last"
    burn_in: Mapping | None = None
    reference: str | float = "first"
    level: float | list[float] | None = None
    by: float | list[float] = 0.0
    tolerance: float = 0.0
    working: float | None = None
    printed: Mapping | None = None

    @property
    def strict(self) -> bool:
        """Whether equality refutes it: 'more than' is strict, a stated bound is not."""
        return self.test in ("exceeds", "undercuts") and self.by == 0

    @property
    def says_best(self) -> bool:
        """Whether it says that residual reweighting is the most accurate of the six."""
        ours_alone = self.aggregators == ["residual_reweighting"] and self.against == "others"
        return self.test == "exceeds" and self.metric == "accuracy" and ours_alone

    @property
    def unit(self) -> str:
        """How its measured values are told."""
        compares = self.test in ("exceeds", "undercuts", "steady", "no_drop", "drops")
        if self.metric == "error_over_rate":
            return "number"
        return "points" if compares else "share"


@dataclass(frozen=True)
class Finding:
    """One row of the ledger.

    ``verdict`` is under ``under``, a reading of the text, empty for the paper's own; ``at_hand``
    what the records say; ``subject`` what the margin that decides is about, ``measured`` and
    ``claimed`` its two sides and ``numbers`` the margin with its interval; ``power`` how many seeds
    would settle it; ``others`` the verdict in the words of others; ``says_best`` whether it says
    that residual reweighting is the most accurate rule; ``papers_subject``,
    ``papers_measured`` and ``papers_claimed`` the same of the paper's own numbers.
    """

    id: str
    where: str
    quote: str
    reading: str
    target: str
    says_best: bool
    verdict: str
    under: str
    others: str
    reason: str
    at_hand: str
    subject: str
    measured: str
    claimed: str
    numbers: str
    power: str
    papers_own: str
    papers_subject: str
    papers_measured: str
    papers_claimed: str
    papers_numbers: str


def evaluate(
    manifests: Iterable[str | Path],
    paper_dir: str | Path,
    out_prefix: str | Path,
    theory: str | Path | None = None,
) -> None:
    """Write the ledger as ``<out_prefix>.csv``, ``.md`` and ``.json``.

    Args:
        manifests: the ``collected.json`` of each target; a claim about a target that is not among
            them is undecided.
        paper_dir: folder with the paper's numbers, its experiment and ``claims.yaml``.
        out_prefix: where to write.
        theory: the simulation of Equation 14, see `arfl.studies.theory`.
    """
    several = list(map(Collected, manifests))
    collected = {c.target: c for c in several}
    if len(collected) < len(several):
        raise UserError("two of the collected files are of one target; name one for each")
    findings = ledger(collected, paper_dir, theory)
    table = pd.DataFrame(map(vars, findings), columns=[f.name for f in fields(Finding)])
    frames.write_csv(f"{out_prefix}.csv", table)
    write_text(f"{out_prefix}.md", markdown(findings, broken(collected.values())))
    write_json(f"{out_prefix}.json", export(findings, collected, evidence.load(paper_dir)))


def ledger(
    collected: Mapping[str, Collected], paper_dir: str | Path, theory: str | Path | None = None
) -> list[Finding]:
    """Evaluate every claim on what has been collected; see `evaluate`."""
    experiment = evidence.load(paper_dir)
    claims = read(Path(paper_dir) / "claims.yaml", experiment)
    printed = {c.target: paper.load(paper_dir, c.target) for c in claims}
    of_run = _of_one_run(collected)
    findings = []
    for claim in claims:
        numbers, of_target = printed[claim.target], collected.get(claim.target)
        found = find(claim, of_target, numbers, experiment, len(claims), of_run)
        if claim.test == "bounded" and theory is not None:
            found = replace(found, **_bounded(_simulated(theory)))
        findings.append(found)
    return findings


def export(
    findings: Sequence[Finding], collected: Mapping[str, Collected], experiment: Experiment
) -> dict:
    """The ledger of one run for other programs."""
    cells = _of_one_run(collected)
    run = {key: cells[key].iloc[0] if len(cells) else "" for key in _RUN}
    if len(cells) and (evidence.as_trained(cells, experiment).scale == evidence.CHANGED).any():
        run["scale"] = evidence.CHANGED
    done = 0 if cells.empty else int((cells.drop_duplicates("cell_id").state == "done").sum())
    n_cells = 0 if cells.empty else int(cells.cell_id.nunique())
    limits = {n: margins.detectable(n, len(findings)) for n in (3, 5, 10)}
    return {
        "format": 1,
        **run,
        "cells": n_cells,
        "cells_done": done,
        "family": len(findings),
        "family_level": margins.FAMILY_LEVEL,
        "detectable": {str(n): round(float(limit), 2) for n, limit in limits.items()},
        "claims": [asdict(finding) for finding in findings],
    }


def _of_one_run(collected: Mapping[str, Collected]) -> pd.DataFrame:
    """All cells; those of several runs would be judged as if they were of the first."""
    if not collected:
        return pd.DataFrame()
    cells = pd.concat([c.cells for c in collected.values()], ignore_index=True)
    runs = cells[list(_RUN)].drop_duplicates()
    if len(runs) > 1:
        names = captions.listed([" ".join(run) for run in runs.itertuples(index=False)])
        raise UserError(f"a ledger is of one run, but these files are of {names}")
    return cells


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = Path(__file__).with_name("claims.schema.json")
    return jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))


def read(path: str | Path, experiment: Experiment) -> list[Claim]:
    """Read the claims.

    Raises:
        UserError: for the first field, test, metric, rule, target, panel or x that is not known.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; it holds the paper's statements") from None
    except yaml.YAMLError as problem:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(entries, list):
        raise UserError(f"{path} is not a list of statements")
    claims: list[Claim] = []
    for entry in entries:
        where = f"{path}, {entry.get('id', entry) if isinstance(entry, dict) else entry}"
        error = jsonschema.exceptions.best_match(_validator().iter_errors(entry))
        if error is not None:
            raise UserError(f"{where}: {_explain(error)}")
        claim = Claim(**entry)
        unknown = _unknown(claim, experiment)
        if unknown:
            raise UserError(f"{where}: {unknown}")
        if any(claim.id == other.id for other in claims):
            raise UserError(f"{where}: a second statement of this id")
        claims.append(claim)
    return claims


def _explain(error: jsonschema.ValidationError) -> str:
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        key = next(key for key in error.instance if key not in known)
        return f"unknown field {key!r}{_hint(key, known)}"
    name = ".".join(map(str, error.absolute_path))
    if error.validator == "enum":
        known = error.schema["enum"]
        return f"unknown {name} {error.instance!r}{_hint(str(error.instance), known)}"
    return f"{name}: {error.message}" if name else error.message


def _hint(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _unknown(claim: Claim, experiment: Experiment) -> str:
    """What the paper's experiment does not have; empty if it has all."""
    targets = [*experiment.points["paper"], "theory"]
    if claim.target not in targets:
        return f"unknown target {claim.target!r}{_hint(claim.target, targets)}"
    named = [*claim.aggregators, *([] if claim.against == "others" else claim.against)]
    for rule in named:
        if rule not in experiment.rules:
            return f"unknown rule {rule!r}{_hint(rule, experiment.rules)}"
    if (claim.target == "theory") != (claim.test == "bounded"):
        return "test bounded is for the target theory, and no other"
    if claim.target == "theory":
        return ""
    if not claim.aggregators:
        return "it names no aggregators"
    if claim.test in ("exceeds", "undercuts") and not claim.against:
        return f"test {claim.test} needs against"
    if isinstance(claim.level, list) != (claim.test == "between"):
        return "level is a list of two bounds exactly where the test is between"
    if problem := _senseless(claim):
        return problem
    points = experiment.of("paper", claim.target)
    for panel in [*claim.panels, *([] if claim.against_panel is None else [claim.against_panel])]:
        in_panel = points[points.panel == panel]
        if in_panel.empty:
            return f"unknown panel {panel!r}{_hint(panel, points.panel.unique())}"
        wanted = claim.x if isinstance(claim.x, list) else [claim.x]
        for x in [*wanted, claim.reference, claim.against_x]:
            if isinstance(x, int | float) and x not in list(in_panel.x):
                return f"{claim.target} has no x of {x} in panel {panel!r}"
    return ""


def _senseless(claim: Claim) -> str:
    """A bound that is no rate, or a field that the test does not look at; empty for neither."""
    for name in ("level", "by", "tolerance"):
        value = getattr(claim, name)
        bounds = np.atleast_1d(0.0 if value is None else value)
        if not (np.abs(bounds) <= 1).all():
            return f"{name} is {value}, but rates are fractions"
        if len(bounds) > 1 and bounds[0] >= bounds[1]:
            return f"{name} has the bounds {bounds[0]:g} and {bounds[1]:g}, not in this order"
    to_level = claim.test in ("above", "below", "between")
    to_rules = claim.test in ("exceeds", "undercuts")
    if to_level and claim.level is None:
        return f"test {claim.test} needs level"
    looks_at = {
        "level": to_level,
        "by": to_rules or claim.test == "drops",
        "tolerance": claim.test in ("steady", "no_drop"),
        "against": to_rules,
        "against_panel": to_rules,
        "against_x": to_rules,
        "x": to_level or to_rules,
        "over_x": to_level or to_rules,
        "reference": claim.test in ("steady", "no_drop", "drops"),
    }
    default = Claim(claim.id, claim.where, claim.quote, claim.target, claim.test)
    for name, looked_at in looks_at.items():
        if not looked_at and getattr(claim, name) != getattr(default, name):
            return f"test {claim.test} does not look at {name}"
    return ""


def find(
    claim: Claim,
    collected: Collected | None,
    numbers: PaperNumbers,
    experiment: Experiment,
    family: int,
    of_run: pd.DataFrame,
) -> Finding:
    """Evaluate one claim on its target's records, and on the paper's own numbers.

    Args:
        claim: the statement.
        collected: of its target; None if nothing has been.
        numbers: the paper's for this target.
        experiment: what the paper trained.
        family: number of statements in the ledger.
        of_run: all cells of the run.
    """
    own = _papers_own(claim, numbers)
    found = {
        "verdict": UNDECIDED, "under": "", "others": INCONCLUSIVE, "reason": "no usable records",
        "at_hand": NO_RECORDS, "subject": "", "measured": "", "claimed": _claimed(claim, numbers),
        "numbers": "", "power": "",
    }  # fmt: skip
    if collected is not None:
        found |= _on_records(claim, collected, experiment, family, of_run)
    return Finding(
        id=claim.id,
        where=claim.where,
        quote=claim.quote,
        reading=claim.reading,
        target=claim.target,
        says_best=claim.says_best,
        **own,
        **found,
    )


def _on_records(
    claim: Claim,
    collected: Collected,
    experiment: Experiment,
    family: int,
    of_run: pd.DataFrame,
) -> dict[str, str]:
    panels = {*claim.panels, *([] if claim.against_panel is None else [claim.against_panel])}
    rules = set(experiment.rules)
    if claim.against != "others":
        rules &= {*claim.aggregators, *claim.against}
    standing = evidence.weigh(collected.cells, experiment, panels, rules, of_run)
    obstacles = list(standing.obstacles)
    found = {"under": standing.reading, "others": TOY if standing.toy else INCONCLUSIVE}
    try:
        parts = []
        for part in _parts(claim):
            values = _our_values(part, standing.cells, collected)
            obstacles += _lost(part, values, standing.cells)
            parts += margins.of(part, Values.of_cells(values))
    except NotEnoughError as problem:
        reason = "; ".join([*obstacles, "not enough records"])
        found["others"] = INCONCLUSIVE
        return found | {"reason": reason, "at_hand": NO_RECORDS, "numbers": str(problem)}
    judged = margins.judge(parts, claim.strict, family)
    if judged.state == UNCLEAR:
        obstacles.append(judged.why)
        found["others"] = INCONCLUSIVE
    verdict = UNDECIDED
    if not obstacles:
        verdict = REPRODUCED if judged.state == HOLDS else NOT_REPRODUCED
        found["others"] = VERIFIED if judged.state == HOLDS else FALSIFIED
    margin = judged.margin
    worst = f"worst of {judged.n_margins}, {margin.label}" if judged.n_margins > 1 else margin.label
    return found | {
        "verdict": verdict,
        "reason": "; ".join(obstacles),
        "at_hand": judged.state,
        "subject": margin.label,
        "measured": _measured(margin, claim),
        "claimed": margin.claimed,
        "numbers": f"{worst}: margin {_interval(judged, claim)}",
        "power": _power(judged, family),
    }


def _parts(claim: Claim) -> list[Claim]:
    """A statement, and where it says that a rule defends, that its model works.

    A model that has lost its task has no attack success either, and is not defended.
    """
    if claim.working is None:
        return [claim]
    works = replace(
        claim, test="above", metric="accuracy", level=claim.working, over_x="each",
        over_rounds="last", burn_in=None, working=None,
    )  # fmt: skip
    return [claim, works]


def _measured(margin: Margin, claim: Claim) -> str:
    return amount(float(margin.measured.mean()), margin.unit or claim.unit)


def _simulated(path: str | Path) -> pd.DataFrame:
    """The study's file, if every number in it can be one."""
    simulated = frames.read_csv(path, THEORY_COLUMNS)
    numbers = simulated[["error", "error_standard_error", "rate"]].apply(
        pd.to_numeric, errors="coerce"
    )
    positive = np.isfinite(numbers) & (numbers > 0)
    if not positive.all(axis=None):
        raise UserError(f"{path} has an error or a bound that is no positive number; make it again")
    return simulated.assign(**numbers)


def _bounded(simulated: pd.DataFrame) -> dict[str, Any]:
    """Whether Equation 14 with constant 1 bounds every simulated error.

    The study needs no training and no data: only its own precision may stand in the way. An error
    is on one side of the bound where it is so by more than four standard errors: one in thirty
    thousand by chance, and there are some hundred.
    """
    ratio = simulated.error / simulated.rate
    doubt = 4 * simulated.error_standard_error / simulated.rate
    state = UNCLEAR
    if (ratio + doubt <= 1).all():
        state = HOLDS
    elif (ratio - doubt > 1).any():
        state = FAILS
    verdict, others = {
        HOLDS: (REPRODUCED, VERIFIED),
        FAILS: (NOT_REPRODUCED, FALSIFIED),
        UNCLEAR: (UNDECIDED, INCONCLUSIVE),
    }[state]
    return {
        "verdict": verdict,
        "others": others,
        "reason": "the simulation is too coarse" if state == UNCLEAR else "",
        "at_hand": state,
        "subject": "worst error",
        "measured": f"{ratio.max():.2g} times the right-hand side",
        "claimed": "at most 1 time",
        "numbers": f"worst of {len(simulated)} simulated combinations of K, S, α and δ, nothing "
        f"trained; on median the bound is {1 / ratio.median():.0f} times the error",
    }


def _interval(judged: margins.Judgement, claim: Claim) -> str:
    unit = "number" if claim.unit == "number" else "points"
    text = amount(judged.margin.mean, unit)
    if judged.half_width is None:
        return f"{text} (one seed, no interval)"
    half = judged.half_width if unit == "number" else 100 * judged.half_width
    n = len(judged.margin.values)
    return f"{text} ± {half:.2f} ({100 * judged.level:.2f} % one-sided, {n} seeds)"


def _power(judged: margins.Judgement, family: int) -> str:
    if judged.state != UNCLEAR:
        return ""
    needed = margins.seeds_needed(judged.margin, family)
    have = len(judged.margin.values)
    if have < 2:
        return f"at least {evidence.MINIMUM_SEEDS} seeds are needed"
    if needed is None:
        return "more than 100 seeds would be needed at this mean and spread"
    # Two modes and contradicting seeds are not a matter of the interval's width alone.
    return f"about {max(needed, have + 1)} seeds would settle it at this mean and spread"


def _our_values(claim: Claim, cells: pd.DataFrame, collected: Collected) -> pd.DataFrame:
    """``panel``, ``aggregator``, ``x``, ``seed`` and ``value`` of every planned cell."""
    values = cells[["cell_id", "panel", "aggregator", "x", "seed"]].copy()
    if claim.metric == "test_share":
        values["value"] = cells.n_test / (cells.n_train + cells.n_test)
    elif claim.metric == HARM:
        # Both, so that a model that the attack has destroyed does not pass for a defended one.
        both = pd.DataFrame({"a": cells.attack_success_rate, "b": 1 - cells.accuracy})
        values["value"] = both.max(axis="columns", skipna=False)
    elif claim.metric == "honest_left_out":
        left_out = _honest_left_out(collected.weights, claim)
        done = cells.state == frames.DONE
        values["value"] = values.cell_id.map(left_out).where(values.cell_id.isin(left_out.index), 0)
        values["value"] = values.value.where(done)
    elif claim.over_rounds == "last":
        values["value"] = cells[claim.metric]
    else:
        rounds = _after_burn_in(collected.rounds, claim)
        done = set(cells[cells.state == frames.DONE].cell_id)
        rounds = rounds[rounds.cell_id.isin(done)]
        # Of a round without a value nothing is known, so there is no maximum and no mean either.
        of_cell = rounds.groupby("cell_id")[claim.metric]
        whole = of_cell.agg(claim.over_rounds).where(of_cell.count() == of_cell.size())
        values["value"] = values.cell_id.map(whole)
    if values.value.isna().all():
        raise NotEnoughError(f"{claim.metric.replace('_', ' ')}: no values")
    return values


def _lost(claim: Claim, values: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    """Records without the value that other seeds of the same point have."""
    keys = [values.panel, values.aggregator, values.x.map(frames.x_text)]
    there = values.value.notna()
    lost = (cells.state == frames.DONE) & ~there & there.groupby(keys).transform("any")
    words = claim.metric.replace("_", " ")
    return [f"{lost.sum()} records lack the {words}"] if lost.any() else []


def _after_burn_in(rounds: pd.DataFrame, claim: Claim) -> pd.DataFrame:
    share = claim.burn_in["share"] if claim.burn_in else 0
    last = rounds.groupby("cell_id")["round"].transform("max")
    return rounds[rounds["round"] > share * last]


def _honest_left_out(weights: pd.DataFrame, claim: Claim) -> pd.Series:
    """Share of the honest clients that get next to no weight, over the rounds, for each cell."""
    weights = _after_burn_in(weights, claim)
    equal = weights.groupby(["cell_id", "round"]).weight.transform("mean")
    honest = weights[~weights.attacker.astype(bool)]
    left_out = honest.weight < LEFT_OUT * equal[honest.index]
    return left_out.groupby(honest.cell_id).mean()


def _claimed(claim: Claim, numbers: PaperNumbers) -> str:
    """The claimed side in words, found from the paper's own numbers where nothing is measured."""
    if claim.test == "bounded":
        return ""
    try:
        return min(_printed_margins(claim, numbers, draws=1), key=lambda m: m.mean).claimed
    except NotEnoughError:
        return ""


def _papers_own(claim: Claim, numbers: PaperNumbers) -> dict[str, str]:
    """The same test on the printed numbers, drawn within their errors."""
    nothing = {"papers_own": NOT_PRINTED}
    nothing |= dict.fromkeys(("papers_subject", "papers_measured", "papers_claimed"), "")
    if claim.test == "bounded":
        return nothing | {"papers_numbers": "the paper leaves the constant open"}
    if claim.over_rounds != "last":
        return nothing | {"papers_numbers": "the paper prints no values per round"}
    try:
        exact = _printed_margins(claim, numbers, draws=1)
        state, worst = margins.judge_printed(
            _printed_margins(claim, numbers, draws=DRAWS), exact, claim.strict
        )
    except NotEnoughError as problem:
        return nothing | {"papers_numbers": str(problem)}
    measured = _measured(worst, claim)
    place = f"worst of {len(exact)}, {worst.label}" if len(exact) > 1 else worst.label
    text = f"{measured}, claimed {worst.claimed} ({place}"
    text += f"; margin {amount(worst.mean, 'points')})"
    if state == UNCLEAR:
        text += "; within the error with which the numbers were printed or read"
    return {
        "papers_own": state,
        "papers_subject": worst.label,
        "papers_measured": measured,
        "papers_claimed": worst.claimed,
        "papers_numbers": text,
    }


def _printed_margins(claim: Claim, numbers: PaperNumbers, draws: int) -> list[Margin]:
    """Margins of the printed numbers; of one draw, which has no error, or of many."""
    whole, *works = _parts(claim)
    parts = margins.of(whole, _printed_values(whole, _printed_rows(whole, numbers), draws))
    for part in works:
        # Not every accuracy is printed.
        rows = _printed_rows(part, numbers)
        rules = [
            r for r in part.aggregators if set(part.panels) <= set(rows[rows.aggregator == r].panel)
        ]
        part = replace(part, aggregators=rules)
        if rules:
            parts += margins.of(part, _printed_values(part, rows, draws))
    return parts


def _printed_rows(claim: Claim, numbers: PaperNumbers) -> pd.DataFrame:
    if claim.printed is not None:
        x = None if isinstance(claim.x, str) else claim.x
        return pd.DataFrame(
            [
                {"panel": panel, "aggregator": rule, "x": x, **claim.printed}
                for panel in claim.panels
                for rule in claim.aggregators
            ]
        )
    printed = numbers.values
    if claim.metric == HARM:
        errors = printed[printed.metric == "accuracy"].assign(value=lambda rows: 1 - rows.value)
        success = printed[printed.metric == "attack_success_rate"]
        both = pd.concat([errors, success]).sort_values("value", kind="stable")
        keys = ["panel", "aggregator", "column"]
        return both[both.groupby(keys).metric.transform("nunique") == 2].drop_duplicates(
            keys, keep="last"
        )
    return printed[printed.metric == claim.metric]


def _printed_values(claim: Claim, rows: pd.DataFrame, draws: int) -> Values:
    if rows.empty:
        raise NotEnoughError(f"{claim.metric.replace('_', ' ')}: no values")
    rng = np.random.default_rng(zlib.crc32(claim.id.encode()))
    errors = rng.uniform(-1, 1, (len(rows), draws)) if draws > 1 else np.zeros((len(rows), 1))
    values = rows.value.to_numpy(float)[:, None] + errors * rows.error.to_numpy(float)[:, None]
    places = rows.assign(
        x=pd.Series([None if pd.isna(x) else x for x in rows.x], rows.index, object)
    )
    return Values(places, values, range(draws))


def broken(collected: Iterable[Collected]) -> list[str]:
    """One line for each broken record."""
    cells = pd.concat([c.cells for c in collected] or [pd.DataFrame(columns=["state", "record"])])
    rows = cells[cells.state == frames.BROKEN].drop_duplicates("record")
    return [f"`{row.record}`: {row.reason}" for row in rows.itertuples()]


def of_training(findings: Iterable[Mapping]) -> list[Mapping]:
    """The claims about trained models: all but the theorem, which a simulation judges anywhere."""
    return [f for f in findings if f["target"] != "theory"]


def tally(findings: Sequence[Mapping]) -> dict[str, int]:
    """How many of each verdict; those under another reading are counted by themselves."""
    counts = dict.fromkeys(VERDICTS, 0)
    for f in findings:
        decided = f["verdict"] != UNDECIDED
        name = f"{f['verdict']} under {f['under']}" if f["under"] and decided else f["verdict"]
        counts[name] = counts.get(name, 0) + 1
    return counts


def markdown(findings: Sequence[Finding], broken_records: Sequence[str] = ()) -> str:
    """The ledger as Markdown."""
    counts = tally([vars(f) for f in findings])
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
        under = f" under {f.under}" if f.under and f.verdict != UNDECIDED else ""
        reason = f"<br>{f.reason}" if f.reason else ""
        sides = f": {f.measured}, claimed {f.claimed}" if f.measured else ""
        power = f"<br>{f.power}" if f.power else ""
        lines.append(
            f"| “{f.quote}”<br>{f.where}{reading} | **{f.verdict}**{under}{reason} "
            f"| {f.at_hand}{sides}<br>{f.numbers}{power} | {f.papers_own}<br>{f.papers_numbers} |"
        )
    if broken_records:
        lines += ["", "## Broken records", "", *(f"- {line}" for line in broken_records)]
    return "\n".join(lines) + "\n"


def statement(finding: Mapping) -> str:
    """A finding in one sentence, with the measured value beside the claimed one."""
    sides = f"measured {finding['measured']}, claimed {finding['claimed']}"
    return f"“{finding['quote']}” ({finding['where']}): {finding['subject']}, {sides}"


_NAMES = {
    "mnist": "MNIST", "cifar10": "CIFAR-10", "amazon": "Amazon", "loan": "LOAN", "iid": "IID",
    "lambda": "λ", "delta": "δ",
    "percent": "%", "success": "attack success",
}  # fmt: skip
_SCENARIOS = {
    "flip": "label flip", "naive": "naive backdoor", "replacement": "model replacement",
    "gaussian": "Gaussian noise",
}  # fmt: skip


def name(claim_id: str) -> str:
    """A claim's id for people.

    >>> name("mnist-flip-foolsgold-6-percent")
    'MNIST, label flip: FoolsGold 6 %'
    """
    words = claim_id.split("-")
    said = [_NAMES.get(word, captions.rule_name(word)) for word in words]
    at = next((i for i, word in enumerate(words[:-1]) if word in _SCENARIOS), None)
    if at is not None and at < 2:
        said[: at + 1] = [", ".join([*said[:at], _SCENARIOS[words[at]]]) + ":"]
    text = " ".join(said)
    return text if text.startswith(("λ", "δ")) else text[0].upper() + text[1:]
