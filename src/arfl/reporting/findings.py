"""What the kept records say, on two screens: claims, readings, what is new, and what is open.

Written from the records alone, so that no number is typed: each has its number of seeds and their
spread. The same step draws Figure 3 under both protocols for the front page, and puts a small table
into it.
"""

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from arfl import batches
from arfl.errors import UserError
from arfl.files import link, read_json, write_text
from arfl.reporting import (
    captions,
    claims,
    collect,
    evidence,
    figures,
    margins,
    paper,
    readings,
    style,
    tables,
    targets,
)
from arfl.reporting.claims import UNDECIDED
from arfl.reporting.frames import DONE, MANIFEST, RATES, Collected
from arfl.reporting.margins import FAILS, HOLDS
from arfl.reporting.tables import NOTHING, percent

BEGIN, END = "<!-- findings: begin -->", "<!-- findings: end -->"
SCALE = "paper"
_SHOWN = ("0", "1", "10")
_MARKS = {HOLDS: "✓", FAILS: "✗"}


def write(
    runs: Iterable[str | Path],
    paper_dir: str | Path,
    out_md: str | Path,
    picture: str | Path,
    page: str | Path | None = None,
) -> None:
    """Write the findings, their figure, and the generated block of another page.

    Args:
        runs: folders of ``plan.json`` with packed records (`arfl.batches`); those of other scales
            and without records are left out.
        paper_dir: the paper's numbers and claims.
        out_md: the Markdown file to write.
        picture: the SVG file to write.
        page: a Markdown file with a block between `BEGIN` and `END`, which is replaced.

    Raises:
        UserError: if no run of the paper's scale holds records, or the page has no such block.
    """
    if page is not None:
        _replaced(Path(page), "")
    with tempfile.TemporaryDirectory() as folder:
        # In one order, however they are given.
        known = [_collect(run, paper_dir, Path(folder)) for run in sorted(map(Path, runs))]
        known = [run for run in known if run]
        if not known:
            raise UserError(f"no run at scale {SCALE} with packed records ({batches.SUFFIX})")
        numbers = paper.load(paper_dir, readings.PRINTED)
        cells = pd.concat([run[readings.PRINTED].cells for run in known], ignore_index=True)
        seeds = readings.values(
            pd.concat([run[readings.TARGET].cells for run in known], ignore_index=True), numbers
        )
        drawn = figures.protocols(cells, numbers)
        style.save_svg(drawn, picture)
        experiment = evidence.load(paper_dir)
        ledgers = []
        for run in known:
            of_targets = _without_all(run)
            found = claims.ledger(of_targets, paper_dir)
            ledgers.append((_protocol(run), claims.export(found, of_targets, experiment)))
        every = [run[targets.ALL] for run in known]
        text = [
            "# Findings",
            "",
            "<!-- Written from records by `python -m arfl findings` (`make figures`). -->",
            "",
            *_opening(every),
            "",
            f"![{drawn.alt}]({link(picture, out_md)})",
            "",
            f"{drawn.caption} {drawn.source}",
            "",
            "## The paper's claims",
            "",
            *_claims(ledgers),
            "",
            "## Which reading gives Figure 3",
            "",
            *(f"- {sentence}" for sentence in readings.verdict(seeds)),
            "",
            *_folded("Every reading that has records", _readings(seeds)),
            "",
            *_folded("What each change of the reading does", _effects(seeds)),
            "",
            "## New",
            "",
            *_median_again(every),
            *_foolsgold(every),
            *_floor(every),
            "",
            *_folded("Cells with a record, target by target", _open(known)),
        ]
        write_text(out_md, "\n".join(text) + "\n")
        if page is not None:
            # Figure 3 may have more seeds than the readings.
            rows = readings.entries(readings.values(cells, numbers))
            links = link(picture, page), link(out_md, page)
            told = [*_counts(ledgers), f"- {readings.verdict(seeds)[0]}", *_median_again(every)]
            block = _block(rows, told, drawn, *links)
            write_text(page, _replaced(Path(page), block))


