"""The gate: whether these cells are the paper's experiment, and if not, by what exactly.

What the paper trained is data: ``experiment.json`` beside its numbers holds the six rules, the
sweep of each table and figure and the settings of every cell, once under protocol ``paper`` and
once under ``released``, and the settings on which the text is silent. A run's label proves nothing:
each cell's settings are compared. What differs is an obstacle, named, and there is no verdict; only
where all cells differ alike in a setting that the text leaves open is there one, under a reading of
that name. Versions, devices and libraries that should agree and do not are obstacles too.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from arfl.errors import UserError
from arfl.files import read_json
from arfl.reporting import captions
from arfl.reporting.collect import differences, settings_of
from arfl.reporting.frames import DONE, Collected, x_text

MINIMUM_SEEDS = 3
PARTS = ("task", "attack", "aggregator", "dataset")
# How the assumptions call the parts of a cell's settings.
_NAMES = {
    "task": "tasks", "attack": "attacks", "aggregator": "aggregators", "dataset": "datasets",
}  # fmt: skip
CHANGED = "paper with other settings"


@dataclass(frozen=True)
class Experiment:
    """What the paper trained.

    Attributes:
        rules: the six aggregators.
        silent: dotted keys of config.yaml on which the text is silent -> the tasks for which it is,
            empty for all.
        points: protocol -> target -> the points: panel, x_name, x, the task, attack, number of
            attackers, aggregator and dataset, and the keys of their settings.
        settings: those keys -> settings.
    """

    rules: list[str]
    silent: Mapping[str, list[str]]
    points: Mapping[str, Mapping[str, pd.DataFrame]]
    settings: Mapping[str, object]

    def has(self, target: str) -> bool:
        """Whether the paper has this target."""
        return target in self.points["paper"]

    def of(self, protocol: str, target: str) -> pd.DataFrame | None:
        """The points of a target under a protocol; None where there is no such thing."""
        return self.points.get(protocol, {}).get(target)


def describe(plans: Mapping[str, Mapping], targets: list[str], rules: list[str]) -> dict:
    """The content of ``experiment.json``.

    Args:
        plans: protocol -> the plan of scale paper, as ``python -m arfl plan`` writes it.
        targets: those of the paper.
        rules: its aggregators.
    """
    settings: dict[str, object] = {}
    points: dict[str, dict[str, list]] = {}
    for protocol, plan in plans.items():
        points[protocol] = {}
        for target in targets:
            rows = {}
            for point in plan["targets"][target]:
                if point["cell"]["aggregator"] not in rules:
                    continue
                row = {key: point[key] for key in ("panel", "x_name", "x", "dataset")}
                for key in ("task", "attack", "n_attackers", "aggregator"):
                    row[key] = point["cell"][key]
                given = settings_of(plan, point)
                for part in PARTS:
                    key = row[f"{part}_settings"] = _key(given[part])
                    settings[key] = given[part]
                rows[json.dumps(row)] = row
            points[protocol][target] = list(rows.values())
    silent = {a["key"]: a.get("tasks", "").split() for a in plans["paper"]["assumptions"]}
    return {"rules": rules, "silent": silent, "points": points, "settings": settings}


def _key(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def load(paper_dir: str | Path) -> Experiment:
    """Read ``experiment.json``.

    Raises:
        UserError: if it is missing or has another form.
    """
    path = Path(paper_dir) / "experiment.json"
    content = read_json(path)
    try:
        points = {
            protocol: {
                target: pd.DataFrame(rows).assign(
                    column=[x_text(row["x"]) for row in rows],
                    panel=[row["panel"] or "" for row in rows],
                )
                for target, rows in targets.items()
            }
            for protocol, targets in content["points"].items()
        }
        return Experiment(content["rules"], content["silent"], points, content["settings"])
    except (KeyError, TypeError, AttributeError) as problem:
        raise UserError(f"{path} has not the expected form ({problem!r})") from None


def as_trained(cells: pd.DataFrame, paper: Experiment) -> pd.DataFrame:
    """Cells whose label says more than their settings do get the scale `CHANGED`.

    What a cell's name says was changed, as in a sweep, is no such difference; nor is anything of a
    task, attack, rule or dataset that the paper does not have.
    """
    known: dict[tuple[str, str, str], set[str]] = {}
    for protocol, targets in paper.points.items():
        for points in targets.values():
            for part in PARTS:
                for name, key in zip(points[part], points[f"{part}_settings"], strict=True):
                    known.setdefault((protocol, part, name), set()).add(key)

    def differs(cell) -> bool:
        for part in PARTS:
            keys = known.get((cell.protocol, part, getattr(cell, part)))
            said, given = (cell.changes or {}).get(part, {}), cell.settings.get(part)
            if keys and not any(
                all(name.split(".")[-1] in said for name, _, _ in differences(given, wanted))
                for wanted in (paper.settings[key] for key in keys)
            ):
                return True
        return False

    changed = [cell.scale == "paper" and differs(cell) for cell in cells.itertuples()]
    return cells.assign(scale=cells.scale.mask(pd.Series(changed, cells.index, bool), CHANGED))


def collected(manifest: str | Path, paper_dir: str | Path) -> Collected:
    """What has been collected of a target, its cells labelled `as_trained`."""
    found = Collected(manifest)
    found.cells = as_trained(found.cells, load(paper_dir))
    return found


@dataclass(frozen=True)
class Standing:
    """What verdict the cells of a claim may carry.

    Attributes:
        cells: those that count: the paper's rules, at scale paper the paper's points only.
        reading: under which reading of the text, empty for the paper's own.
        obstacles: why there is no verdict, empty if there may be one.
        toy: whether scale or data, and nothing else, forbid one.
    """

    cells: pd.DataFrame
    reading: str
    obstacles: list[str]
    toy: bool


def weigh(
    cells: pd.DataFrame,
    paper: Experiment,
    panels: set[str],
    rules: set[str],
    of_run: pd.DataFrame,
) -> Standing:
    """Judge the cells that a claim is about.

    Args:
        cells: all cells of the claim's target.
        paper: what the paper trained.
        panels: of the claim.
        rules: of the claim, among the paper's.
        of_run: all cells of the run, which may show that two commits have the same code.
    """
    cells = cells.assign(column=cells.x.map(x_text))
    cells = cells[cells.panel.isin(panels) & cells.aggregator.isin(rules)]
    if cells.empty:
        return Standing(cells, "", ["nothing is planned for it"], toy=False)
    scale, protocol = cells.scale.iloc[0], cells.protocol.iloc[0]
    reading, obstacles = ("" if protocol == "paper" else f"protocol {protocol}"), []
    kinds = sorted(set(captions.trained(cells).data_kind) - {"complete"})
    # What else is set at the paper's scale is told setting by setting.
    if other_scale := scale not in ("paper", CHANGED):
        obstacles.append(f"scale is {scale}, not paper")
    else:
        points = paper.of(protocol, cells.target.iloc[0])
        if points is None:
            obstacles.append(f"protocol {protocol} is not known for this target")
        else:
            points = points[points.panel.isin(panels) & points.aggregator.isin(rules)]
            cells, lacking = _in_sweep(cells, points)
            reading, others = _deviations(cells, points, paper, reading)
            obstacles += lacking + others
    if kinds:
        obstacles.append(f"data: {', '.join(kinds)}")
    toys = other_scale + bool(kinds)
    obstacles += _incomplete(cells) + list(
        _mixtures(captions.trained(cells), captions.trained(of_run))
    )
    return Standing(cells, reading, obstacles, toy=0 < toys == len(obstacles))


def _in_sweep(cells: pd.DataFrame, points: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The cells at the paper's points, and what of the paper's sweep is not planned."""
    keys = ["panel", "aggregator", "column"]
    merged = points[keys].merge(cells[keys].drop_duplicates(), "left", on=keys, indicator=True)
    lacking = merged[merged._merge == "left_only"]
    kept = cells.merge(points[keys].drop_duplicates(), "inner", on=keys)
    rules = [rule for rule in points.aggregator.unique() if rule not in set(cells.aggregator)]
    named = [f"the paper's {rule.replace('_', ' ')} is not planned" for rule in rules]
    x = lacking[~lacking.aggregator.isin(rules)].column.unique()
    if len(x):
        name = points.x_name.iloc[0]
        named.append(
            f"the sweep lacks {captions.x_label(name)} {', '.join(x)}" if name
            else "panels of the paper are not planned"
        )  # fmt: skip
    return kept, named


