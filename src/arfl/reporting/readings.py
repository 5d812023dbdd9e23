"""Which reading of the text gives the printed numbers: Figure 3 under each, beside the paper's.

A *reading* is a run's protocol with the options in which one step differs from it, as the target
``readings`` plans them; "no change" is the protocol itself. Runs are compared together, because the
protocol is one of the readings, and so is what a printed number is: the accuracy after the last
round, or its mean over the last rounds. What a change cannot touch, such as the other rules where
one rule's option changes, is taken from the cell that it leaves as it is, so that all readings are
measured against the same printed numbers.

The **distance** of a reading is the root of the mean squared difference between the means over the
seeds and the printed numbers. Its uncertainty is the jackknife's over the seeds, which all cells of
a seed share: a whole seed is left out at a time. Two readings cannot be told apart where the
jackknife's 95 % interval of the difference of their distances holds 0. A number **fits** where the
rule of `compare` does not mark it, for three seeds or more.

A **feature** is something that Figure 3 shows and that a reading may explain, as a contrast of
accuracies within a seed. A reading explains it (yes) if the one-sided 95 % confidence bound of the
contrast reaches half of the printed one, or for a level if the interval lies within three points of
it; it does not (no) if the opposite bound does not; else it is open. One seed leaves it open.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arfl.grid import OF_ATTACKERS
from arfl.reporting import captions, compare, evidence, paper, tables
from arfl.reporting.evidence import MINIMUM_SEEDS
from arfl.reporting.frames import DIVERGED, DONE, x_text
from arfl.reporting.paper import PaperNumbers
from arfl.reporting.tables import Block, Row, Table, percent

TARGET = "readings"
PRINTED = "figure3"
TITLE = "Readings of the text beside Figure 3"
YES, NO, OPEN = "yes", "no", "open"
ALL_RULES = "all"
MEASURES = {"last": "last round", "late": "mean of the last rounds"}
# The one-sided level of a feature's bound, and how near a level must be.
_LEVEL, _NEAR = 0.95, 0.03
# A sentence names no more readings than this.
_MANY = 2
_NOT_PLANNED = "not planned"
_READING = ["run", "protocol", "reading", "words"]
# One row per run, reading, rule, number of attackers and seed. ``column`` is the paper's number of
# attackers, as text; ``own`` whether the reading changes anything in the cell, or is the protocol
# itself; ``planned`` whether the run's plan has the cell.
VALUES = (
    "run", "protocol", "reading", "words", "aggregator", "label", "n_attackers", "column", "seed",
    "own", "planned", "state", "last", "late", "late_rounds", "paper", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Feature:
    """Something that Figure 3 shows.

    Attributes:
        name: for people.
        rules: that it is about.
        columns: numbers of attackers that it needs; none: all that there are.
        contrast: of a table of accuracies, a row per rule and a column per number of attackers.
        level: whether the contrast must be near the printed one instead of reaching half of it.
    """

    name: str
    rules: tuple[str, ...]
    columns: tuple[str, ...]
    contrast: Callable[[pd.DataFrame], float]
    level: bool = False


def _fall(rule: str, to: str) -> Callable[[pd.DataFrame], float]:
    return lambda table: table.loc[rule, "0"] - table.loc[rule, to]


FEATURES = (
    Feature("FedAvg falls with one attacker", ("fedavg",), ("0", "1"), _fall("fedavg", "1")),
    Feature("FedAvg falls with ten", ("fedavg",), ("0", "10"), _fall("fedavg", "10")),
    Feature(
        "FoolsGold near 88 % with ten",
        ("foolsgold",),
        ("10",),
        lambda table: table.loc["foolsgold", "10"],
        level=True,
    ),
    Feature(
        "Repeated Median unlike Median",
        ("repeated_median", "median"),
        (),
        lambda table: (table.loc["repeated_median"] - table.loc["median"]).abs().mean(),
    ),
)


def values(cells: pd.DataFrame, numbers: PaperNumbers) -> pd.DataFrame:
    """Every reading's accuracy at every printed number, seed by seed: `VALUES`.

    Args:
        cells: the collected cells of target ``readings``, of one run or several.
        numbers: the paper's Figure 3; a run at another scale or on stand-ins has none beside it.
    """
    n_clients = numbers.participants(cells)
    cells = cells.assign(
        column=[
            numbers.column("n_attackers", n, n_clients) or x_text(n) for n in cells.n_attackers
        ],
        key=cells.changes.map(_key),
    )
    printed = numbers.values.rename(columns={"value": "paper"})
    printed = printed[["aggregator", "column", "paper", "error"]]
    rows = []
    for run, of_run in cells.groupby("run", sort=False):
        once = of_run.drop_duplicates("cell_id")
        places = once[["aggregator", "label", "n_attackers", "column", "seed"]].drop_duplicates()
        found = {(c.aggregator, c.n_attackers, c.seed, c.key): c for c in once.itertuples()}
        for changes, words in _readings(of_run):
            for place in places.itertuples(index=False):
                wanted = _needed(changes, place.aggregator, place.n_attackers)
                cell = found.get((place.aggregator, place.n_attackers, place.seed, _key(wanted)))
                row = place._asdict() | {"run": run, "protocol": of_run.protocol.iloc[0]}
                row |= {"reading": _key(changes), "words": words, "planned": cell is not None}
                row["own"] = _key(wanted) != _key({}) or _key(changes) == _key({})
                if cell is not None:
                    row |= {"state": cell.state, "last": cell.accuracy, "late": cell.accuracy_late}
                    row["late_rounds"] = cell.late_rounds
                rows.append(row)
    made = pd.DataFrame(rows, columns=[c for c in VALUES if c not in ("paper", "error")])
    made = made.astype({"last": float, "late": float, "late_rounds": float})
    made = made.merge(printed, "left", on=["aggregator", "column"])[list(VALUES)]
    comparable = [run for run, of_run in cells.groupby("run") if captions.comparable(of_run)]
    made.loc[~made.run.isin(comparable), ["paper", "error"]] = np.nan
    return made


def measured(seeds: pd.DataFrame) -> pd.DataFrame:
    """The rows of the readings that have a record of their own, of what `values` gives."""
    own = (seeds.state == DONE) & seeds.own
    return seeds[own.groupby([seeds.run, seeds.reading]).transform("any")]


def entries(seeds: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds beside the printed numbers, one row per measure.

    Args:
        seeds: what `values` gives.

    Returns:
        run, protocol, reading, words, aggregator, label, column, own, measure, measured, std,
        n_done, n_diverged, n_planned, late_rounds, paper, error, difference, allowance and
        ``fits``: whether the difference is within the allowance of `compare`, None for fewer than
        three seeds.
    """
    keys = [*_READING, "aggregator", "label", "column", "own"]
    parts = []
    for measure in MEASURES:
        groups = seeds.groupby(keys, sort=False)
        part = groups[measure].agg(measured="mean", std="std", n_done="count").reset_index()
        part["n_diverged"] = groups.state.agg(lambda s: (s == DIVERGED).sum()).to_numpy()
        part["n_planned"] = groups.planned.sum().to_numpy().astype(int)
        part["late_rounds"] = groups.late_rounds.max().to_numpy()
        part[["paper", "error"]] = groups[["paper", "error"]].first().to_numpy()
        parts.append(part.assign(measure=measure))
    made = pd.concat(parts, ignore_index=True)
    made["difference"] = made.measured - made.paper
    factor = made.n_done.clip(lower=1).map(compare.prediction_factor)
    made["allowance"] = factor * made["std"] + made.error
    known = made.difference.notna() & (made.n_done >= MINIMUM_SEEDS)
    made["fits"] = (made.difference.abs() <= made.allowance).astype(object).where(known, None)
    return made