def _collect(run: Path, paper_dir: str | Path, folder: Path) -> dict[str, Collected]:
    """Target -> what is collected, for the targets that have a record; empty for none."""
    plan_path = run / "plan.json"
    plan = read_json(plan_path)
    if plan["scale"] != SCALE or not batches.paths(run):
        return {}
    packed = batches.read(run)
    made: dict = {}
    for target, rows in plan["targets"].items():
        always = target in (readings.PRINTED, readings.TARGET)
        if always or any(row["cell"]["id"] in packed for row in rows):
            made[target] = None
    for target in (*made, targets.ALL):
        manifest = folder / run.name / target / MANIFEST
        collect.collect(plan_path, target, manifest, packed)
        made[target] = evidence.collected(manifest, paper_dir)
        # Read before the folder is gone.
        _ = made[target].cells, made[target].rounds, made[target].weights
    return made


def _folded(summary: str, lines: Iterable[str]) -> list[str]:
    """Lines that a reader opens, on GitHub and on the site."""
    return [
        '<details markdown="1">',
        f"<summary>{summary}</summary>",
        "",
        *lines,
        "",
        "</details>",
    ]


def _without_all(run: Mapping[str, Collected]) -> dict[str, Collected]:
    return {target: one for target, one in run.items() if target != targets.ALL}


def _protocol(run: Mapping[str, Collected]) -> str:
    return run[targets.ALL].cells.protocol.iloc[0]


def _opening(every: Iterable[Collected]) -> list[str]:
    parts = []
    for one in every:
        n_recorded = len(captions.trained(one.cells))
        parts.append(
            f"{n_recorded} of {len(one.cells)} cells under protocol {one.cells.protocol.iloc[0]}"
        )
    return [
        f"At the paper's scale {captions.listed(parts)} have a record. Rates are in percent after "
        "the last round, mean ± standard deviation over n seeds; how each is judged is in "
        "[reporting.md](reporting.md)."
    ]


def _counts(ledgers: Sequence[tuple[str, Mapping]]) -> list[str]:
    """A sentence per run: how many claims hold, fail and stay open."""
    lines = []
    for name, ledger in ledgers:
        of_run = claims.of_training(ledger["claims"])
        counts = {
            word: sum(f["at_hand"] == state for f in of_run)
            for word, state in (("hold", HOLDS), ("fail", FAILS))
        }
        verdicts = sum(f["verdict"] != UNDECIDED for f in of_run)
        counts["stay open"] = len(of_run) - sum(counts.values())
        measured = sum(f["at_hand"] not in _MARKS and f["measured"] != "" for f in of_run)
        told = captions.listed([f"{n} {word}" for word, n in counts.items()])
        lines.append(
            f"- Protocol {name}: of {len(of_run)} claims {told}, {measured} of them measured; "
            f"{captions.counted(verdicts, 'verdict')} (complete real data, at least "
            f"{evidence.MINIMUM_SEEDS} seeds, every cell)."
        )
    return lines


def _claims(ledgers: Sequence[tuple[str, Mapping]]) -> list[str]:
    """How many there are of each kind, those with a verdict, and folded all that are measured."""
    names = [name for name, _ in ledgers]
    found = {
        name: {f["id"]: f for f in claims.of_training(ledger["claims"])} for name, ledger in ledgers
    }
    lines = _counts(ledgers)
    of_claim = {i: [found[name][i] for name in names] for i in next(iter(found.values()))}
    measured = [sides for sides in of_claim.values() if any(f["measured"] for f in sides)]
    decided = [sides for sides in measured if any(f["verdict"] != UNDECIDED for f in sides)]
    legend = (
        "✓ holds, ✗ fails, ? open; **bold** where it is a verdict, under that protocol; "
        f"{NOTHING}: no records. ± is half the interval that decides, at a level which keeps the "
        f"chance of any wrong verdict in one protocol's ledger, looked at once, below "
        f"{100 * margins.FAMILY_LEVEL:g} %; then the seeds, and how many trainings diverged."
    )
    if decided:
        lines += ["", *_claims_table(names, decided), "", legend]
    if measured:
        told = f"All {captions.counted(len(measured), 'claim')} that records measure"
        lines += ["", *_folded(told, [*_claims_table(names, measured), "", legend])]
    return lines