def _deviations(
    cells: pd.DataFrame, points: pd.DataFrame, paper: Experiment, reading: str
) -> tuple[str, list[str]]:
    """The reading under which the cells were trained, and what fits no reading of the text."""
    keys = ["panel", "aggregator", "column"]
    columns = [f"{part}_settings" for part in PARTS]
    wanted = points[[*keys, "n_attackers", *columns]].drop_duplicates(keys)
    merged = cells.merge(wanted, "left", on=keys, suffixes=("", "_wanted"))
    # Dotted key -> the values that cells have, each as JSON, beside the paper's.
    found: dict[str, dict[str, object]] = {}
    differing: dict[str, set[str]] = {}
    tasks: dict[str, set[str]] = {}
    for row in merged.to_dict("records"):
        for part, column in zip(PARTS, columns, strict=True):
            wanted, given = paper.settings[row[column]], row["settings"][part]
            prefix = f"{_NAMES[part]}.{row[part]}"
            for name, value, planned in differences(given, wanted):
                key = f"{prefix}.{name}" if name else prefix
                found.setdefault(key, {})[json.dumps(value, sort_keys=True)] = planned
                differing.setdefault(key, set()).add(row["cell_id"])
                tasks.setdefault(key, set()).add(row["task"])
    readings, obstacles = [reading] if reading else [], []
    others = merged[merged.n_attackers != merged.n_attackers_wanted]
    for row in others.drop_duplicates(["n_attackers", "n_attackers_wanted"]).itertuples():
        number = captions.counted(int(row.n_attackers), "attacker")
        obstacles.append(f"{number}, not {row.n_attackers_wanted:.0f} as in the paper")
    for key, values in found.items():
        text = " and ".join(values)
        planned = json.dumps(next(iter(values.values())))
        # δ, for one, is stated for some tasks and not for others.
        silent = key in paper.silent and tasks[key] <= set(paper.silent[key] or tasks[key])
        if silent and len(values) == 1 and _everywhere(key, merged, differing[key]):
            readings.append(f"{key} = {text}")
        elif len(values) > 1 or silent:
            obstacles.append(f"{key} is {text} in some cells only, not {planned} in all")
        else:
            obstacles.append(f"{key} is {text}, not {planned} as in the paper")
    return ", ".join(readings), obstacles