def distances(seeds: pd.DataFrame) -> pd.DataFrame:
    """How far each reading that has records is from what is printed, by rule and over all.

    Args:
        seeds: what `values` gives.

    Returns:
        run, protocol, reading, words, aggregator (`ALL_RULES` for all), ``own`` (whether the
        reading touches the rule), measure, ``n_printed`` numbers, ``n_measured`` of them by at
        least one seed, ``n_cells``, ``n_planned`` and ``n_missing`` of them, ``n_seeds`` that all
        measured numbers have, ``rms`` and its standard error ``se`` (NaN for one seed), both as
        fractions, and ``without``: seed -> ``rms`` without it.
    """
    rows = []
    known = measured(seeds)
    for place, of_one in known[known.paper.notna()].groupby(_READING, sort=False):
        rules = [(ALL_RULES, of_one), *of_one.groupby("aggregator", sort=False)]
        for rule, here in rules:
            for measure in MEASURES:
                numbers, printed = _numbers(here, measure)
                without = _left_out(numbers, printed)
                row = dict(zip(_READING, place, strict=True))
                row |= {"aggregator": rule, "own": here.own.any(), "measure": measure}
                row |= {"n_printed": len(printed), "n_cells": len(here)}
                row["n_measured"] = int((~np.isnan(numbers)).any(axis=1).sum())
                row["n_planned"] = int(here.planned.sum())
                row["n_missing"] = int((here.state != DONE).sum())
                row["n_seeds"] = len(_whole_seeds(numbers))
                row |= {"rms": _rms(numbers, printed), "se": _jackknife(without)}
                rows.append(row | {"without": without})
    names = (
        "aggregator", "own", "measure", "n_printed", "n_cells", "n_measured", "n_planned",
        "n_missing", "n_seeds", "rms", "se", "without",
    )  # fmt: skip
    return pd.DataFrame(rows, columns=[*_READING, *names])