def _claims_table(names: Sequence[str], rows: Iterable[Sequence[Mapping]]) -> list[str]:
    """A row per claim: what is claimed and printed, and each run's measured side."""
    sides = " | ".join(f"protocol {name}" for name in names)
    lines = [f"| claim | claimed | printed | {sides} |", "|---|---|---|" + "---|" * len(names)]
    for of_runs in rows:
        one = next(f for f in of_runs if f["measured"])
        told = f"{one['where']}: “{one['quote']}”: {one['reading']}"
        cells = [told, one["claimed"], _printed(one), *map(_side, of_runs)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


_DIVERGED = re.compile(r"(?P<n>\d+) of \d+ cells diverged")
_HALF = re.compile(r"± (?P<half>[\d.]+) \(.*?(?P<n>\d+ seeds)\)$")


def _printed(finding: Mapping) -> str:
    """What the paper's own numbers say of its claim."""
    if not finding["papers_measured"]:
        return NOTHING
    return f"{_MARKS.get(finding['papers_own'], '?')} {finding['papers_measured']}"


def _side(finding: Mapping) -> str:
    """What one run's records say of a claim."""
    if not finding["measured"]:
        return NOTHING
    mark = _MARKS.get(finding["at_hand"], "?")
    mark = f"**{mark}**" if finding["verdict"] != UNDECIDED else mark
    half = _HALF.search(finding["numbers"])
    seeds = half["n"] if half else "1 seed"
    diverged = _DIVERGED.search(finding["reason"])
    seeds += f", {diverged['n']} diverged" if diverged else ""
    told = f" ± {half['half']} ({seeds})" if half else f" ({seeds})"
    return f"{mark} {finding['measured']}{told}"


def _number(mean: float, std: float, n: int) -> str:
    text = percent(mean, 1)
    return f"{text} (1 seed)" if n == 1 else f"{text} ± {percent(std, 1)} (n = {n})"


def _change(mean: float, std: float, n: int) -> str:
    text = percent(mean, 1, signed=True)
    return f"{text} (1 seed)" if n == 1 else f"{text} ± {percent(std, 1)} (n = {n})"


def _readings(seeds: pd.DataFrame) -> list[str]:
    """Each reading's distance from the printed numbers, and what it explains."""
    block = readings.summary_block(readings.distances(seeds), readings.features(seeds))
    return tables.markdown_block(block)


def _effects(seeds: pd.DataFrame) -> list[str]:
    """A row per reading: where it changes the accuracy most, and where the others lie."""
    found = readings.effects(seeds)
    if found.empty:
        return ["Open: no two readings have a cell of the same rule, attackers and seed yet."]
    lines = [
        "| from | to | largest change of accuracy, in points | mean over all that it touches |"
    ]
    lines.append("|---|---|---|---|")
    for (before, after), here in found.groupby(["before", "after"], sort=False):
        most = here.loc[here["mean"].abs().idxmax()]
        where = f"{most.label}, {captions.counted(int(most.column), 'attacker')}"
        size = _change(most["mean"], most["std"], int(most.n_seeds))
        over = f"{percent(here['mean'].mean(), 1, signed=True)} ({len(here)} numbers)"
        lines.append(f"| {before} | {after} | {where}: {size} | {over} |")
    return lines


def median_again(collected: Collected) -> pd.DataFrame:
    """Whether Repeated Median's rates are Median's, round by round, in like cells.

    Args:
        collected: all cells of a run.

    Returns:
        A row per variant of the rule: ``variant``, ``n_pairs`` of like cells (task, attack,
        attackers, seed), ``n_same`` whose every rate of every round is equal, ``n_seeds``, and
        the largest difference ``most`` of the accuracy in any round.
    """
    cells = collected.cells[collected.cells.state == DONE]
    options = cells.settings.map(lambda settings: settings["aggregator"]["options"])
    # A cell's id without its rule: task, attack and attackers.
    place = cells.cell_id.str.rsplit("/", n=2).str[0]
    cells = cells.assign(place=place, variant=options.map(lambda o: o.get("variant", "")))
    wanted = ["place", "seed", "cell_id"]
    pairs = cells[cells.aggregator == "repeated_median"][[*wanted, "variant"]].merge(
        cells[cells.aggregator == "median"][wanted], on=["place", "seed"], suffixes=("", "_median")
    )
    rounds = {name: of_cell for name, of_cell in collected.rounds.groupby("cell_id")}
    rows = []
    for pair in pairs.itertuples():
        one, other = (
            rounds[name].sort_values("round")[list(RATES)].to_numpy(float)
            for name in (pair.cell_id, pair.cell_id_median)
        )
        same = np.array_equal(one, other, equal_nan=True)
        far = np.nan if one.shape != other.shape else np.abs(one[:, 0] - other[:, 0]).max()
        rows.append({"variant": pair.variant, "seed": pair.seed, "same": same, "most": far})
    made = pd.DataFrame(rows, columns=["variant", "seed", "same", "most"])
    return made.groupby("variant").agg(
        n_pairs=("same", "size"), n_same=("same", "sum"), n_seeds=("seed", "nunique"),
        most=("most", "max"),
    ).reset_index()  # fmt: skip


def _median_again(every: Iterable[Collected]) -> list[str]:
    # Whether the rates are equal, and the intercept -> in how many cells.
    told: dict[tuple[bool, str], list[str]] = {}
    for one in every:
        data = _data(one.cells[one.cells.aggregator == "repeated_median"])
        for row in median_again(one).itertuples():
            seeds = captions.counted(int(row.n_seeds), "seed")
            variant = "the released" if row.variant == "released" else "Equation 2's"
            same = row.n_same == row.n_pairs
            apart = "" if same else f", rounds up to {percent(row.most, 1)} points apart"
            told.setdefault((same, variant), []).append(
                f"in {row.n_same} of {row.n_pairs} like cells (protocol "
                f"{one.cells.protocol.iloc[0]}, {data}, {seeds}{apart})"
            )
    parts = [
        f"with {variant} intercept it is the Median, to the last digit of every rate in every "
        f"round: {captions.listed(where)}"
        if same
        else f"with {variant} intercept it is not: they are equal {captions.listed(where)}"
        for (same, variant), where in sorted(told.items(), reverse=True)
    ]
    text = "; ".join(parts) if parts else "open, no like cells of both have a record"
    return [f"- **Repeated Median**: {text}."]


def _data(cells: pd.DataFrame) -> str:
    """The data of trained cells for people, with their kind if they are not complete."""
    kinds = captions.trained(cells).drop_duplicates(["dataset", "data_kind"])
    return captions.listed(
        [
            captions.panel_title(c.dataset)
            + ("" if c.data_kind == "complete" else f" {c.data_kind}")
            for c in kinds.itertuples()
        ]
    )


def _foolsgold(every: Iterable[Collected]) -> list[str]:
    parts = []
    for one in every:
        cells = one.cells[(one.cells.aggregator == "foolsgold") & (one.cells.state == DONE)]
        cells = cells[cells.data_name == "cifar10"]
        buffers = cells.settings.map(lambda s: s["aggregator"]["options"].get("buffers", ""))
        for (value, attack, n), here in cells.groupby([buffers, "attack", "n_attackers"]):
            size = _number(here.accuracy.mean(), here.accuracy.std(), len(here))
            attackers = captions.counted(int(n), "attacker")
            parts.append(
                f"statistics {value}: {size} ({attack.replace('_', ' ')}, {attackers}, protocol "
                f"{one.cells.protocol.iloc[0]})"
            )
    told = "; ".join(parts) if parts else "open, no CIFAR-10 cell of FoolsGold has a record"
    return [f"- **FoolsGold's 10 % on CIFAR-10 and batch-norm statistics**: {told}."]


def floors(cells: pd.DataFrame) -> pd.DataFrame:
    """The least attack success of each attack, with and without the target class's own samples.

    Args:
        cells: of a run.

    Returns:
        A row per task and attack: the rule with the least success where the target class is left
        out, and both rates' ``mean``, ``std`` and the number of seeds. Attacks whose two rates are
        the same in every cell, and cells with changed options, are left out.
    """
    plain = ~cells.changes.map(lambda changes: any(changes.values()))
    both = cells[(cells.state == DONE) & cells.attack_success_rate.notna() & plain]
    counted, left_out = "attack_success_rate", "attack_success_rate_excl_target"
    differ = (both[counted] != both[left_out]).groupby([both.task, both.attack]).transform("any")
    both = both[differ]
    keys = ["task", "attack", "label"]
    groups = both.groupby([*keys, "n_attackers"], sort=False)
    made = groups.agg(
        counted=(counted, "mean"), counted_std=(counted, "std"), left_out=(left_out, "mean"),
        left_out_std=(left_out, "std"), accuracy=("accuracy", "mean"), n_seeds=("seed", "nunique"),
    ).reset_index()  # fmt: skip
    least = made.groupby(["task", "attack"], sort=False).left_out.idxmin()
    return made.loc[least].reset_index(drop=True)


def _floor(every: Iterable[Collected]) -> list[str]:
    """The success that no defence can go below, with the most telling case and all of them."""
    head = "- **The floor of the success rate**: the paper counts the target class's own samples"
    found = [(one.cells, row) for one in every for row in floors(one.cells).itertuples()]
    if not found:
        return [f"{head}; open, no backdoor cell has a record."]
    where, rule, counted, left_out, accuracy = _floor_row(*max(found, key=lambda f: f[1].accuracy))
    return [
        f"{head}. Of the rules that an attack harms least, the most accurate is "
        f"{rule} ({where}; accuracy {accuracy}): {counted} as the paper counts, "
        f"{left_out} without them.",
        "",
        *_folded(
            "The lowest success of each attack",
            [
                "| attack | rule | as the paper counts | without the target class | accuracy |",
                "|---|---|---|---|--:|",
                *(f"| {' | '.join(_floor_row(*one))} |" for one in found),
            ],
        ),
    ]


def _floor_row(cells: pd.DataFrame, row) -> tuple[str, ...]:
    """A row of `floors` of these cells in words."""
    data, protocol = _data(cells[cells.task == row.task]), cells.protocol.iloc[0]
    return (
        f"{data}, {captions.panel_title(row.attack)}, protocol {protocol}",
        row.label,
        _number(row.counted, row.counted_std, int(row.n_seeds)),
        _number(row.left_out, row.left_out_std, int(row.n_seeds)),
        percent(row.accuracy, 1),
    )


def _open(known: Iterable[Mapping[str, Collected]]) -> list[str]:
    """How many of a target's cells have a record, run by run."""
    known = list(known)
    names = [f"protocol {_protocol(run)}" for run in known]
    lines = [
        "Cells with a record, of those that are planned; targets without any are left out.",
        "",
    ]
    lines += [f"| | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for target in targets.KNOWN:
        shares = []
        for run in known:
            cells = run[target].cells.drop_duplicates("cell_id") if target in run else None
            found = (0, 0) if cells is None else (len(captions.trained(cells)), len(cells))
            shares.append(found)
        if any(recorded for recorded, _ in shares):
            told = [f"{n} of {planned}" if planned else NOTHING for n, planned in shares]
            lines.append(f"| {target} | {' | '.join(told)} |")
    return lines


def _block(
    rows: pd.DataFrame, told: Iterable[str], drawn: style.Drawing, picture: str, findings: str
) -> str:
    """The front page's figure, table of Figure 3's `readings.entries`, and main sentences."""
    rows = rows[rows.measure == "last"]
    shown = [c for c in _SHOWN if c in set(rows.column)]
    runs = list(dict.fromkeys(rows.protocol))
    heads = [f"{c}: {who}" for c in shown for who in ("printed", *runs)]
    lines = [
        BEGIN,
        f"[![{drawn.alt}]({picture})]({findings})",
        "",
        "Figure 3's accuracy in percent by number of attackers (of 100): the paper's, read off by "
        "eye, and ours under the text's protocol (`paper`) and that of the authors' code "
        "(`released`); mean ± standard deviation and number of seeds, after the last round.",
        "",
        f"| | {' | '.join(heads)} |",
        "|---|" + "--:|" * len(heads),
    ]
    for label, of_rule in rows.groupby("label", sort=False):
        entries = []
        for column in shown:
            here = of_rule[of_rule.column == column]
            entries.append(percent(here.paper.iloc[0], 1))
            for run in runs:
                one = here[here.protocol == run].iloc[0]
                entries.append(_cell(one.measured, one["std"], int(one.n_done)))
        lines.append(f"| {label} | {' | '.join(entries)} |")
    lines += ["", *told, "", f"All of it: [{findings}]({findings}).", END]
    return "\n".join(lines)


def _cell(mean: float, std: float, n: int) -> str:
    if not n:
        return NOTHING
    spread = f" ± {percent(std, 1)}" if n > 1 else ""
    return f"{percent(mean, 1)}{spread} ({n})"


def _replaced(page: Path, block: str) -> str:
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{page} has no block from {BEGIN} to {END}; add the two lines")
    return before + block + after