def _everywhere(key: str, cells: pd.DataFrame, differing: set[str]) -> bool:
    """Whether all cells of the setting's task, attack or rule differ in it."""
    kind, name = key.split(".")[:2]
    part = next(part for part, plural in _NAMES.items() if plural == kind)
    return set(cells[cells[part] == name].cell_id) <= differing


def _incomplete(cells: pd.DataFrame) -> list[str]:
    """Cells without a result, and points with too few seeds or with others than the rest has."""
    obstacles = []
    done = cells.seed.where(cells.state == DONE)
    of_points = done.groupby([cells.panel, cells.aggregator, cells.column])
    seeds = int(of_points.nunique().min())
    if seeds < MINIMUM_SEEDS:
        most = int(of_points.nunique().max())
        told = (
            captions.counted(most, "seed") if most == seeds else f"{seeds} to {most} seeds a point"
        )
        obstacles.append(f"{told}, {MINIMUM_SEEDS} are needed")
    # Missing cells are named below; here, what is not even planned.
    if cells.groupby(["panel", "aggregator", "column"]).seed.agg(frozenset).nunique() > 1:
        obstacles.append("not all points are planned with the same seeds")
    for state, words in (("missing", "missing"), ("broken", "broken"), ("diverged", "diverged")):
        if left := (cells.state == state).sum():
            obstacles.append(f"{left} of {len(cells)} cells {words}")
    return obstacles