def features(seeds: pd.DataFrame) -> pd.DataFrame:
    """Whether each reading that has records explains what Figure 3 shows.

    Args:
        seeds: what `values` gives.

    Returns:
        run, protocol, reading, words, measure, feature, ``own`` (whether the reading touches it),
        ``printed`` and ``measured`` contrast (mean over the seeds), ``std``, ``n_seeds``,
        ``answer`` (yes, no or open) and ``why`` it is open.
    """
    rows = []
    for place, here in measured(seeds).groupby(_READING, sort=False):
        for feature in FEATURES:
            for measure in MEASURES:
                row = dict(zip(_READING, place, strict=True))
                row |= {"measure": measure, "feature": feature.name}
                rows.append(row | _answer(feature, here, measure))
    names = ("measure", "feature", "own", "printed", "measured", "std", "n_seeds", "answer", "why")
    return pd.DataFrame(rows, columns=[*_READING, *names])


def effects(seeds: pd.DataFrame) -> pd.DataFrame:
    """What each reading changes in the accuracy after the last round, within a seed.

    Args:
        seeds: what `values` gives.

    Returns:
        A row per number that a reading touches: ``before`` and ``after`` in words, label, column,
        and the ``mean`` change over the seeds that have both cells, its ``std`` and ``n_seeds``.
        A run's changes are taken from its protocol, and the other protocols from the first.
    """
    done = seeds[(seeds.state == DONE) & seeds.own]
    keys = ["label", "column", "seed"]
    base = done[done.reading == _key({})]
    first = base[base.run == seeds.run.iloc[0]]
    steps = []
    for place, here in done.groupby(_READING, sort=False):
        run, _, reading, words = place
        others = first if reading == _key({}) else base[base.run == run]
        if reading == _key({}) and run == seeds.run.iloc[0]:
            continue
        both = others[[*keys, "words", "last"]].merge(here[[*keys, "last"]], on=keys)
        change = (both.last_y - both.last_x).groupby([both.label, both.column], sort=False)
        step = change.agg(["mean", "std", "count"]).reset_index()
        step = step.rename(columns={"count": "n_seeds"})
        before = others.words.iloc[0] if len(others) else ""
        steps.append(step.assign(before=before, after=words.removeprefix(f"{before}, ")))
    columns = ["before", "after", "label", "column", "mean", "std", "n_seeds"]
    return pd.concat(steps, ignore_index=True)[columns] if steps else pd.DataFrame(columns=columns)


