"""The page on what is beyond the paper, from kept records: ranks, what they rest on, the attack.

No number is typed: each comes from the packed records of ``records/<run>/beyond``, or from the
study of drawn models that is kept beside them.
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from arfl import batches
from arfl.errors import UserError
from arfl.files import link, read_json, write_text
from arfl.reporting import captions, collect, leaderboard, style, tables, targets
from arfl.reporting.frames import DONE, MANIFEST, Collected, read_csv, x_text
from arfl.reporting.margins import amount

LEADERBOARD, ADAPTIVE, DECLARED = "leaderboard", "adaptive", "declared"
ATTACKED = "residual_reweighting"
STUDY = "displacement.csv"
_SCALES = ("paper", "reduced", "quick")
"""The most telling first."""
_STUDIED = (
    "n_clients", "n_attackers", "delta", "weight", "moved_most", "moved", "one_parameter", "bound",
)  # fmt: skip


def write(
    runs: Iterable[str | Path],
    paper_dir: str | Path,
    out_md: str | Path,
    pictures: str | Path,
) -> None:
    """Write the page and its heat maps.

    Args:
        runs: folders of the ``plan.json`` of targets beyond the paper with packed records
            (`arfl.batches`); in one of them the study's `STUDY`.
        paper_dir: the paper's numbers, of which these targets have none.
        out_md: the Markdown file to write.
        pictures: folder of the heat maps, ``leaderboard-<run>.svg``.

    Raises:
        UserError: if no run holds records.
    """
    folders = sorted(map(Path, runs))
    kept = [folder for folder in folders if batches.paths(folder)]
    kept.sort(key=lambda folder: _SCALES.index(read_json(folder / "plan.json")["scale"]))
    if not kept:
        raise UserError(f"no folder with packed records ({batches.SUFFIX}) of these targets")
    ranked, attacked, told = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number, folder in enumerate(kept):
            collected = _collect(folder, Path(scratch, str(number)))
            if LEADERBOARD in collected:
                ranked += _ranked(collected[LEADERBOARD], Path(pictures), Path(out_md))
            if ADAPTIVE in collected:
                attacked += _attacked(collected[ADAPTIVE], paper_dir)
            if DECLARED in collected:
                told += _told(collected[DECLARED], paper_dir)
    studies = [folder / STUDY for folder in folders if (folder / STUDY).exists()]
    text = [
        "# Beyond the paper",
        "",
        "<!-- Written from records by `python -m arfl beyond` (`make figures`). -->",
        "",
        "Rules and attacks that the paper does not have, on its MNIST experiments; at scale quick "
        "on stand-ins. Nothing here is compared with a printed number. How a rule or an attack is "
        "added is in [extending.md](extending.md).",
        "",
        "## Rules by their worst case",
        "",
        *(ranked or ["No record yet.", ""]),
        "## Rules told a wrong number of attackers",
        "",
        "Multi-Krum and nearest-neighbour mixing ask for the number of attackers `f`, which nobody "
        "knows in practice; above they are told the true one.",
        "",
        *(told or ["No record yet.", ""]),
        "## Attackers who know residual reweighting",
        "",
        "They know the rule, its λ and δ and the honest models of the round, stay inside the bound "
        "on a share of the parameters and are beyond reproach in all others "
        "(`src/arfl/attacks/adaptive.py`). Other rules get the same models.",
        "",
        *(attacked or ["No record yet.", ""]),
        "## Against the bound",
        "",
        *(_against_the_bound(studies[0]) if studies else ["Not computed yet."]),
    ]
    write_text(out_md, "\n".join(text) + "\n")


def _collect(folder: Path, scratch: Path) -> dict[str, Collected]:
    """Target -> what is collected, for those with a record."""
    plan_path, packed = folder / "plan.json", batches.read(folder)
    made = {}
    for target in (LEADERBOARD, ADAPTIVE, DECLARED):
        rows = read_json(plan_path)["targets"].get(target, ())
        if any(row["cell"]["id"] in packed for row in rows):
            manifest = scratch / target / MANIFEST
            collect.collect(plan_path, target, manifest, packed)
            made[target] = Collected(manifest)
    return made


def _ranked(collected: Collected, pictures: Path, out_md: Path) -> list[str]:
    """Heat map and table; the number of records where no rule has met every attack yet."""
    cells = collected.cells
    scored = leaderboard.scores(cells)
    table, source = leaderboard.ranks(scored), leaderboard.source(cells)
    if table["rank"].isna().all():
        return [f"No rule has met every attack yet. {source}", ""]
    picture = pictures / f"leaderboard-{cells.scale.iloc[0]}.svg"
    figure = leaderboard.heat_map(scored, table, "")
    style.save_svg(style.Drawing(figure, "", "", source, ""), picture)
    best = table.iloc[0]
    alt = (
        f"Scores of rules (rows) against attacks (columns). Best worst case: {best.label}, "
        f"{leaderboard.percent(best.worst)} % by {captions.panel_title(best.worst_attack)}."
    )
    lines = leaderboard.markdown(table, source).splitlines()
    # Without its title.
    return [f"![{alt}]({link(picture, out_md)})", "", *lines[2:], ""]


def _told(collected: Collected, paper_dir: str | Path) -> list[str]:
    """Accuracy and attack success by the number that the rules are told, and what it changes."""
    cells = collected.cells
    table = tables.laid_out(cells, targets.KNOWN[DECLARED], paper_dir)[1]
    n_attackers = cells.n_attackers.iloc[0]
    lines = [f"{captions.data_sentence(cells)} True number: {n_attackers}. {table.caption}", ""]
    for block in table.blocks:
        lines += [f"### {block.heading}", "", *tables.markdown_block(block), ""]
    done = cells[cells.state == DONE]
    means = done.groupby(["panel", "label", "x"], sort=False).accuracy.mean().reset_index()
    for (panel, label), of in means.groupby(["panel", "label"], sort=False):
        true, others = of[of.x == n_attackers], of[of.x != n_attackers]
        if len(true) and len(others):
            change = others.accuracy - true.accuracy.iloc[0]
            worst, best = others.loc[change.idxmin()], others.loc[change.idxmax()]
            lines.append(
                f"- {captions.panel_title(panel)}, {label}: beside the true number, told "
                f"{worst.x:.0f} changes its accuracy by {amount(change.min(), 'points')}, told "
                f"{best.x:.0f} by {amount(change.max(), 'points')}."
            )
    return [*lines, ""]


def _attacked(collected: Collected, paper_dir: str | Path) -> list[str]:
    """Accuracy by the number of attackers, a block for each panel."""
    cells = collected.cells
    _, table = tables.laid_out(cells, targets.KNOWN[ADAPTIVE], paper_dir)
    lines = [f"{captions.data_sentence(cells)} {table.caption}", ""]
    weights = attackers_weight(collected)
    panels = [panel for panel, _ in cells.groupby("panel", sort=False)]
    # A block of accuracies for each panel: there is no success to measure.
    for panel, block in zip(panels, table.blocks, strict=True):
        here = weights.get(panel, {})
        entries = [tables.percent(here.get(column), 1) for column in block.columns]
        own = [row for row in block.rows if row.subject == _label(cells)]
        others = [row for row in block.rows if row.subject != _label(cells)]
        told = replace(own[-1], kind="weight of all attackers", entries=entries)
        lines += [f"### {block.heading}", ""]
        lines += [*tables.markdown_block(replace(block, rows=[*own, told, *others])), ""]
    return lines


def _label(cells: pd.DataFrame) -> str:
    return cells.label[cells.aggregator == ATTACKED].iloc[0]


def attackers_weight(collected: Collected) -> Mapping[str, Mapping[str, float]]:
    """Panel -> number of attackers -> the weight that the attacked rule gives them together.

    The mean over rounds, then over the seeds that have a record with weights.
    """
    cells = collected.cells[collected.cells.aggregator == ATTACKED]
    given = collected.weights.merge(cells[["cell_id", "panel", "x"]], on="cell_id")
    given = given.assign(column=given.x.map(x_text), weight=given.weight * given.attacker)
    by_round = given.groupby(["panel", "column", "cell_id", "round"]).weight.sum()
    means = by_round.groupby(["panel", "column", "cell_id"]).mean()
    found = means.groupby(["panel", "column"]).mean()
    return {panel: of.droplevel("panel").to_dict() for panel, of in found.groupby("panel")}


def _against_the_bound(path: Path) -> list[str]:
    rows = read_csv(path, _STUDIED)
    lines = [
        "One round on drawn models: the honest parameters are normal, and lengths are in their "
        "standard deviation. *Moved most* is how far the parameter that attackers move most lies "
        "from where it is without them, *moved* the root mean square over all parameters. *One "
        "parameter* is the error of Equation 12-14's model under its strongest attacker, the model "
        "for which the bound is proved; *bound* is the term 1/(δ√K) of Equation 14, which holds up "
        "to a constant. The whole rule weighs a client by the sum of its confidences, so that "
        "attackers earn weight on many parameters and spend it on few.",
        "",
        "| clients | attackers | δ | weight (%) | moved most | moved | one parameter | bound |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows.itertuples():
        lengths = (row.moved_most, row.moved, row.one_parameter, row.bound)
        told = " | ".join(f"{length:.2g}" if length < 10 else f"{length:.0f}" for length in lengths)
        lines.append(
            f"| {row.n_clients} | {row.n_attackers} ({100 * row.n_attackers / row.n_clients:.0f} %)"
            f" | {row.delta:g} | {tables.percent(row.weight, 1)} | {told} |"
        )
    over = rows[rows.moved_most > rows.bound]
    most = rows.loc[(rows.moved_most / rows.bound).idxmax()]
    lines += [
        "",
        f"In {len(over)} of {len(rows)} rows the whole rule is moved further than that term, most "
        f"with {most.n_attackers:.0f} of {most.n_clients:.0f} attackers and δ = {most.delta:g}: "
        f"{most.moved_most / most.bound:.1f} times.",
    ]
    return lines