def _unlinked_commits(cells: pd.DataFrame, of_run: pd.DataFrame) -> int:
    """How many groups of commits there are whose shared code may differ.

    Commits from which like cells (network, attack, rule, device) of the run have one fingerprint
    have the same training code.
    """
    like = ["model", "device"]
    models = [
        frame.assign(model=frame.settings.map(lambda settings: settings["task"].get("model")))
        for frame in (cells, of_run)
    ]
    known = {place: alike for place, alike in models[1].groupby(like)}
    most = 1
    for place, alike in models[0].groupby(like):
        shared = pd.concat([alike, known[place]]) if place in known else alike
        groups: list[set[str]] = []
        for commits in shared.groupby(["attack", "aggregator", "fingerprint"]).commit.agg(set):
            linked = [group for group in groups if group & commits]
            groups = [group for group in groups if group not in linked]
            groups.append(commits.union(*linked))
        most = max(most, sum(bool(group & set(alike.commit)) for group in groups))
    return most


def _mixtures(cells: pd.DataFrame, of_run: pd.DataFrame) -> Iterator[str]:
    """What differs between cells that are compared with each other, and should not."""
    if cells.empty:
        return
    versions = captions.n_versions(cells)
    if versions > 1:
        yield f"{versions} versions of the numeric code are mixed"
    if (commits := _unlinked_commits(cells, of_run)) > 1:
        yield f"{commits} commits are mixed, and no like cells show that their code is the same"
    unclean = cells.dirty.map(lambda dirty: dirty is not False) | (cells.commit == "")
    if unclean.any():
        yield f"{unclean.sum()} cells trained from no commit or with local changes"
    backends = cells.backends.map(lambda b: json.dumps(b, sort_keys=True))
    for what, found in (
        ("devices", (cells.device + " " + cells.device_name).nunique()),
        ("sets of libraries", captions.libraries(cells).nunique()),
        # The network and the number of participants decide what trains and what aggregates.
        ("backends", backends.groupby(cells.task).nunique().max()),
    ):
        if found > 1:
            yield f"{found} {what} are mixed"
    # The rules of a seed are compared with each other: they must have met the same.
    task, attack = (
        cells.settings.map(lambda settings, part=part: json.dumps(settings[part], sort_keys=True))
        for part in ("task", "attack")
    )
    attackers = cells.attackers.map(json.dumps)
    for what, found in (
        ("partitions", cells.partition.groupby([task, cells.seed])),
        ("sets of attackers", attackers.groupby([task, attack, cells.n_attackers, cells.seed])),
    ):
        if (most := found.nunique().max()) > 1:
            yield f"{most} {what} of one seed are mixed"
    # Two trainings never take the same time to the last digit.
    same = ["panel", "aggregator", "column", "accuracy", "accuracy_late", "seconds_total"]
    done = cells[cells.state == DONE]
    for _, copies in done[done.duplicated(same, keep=False)].groupby(same):
        if copies.seed.nunique() > 1:
            listed = captions.listed([str(seed) for seed in sorted(set(copies.seed))])
            yield f"seeds {listed} of {copies.cell_id.iloc[0]} are copies of each other"
    for dataset, of_one in cells.groupby("dataset", sort=False):
        if of_one.data_checksum.nunique() > 1:
            yield f"{of_one.data_checksum.nunique()} versions of the data {dataset} are mixed"
    wrong = cells[cells.data_name != [s["task"].get("data") for s in cells.settings]]
    for name in wrong.data_name.unique():
        yield f"trained on {name}, not on the data of the settings"