def verdict(seeds: pd.DataFrame) -> list[str]:
    """What the records say of the readings, in sentences; "open" where cells are missing.

    Args:
        seeds: what `values` gives.
    """
    if not seeds.paper.notna().any():
        return ["No reading is judged: at this scale or on these data no printed number compares."]
    far, rows = distances(seeds), entries(seeds)
    everywhere = int(seeds.groupby(["run", "reading"]).planned.all().sum())
    sentences = [_best(far[far.aggregator == ALL_RULES], everywhere)]
    sentences += _by_rule(far, dict(zip(seeds.aggregator, seeds.label, strict=True)))
    sentences.append(_unfitted(rows))
    return sentences + _explained(features(seeds))


def table(cells: pd.DataFrame, numbers: PaperNumbers) -> tuple[pd.DataFrame, Table]:
    """The readings that have records: their tidy entries, and the table for people."""
    seeds = values(cells, numbers)
    rows, far, known = entries(seeds), distances(seeds), measured(seeds)
    blocks = []
    if known.paper.notna().any():
        blocks.append(summary_block(far, features(seeds)))
    shown = entries(known) if len(known) else rows[:0]
    for rule, of_rule in shown.groupby("aggregator", sort=False):
        blocks.append(_rule_block(of_rule, far[far.aggregator == rule]))
    notes = verdict(seeds) + tables.broken(cells)
    silent = [words for words in dict.fromkeys(seeds.words) if words not in set(known.words)]
    if silent:
        notes.append(f"No records yet: {'; '.join(silent)}.")
    caption = (
        "Percent. Each reading is a protocol with one change; mean ± standard deviation over the "
        "seeds. Distance: root of the mean squared difference from the printed numbers, ± its "
        "standard error over the seeds. ▲ ▼: a difference that the seeds' spread does not explain."
    )
    source = sources(cells)
    return rows, Table(TARGET, TITLE, caption, source, blocks, notes, "What the records say")


def write(manifests: Iterable[str | Path], paper_dir: str | Path, out_prefix: str | Path) -> None:
    """Write ``<out_prefix>.csv .md .tex .json`` over the runs that planned the readings.

    Args:
        manifests: the ``collected.json`` of target ``readings`` of each run.
        paper_dir: the paper's numbers.
        out_prefix: output path without suffix.
    """
    tables.save(*table(together(manifests, paper_dir), paper.load(paper_dir, PRINTED)), out_prefix)


def sources(cells: pd.DataFrame) -> str:
    """From which records the readings of each run are."""
    sentences = []
    for _, of_run in cells.groupby("run", sort=False):
        once = of_run.drop_duplicates("cell_id")
        sentences += [captions.data_sentence(once), captions.mixed_versions(once)]
    return " ".join(filter(None, sentences))


def together(manifests: Iterable[str | Path], paper_dir: str | Path) -> pd.DataFrame:
    """The cells of several runs in one frame."""
    several = [evidence.collected(manifest, paper_dir).cells for manifest in manifests]
    return pd.concat(several, ignore_index=True)


def _key(changes: Mapping) -> str:
    return json.dumps({of: options for of, options in changes.items() if options}, sort_keys=True)


def _readings(cells: pd.DataFrame) -> list[tuple[dict, str]]:
    """The change sets of a run's plan with their words, no change first.

    A sweep's value is a change set: all that any of its cells changes. An aggregator's changes
    stand under its name, since they are no change for the others.
    """
    found: dict[str, tuple[dict, str]] = {_key({}): ({}, f"protocol {cells.protocol.iloc[0]}")}
    stems = cells.panel.str.split("/").str[0]
    for _, here in cells.groupby([stems, cells.x.map(x_text)], sort=False):
        changes: dict[str, dict] = {"task": {}, "attack": {}, "aggregator": {}}
        for cell in here.itertuples():
            changes["task"] |= cell.changes["task"]
            changes["attack"] |= cell.changes["attack"]
            if cell.changes["aggregator"]:
                changes["aggregator"][cell.aggregator] = cell.changes["aggregator"]
        labels = dict(zip(here.aggregator, here.label, strict=True))
        words = _words(changes, here.iloc[-1].settings["task"], labels)
        found.setdefault(_key(changes), (changes, f"{found[_key({})][1]}, {words}"))
    return list(found.values())


def _needed(changes: Mapping, aggregator: str, n_attackers: int) -> dict:
    """What of a reading's changes decides anything in a cell, as `Grid` leaves it."""
    task = changes.get("task", {})
    if n_attackers == 0:
        task = {key: value for key, value in task.items() if key not in OF_ATTACKERS}
    return {
        "task": task,
        "attack": changes.get("attack", {}) if n_attackers else {},
        "aggregator": changes.get("aggregator", {}).get(aggregator, {}),
    }


def _words(changes: Mapping, task: Mapping, labels: Mapping[str, str]) -> str:
    known = dict(changes["task"])
    if known.get("clients_per_round") is not None:
        known["attackers_every_round"] = task["attackers_every_round"]
    said = [_option(option, value) for option, value in sorted(known.items(), reverse=True)]
    said = sorted(said, key=lambda text: not text[0].isdigit())
    said += [_option(option, value) for option, value in changes["attack"].items()]
    for rule, options in changes["aggregator"].items():
        said += [f"{labels[rule]}: {_option(option, value)}" for option, value in options.items()]
    return ", ".join(said)


def _option(option: str, value: Any) -> str:
    """A changed option in words; others as they stand in the configuration."""
    text = x_text(value)
    match option, value:
        case "clients_per_round", None:
            return "all train"
        case "clients_per_round", _:
            return f"{text} train a round"
        case "attackers_every_round", _:
            return "attackers in every round" if value else "attackers by chance"
        case "lr_factor", _:
            return f"attackers' rate ×{text}"
        case "min_source_share", _:
            return f"attackers hold {100 * value:g} % of a shard of the digit"
        case "train_share", _:
            return f"{100 * value:g} % of the samples"
        case "variant", _:
            return f"the {'text' if value == 'paper' else 'code'}'s variant"
        case "update", _:
            return f"from {'summed gradients' if value == 'gradients' else 'models'}"
        case "delta", _:
            return f"δ = {text}"
    return f"{option.replace('_', ' ')} {text or 'none'}"


def _numbers(seeds: pd.DataFrame, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """(P, S) accuracies of P printed numbers and S seeds, NaN where missing; (P,) as printed."""
    rows = {
        p: i for i, p in enumerate(dict.fromkeys(zip(seeds.aggregator, seeds.column, strict=True)))
    }
    columns = {seed: i for i, seed in enumerate(sorted(set(seeds.seed)))}
    numbers, printed = np.full((len(rows), len(columns)), np.nan), np.empty(len(rows))
    for cell in seeds.itertuples():
        row = rows[cell.aggregator, cell.column]
        numbers[row, columns[cell.seed]] = getattr(cell, measure)
        printed[row] = cell.paper
    return numbers, printed


def _rms(numbers: np.ndarray, printed: np.ndarray) -> float:
    known = ~np.isnan(numbers).all(axis=1)
    if not known.any():
        return np.nan
    return float(np.sqrt(np.mean((np.nanmean(numbers[known], axis=1) - printed[known]) ** 2)))


def _whole_seeds(numbers: np.ndarray) -> list[int]:
    """Places of the seeds that every measured number has."""
    known = numbers[~np.isnan(numbers).all(axis=1)]
    return list(np.flatnonzero(~np.isnan(known).any(axis=0))) if len(known) else []


def _left_out(numbers: np.ndarray, printed: np.ndarray) -> dict[int, float]:
    """Seed's place -> the distance of the others, among the seeds that every number has."""
    seeds = _whole_seeds(numbers)
    if len(seeds) < 2:
        return {}
    return {s: _rms(numbers[:, [k for k in seeds if k != s]], printed) for s in seeds}


def _jackknife(without: Mapping[int, float], other: Mapping[int, float] | None = None) -> float:
    """Standard error of a distance, or of the difference of two, over the seeds they share."""
    shared = sorted(set(without) if other is None else set(without) & set(other))
    if len(shared) < 2:
        return np.nan
    parts = np.array([without[s] - (0 if other is None else other[s]) for s in shared])
    n = len(parts)
    return float(np.sqrt((n - 1) / n * ((parts - parts.mean()) ** 2).sum()))


def _answer(feature: Feature, seeds: pd.DataFrame, measure: str) -> dict:
    here = seeds[seeds.aggregator.isin(feature.rules) & seeds.paper.notna()]
    columns = feature.columns or tuple(here.column.unique())
    here = here[here.column.isin(columns)]
    wanted = {(rule, column) for rule in feature.rules for column in columns}
    blank = {"printed": np.nan, "measured": np.nan, "std": np.nan, "n_seeds": 0, "answer": OPEN}
    blank["own"] = bool(here.own.any())
    if not wanted or wanted != set(zip(here.aggregator, here.column, strict=True)):
        return blank | {"why": _NOT_PLANNED}
    printed = feature.contrast(here.groupby(["aggregator", "column"]).paper.first().unstack())
    found = []
    for _, of_seed in here.groupby("seed"):
        one = of_seed.set_index(["aggregator", "column"])[measure].unstack()
        if one.notna().all(axis=None) and len(of_seed) == len(wanted):
            found.append(feature.contrast(one))
    known = blank | {"printed": printed, "n_seeds": len(found)}
    if not found:
        planned = here.planned.all()
        return known | {"why": "cells are missing" if planned else _NOT_PLANNED}
    mean, std = float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else np.nan
    low, high = (printed - _NEAR, printed + _NEAR) if feature.level else (printed / 2, np.inf)
    known |= {"measured": mean, "std": std}
    looks = YES if low <= mean <= high else NO
    planned = here.seed.nunique()
    if len(found) < max(2, planned):
        why = f"{len(found)} of {captions.counted(planned, 'seed')}, looks like {looks}"
        return known | {"why": "1 seed, looks like " + looks if planned == 1 else why}
    half = compare.student_t(_LEVEL, len(found) - 1) * std / np.sqrt(len(found))
    if low <= mean - half and mean + half <= high:
        return known | {"answer": YES, "why": ""}
    if mean + half < low or mean - half > high:
        return known | {"answer": NO, "why": ""}
    return known | {"why": f"the seeds' spread, looks like {looks}"}


def _best(far: pd.DataFrame, n_readings: int) -> str:
    """Which reading is nearest of those with all cells; the best only if told apart from all."""
    whole = far[far.n_missing == 0]
    if whole.empty:
        return (
            f"Which reading fits best is open: none of the {n_readings} that are planned for all "
            "rules has all its cells."
        )
    n_whole = len(whole) // len(MEASURES)
    best = whole.loc[whole.rms.idxmin()]
    place = f"{best.words} ({MEASURES[best.measure]})"
    sentence = (
        f"lies {distance(best)} points from the {best.n_printed} printed numbers in the root mean "
        f"square ({captions.counted(int(best.n_seeds), 'seed')})"
    )
    apart = compare.student_t(0.975, max(int(best.n_seeds) - 1, 1))
    near = []
    for other in whole.drop(best.name).itertuples():
        se = _jackknife(other.without, best.without)
        if np.isnan(se) or other.rms - best.rms <= apart * se:
            near.append(f"{other.words} ({MEASURES[other.measure]}, {percent(other.rms, 1)})")
    told = f"; not told apart from it: {_some(near)}" if near else ""
    if n_whole < n_readings or near:
        all_there = f"all {n_readings} have their cells, but the seeds do not settle it"
        some = f"{n_whole} of {n_readings} have all their cells"
        return (
            f"Which reading fits best is open: {some if n_whole < n_readings else all_there}. "
            f"The nearest of these, {place}, {sentence}{told}."
        )
    return f"The reading that fits best is {place}: it {sentence}{told}."


def _contrast(row) -> str:
    """A measured contrast with its spread and number of seeds."""
    text = percent(row.measured, 1)
    if row.n_seeds == 1:
        return f"{text}, 1 seed"
    return f"{text} ± {percent(row.std, 1)}, n = {row.n_seeds}"


def _some(items: Iterable[str]) -> str:
    """The first few of a list, and how many there are besides."""
    items = list(items)
    left = len(items) - _MANY
    return "; ".join(items[:_MANY]) + (f"; and {left} more" if left > 0 else "")


def distance(row) -> str:
    """A distance in points, with its standard error where there is one."""
    text = percent(row.rms, 1)
    return text if pd.isna(row.se) else f"{text} ± {percent(row.se, 1)}"


def _by_rule(far: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """For each rule the nearest of the readings that touch it and have all its cells."""
    whole = far[(far.aggregator != ALL_RULES) & far.own & (far.n_missing == 0)]
    if whole.empty:
        return []
    nearest = whole.loc[whole.groupby("aggregator", sort=False).rms.idxmin()]
    of_reading: dict[str, list[str]] = {}
    for row in nearest.itertuples():
        reading = f"{row.words} ({MEASURES[row.measure]})"
        of_reading.setdefault(reading, []).append(f"{labels[row.aggregator]} {distance(row)}")
    parts = [f"{reading}: {captions.listed(rules)}" for reading, rules in of_reading.items()]
    return [f"Nearest for each rule, among the readings with all its cells: {'; '.join(parts)}."]


def _unfitted(rows: pd.DataFrame) -> str:
    """The printed numbers that no reading gives."""
    rows = rows[rows.paper.notna() & rows.own]
    judged = rows[rows.fits.notna()]
    if judged.empty:
        return (
            f"Which printed numbers fit no reading is open: none is measured by {MINIMUM_SEEDS} "
            "seeds."
        )
    keys = ["label", "column"]
    fits = judged.groupby(keys, sort=False).fits.any()
    n_printed = rows.groupby(keys).ngroups
    tried = judged.groupby(["run", "reading"]).ngroups
    planned = rows[rows.n_planned > 0].groupby(["run", "reading"]).ngroups
    unfitted: dict[str, list[str]] = {}
    for label, column in fits[~fits].index:
        unfitted.setdefault(label, []).append(column)
    none = [f"{label} at {captions.listed(columns)}" for label, columns in unfitted.items()]
    told = f"These fit none: {'; '.join(none)}." if none else "Each of these fits some reading."
    return (
        f"Of the {n_printed} printed numbers {len(fits)} can be compared, with {tried} of the "
        f"{planned} readings. {told}"
    )


def _explained(shown: pd.DataFrame) -> list[str]:
    """For each feature the readings that explain it, by the last round."""
    sentences = []
    shown = shown[shown.own & (shown.why != _NOT_PLANNED) & (shown.measure == "last")]
    for name, here in shown.groupby("feature", sort=False):
        told = []
        explain, refuted = here[here.answer == YES], here[here.answer == NO]
        if len(explain):
            by = _some(f"{row.words} ({_contrast(row)})" for row in explain.itertuples())
            told.append(f"explained by {by}")
        if len(refuted):
            told.append(f"not by {captions.counted(len(refuted), 'reading')}")
        left = here[here.answer == OPEN]
        if len(left):
            likely = int(left.why.str.contains("looks like yes").sum())
            told.append(f"open for {captions.counted(len(left), 'reading')} ({likely} likely)")
        printed = f"{percent(here.printed.iloc[0], 1)} printed"
        sentences.append(f"{name} ({printed}): {'; '.join(told)}.")
    return sentences


def _rule_block(rows: pd.DataFrame, far: pd.DataFrame) -> Block:
    """A rule's numbers under each reading that touches it."""
    columns = list(dict.fromkeys(rows["column"]))
    printed = rows.groupby("column", sort=False).paper.first()
    lines = []
    if printed.notna().any():
        lines.append(Row("the paper", "printed", [*(percent(printed[c]) for c in columns), ""]))
    for place, here in rows.groupby(["run", "reading", "measure"], sort=False):
        if not (here.own & (here.n_done + here.n_diverged > 0)).any():
            continue
        by_column = {row.column: row for row in here.itertuples()}
        run, reading, measure = place
        one = far[(far.run == run) & (far.reading == reading) & (far.measure == measure)]
        far_off = _distance_of(one.iloc[0]) if len(one) else ""
        kind = "last round" if measure == "last" else f"last {here.late_rounds.max():.0f} rounds"
        words = here.words.iloc[0]
        lines.append(Row(words, kind, [*(_number(by_column[c]) for c in columns), far_off]))
        if printed.notna().any():
            differences = [_difference(by_column[c]) for c in columns]
            lines.append(Row(words, "difference", [*differences, ""]))
    named = [captions.counted(int(c), "attacker") if c.isdecimal() else c for c in columns]
    # The measures of a reading stand together.
    order = list(dict.fromkeys(line.subject for line in lines))
    lines.sort(key=lambda line: order.index(line.subject))
    return Block(rows.label.iloc[0], [*named, "distance"], lines)


def _distance_of(row) -> str:
    left = "" if row.n_measured == row.n_printed else f" (of {row.n_measured} numbers)"
    return distance(row) + left


def _number(row) -> str:
    if not row.n_done:
        return tables.NOTHING if not row.n_diverged else "diverged"
    text = percent(row.measured)
    if pd.notna(row.std):
        text += f" ± {percent(row.std)}"
    return text if row.n_done == row.n_planned else f"{text} ({row.n_done}/{row.n_planned} seeds)"


def _difference(row) -> str:
    if pd.isna(row.difference):
        return tables.NOTHING
    mark = ("▲" if row.difference > 0 else "▼") if row.fits is False else ""
    return f"{percent(row.difference, signed=True)} {mark}".strip()


def summary_block(far: pd.DataFrame, shown: pd.DataFrame) -> Block:
    """Each reading's distance over all rules, and what it explains."""
    lines = []
    names = list(dict.fromkeys(shown.feature))
    for row in far[far.aggregator == ALL_RULES].itertuples():
        here = shown[(shown.run == row.run) & (shown.reading == row.reading)]
        here = here[here.measure == row.measure].set_index("feature")
        answers = [_told(here.loc[name]) for name in names]
        left = f"open: {row.n_missing} of {row.n_cells} cells missing"
        left = "not planned for all" if row.n_planned < row.n_cells else left
        whole = left if row.n_missing else distance(row)
        lines.append(Row(row.words, MEASURES[row.measure], [whole, *answers]))
    return Block("All rules", ["distance", *names], lines)


def _told(row) -> str:
    """An answer with what was measured; nothing where the reading cannot touch it."""
    if not row.own or row.why == _NOT_PLANNED:
        return tables.NOTHING
    if pd.isna(row.measured):
        return f"{row.answer}: {row.why}"
    text = f"{percent(row.measured, 1)}"
    if pd.notna(row["std"]):
        text += f" ± {percent(row['std'], 1)}"
    return f"{row.answer} ({text}{'; ' + row.why if row.why else ''})"
