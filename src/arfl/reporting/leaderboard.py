"""Ranks of rules against attacks, the worst case first: table and heat map from collected cells.

A cell's score is its accuracy or, where that is lower, the share of cases in which the attack
failed: a rule must keep the model good and the backdoor out. A rule's worst case is its lowest
score over the attacks; rules are ranked by it.
"""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from arfl.errors import UserError
from arfl.files import atomic_path, write_text
from arfl.reporting import captions

NO_ATTACK = "none"
_NEEDED = (
    "panel", "aggregator", "label", "seed", "state", "accuracy", "attack_success_rate",
    "seconds_aggregation", "n_rounds", "data_note", "scale",
)  # fmt: skip


def scores(cells: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``cells.csv`` with ``attack``, the panel, and ``score``, a fraction.

    The score is NaN for a cell that is missing or broken, and minus infinity for one that has
    diverged, so that it is the worst of all and no number is made up for it.
    """
    made = cells.assign(attack=cells.panel)
    failed = 1 - made.attack_success_rate.fillna(0)
    made["score"] = made.accuracy.clip(upper=failed.where(made.attack != NO_ATTACK, 1))
    made.loc[made.state == "diverged", "score"] = float("-inf")
    return made


def ranks(scored: pd.DataFrame) -> pd.DataFrame:
    """A row for each rule, best first.

    Args:
        scored: from `scores`.

    Returns:
        By ``aggregator``: ``label``; ``rank`` by the mean over the seeds of the worst case, which
        is ``worst`` with ``worst_low`` and ``worst_high``, the lowest and highest seed;
        ``rank_low`` and ``rank_high``, the best and worst rank of any seed; ``worst_attack``, the
        attack with the lowest mean score; ``mean``, over all attacks and seeds;
        ``seconds_per_round`` of aggregation; ``n_seeds`` with all attacks. A rule with no such seed
        has no rank and comes last; one that diverged has the worst case minus infinity.
    """
    by_seed = scored.set_index(["aggregator", "seed", "attack"]).score.unstack(["seed", "attack"])
    # A seed counts for a rule if every attack has been run.
    worst = by_seed.T.groupby(level="seed").min().T
    whole = by_seed.notna().T.groupby(level="seed").all().T
    worst = worst.where(whole)
    seed_ranks = worst.rank(ascending=False, method="min")
    table = pd.DataFrame(
        {
            "label": scored.groupby("aggregator").label.first(),
            "worst": worst.mean(axis=1),
            "worst_low": worst.min(axis=1),
            "worst_high": worst.max(axis=1),
            "rank_low": seed_ranks.min(axis=1),
            "rank_high": seed_ranks.max(axis=1),
            "worst_attack": _by_attack(scored).dropna(how="all").idxmin(axis=1),
            "mean": by_seed.mean(axis=1),
            "seconds_per_round": (scored.seconds_aggregation / scored.n_rounds)
            .groupby(scored.aggregator)
            .mean(),
            "n_seeds": whole.sum(axis=1),
        }
    )
    table.insert(1, "rank", table.worst.rank(ascending=False, method="min"))
    return table.sort_values(["rank", "mean"], ascending=[True, False], na_position="last")


def _by_attack(scored: pd.DataFrame) -> pd.DataFrame:
    """Mean score of each rule (rows) under each attack (columns)."""
    return scored.groupby(["aggregator", "attack"], sort=False).score.mean().unstack()


def percent(value: float) -> str:
    """A score in percent, or what stands for it."""
    if pd.isna(value):
        return "–"
    return "diverged" if value == float("-inf") else f"{100 * value:.1f}"


def _whole(low: float, high: float) -> str:
    if pd.isna(low):
        return "–"
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def markdown(table: pd.DataFrame, words: str) -> str:
    """The ranks as GitHub-flavoured Markdown; scores in percent, times in milliseconds."""
    lines = [
        "# Leaderboard",
        "",
        f"{words} A score is the accuracy or, if lower, the share of cases in which the attack "
        "failed, in percent; the worst case is the lowest over the attacks, averaged over the "
        "seeds, with the lowest and highest seed in brackets. Rules of byzfl that take a number of "
        "attackers are told the true one. Times are those of aggregating alone, as measured in the "
        "jobs: they are longer where others ran beside.",
        "",
        "| rank | over seeds | rule | worst case | by | mean | ms per round | seeds |",
        "|--:|--:|---|--:|---|--:|--:|--:|",
    ]
    for row in table.itertuples():
        worst = percent(row.worst)
        if row.n_seeds > 1:
            worst += f" ({percent(row.worst_low)} to {percent(row.worst_high)})"
        rank = "–" if pd.isna(row.rank) else f"{row.rank:.0f}"
        time = "–" if pd.isna(row.seconds_per_round) else f"{1000 * row.seconds_per_round:.1f}"
        attack = "–" if pd.isna(row.worst_attack) else captions.panel_title(row.worst_attack)
        lines.append(
            f"| {rank} | {_whole(row.rank_low, row.rank_high)} | {row.label} | {worst} | {attack} "
            f"| {percent(row.mean)} | {time} | {row.n_seeds} |"
        )
    return "\n".join(lines) + "\n"


def heat_map(scored: pd.DataFrame, table: pd.DataFrame, words: str) -> Figure:
    """Rules, best first, against their worst case and the attacks, most harmful first."""
    means = _by_attack(scored)
    finite = means.replace(float("-inf"), 0)
    means = means[finite.mean().sort_values().index]
    means.insert(0, "worst case", table.worst)
    means = means.loc[table.index]
    figure = Figure(figsize=(1.6 + 0.95 * means.shape[1], 1.6 + 0.42 * len(means)))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    shown = means.replace(float("-inf"), 0).to_numpy(dtype=float)
    colors = matplotlib.colormaps["cividis"].with_extremes(bad="#EEEEEE")
    image = axis.imshow(shown, cmap=colors, vmin=0, vmax=1, aspect="auto")
    axis.grid(False)
    names = [captions.panel_title(name).replace(" ", "\n") for name in means.columns]
    axis.set_xticks(range(means.shape[1]), names)
    axis.set_yticks(range(len(means)), table.label)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    for row, values in enumerate(means.to_numpy(dtype=float)):
        for column, value in enumerate(values):
            dark = value < 0.55
            axis.text(
                column, row, percent(value), ha="center", va="center", fontsize=8,
                color="white" if dark else "black", fontweight="bold" if column == 0 else None,
            )  # fmt: skip
    axis.axvline(0.5, color="white", linewidth=4)
    figure.colorbar(image, ax=axis, label="score", shrink=0.8, format=PercentFormatter(1))
    figure.supxlabel(words, x=0.01, ha="left", fontsize=7.5, color="#555555", wrap=True)
    return figure


def source(cells: pd.DataFrame) -> str:
    """Which data and scale a target's cells are of, and how many are missing."""
    trained = cells.state.isin(["done", "diverged"])
    notes = ", ".join(sorted(cells.data_note[trained].dropna().unique())) or "no data yet"
    lacking = "" if trained.all() else f" {(~trained).sum()} of {len(cells)} cells are missing."
    return f"Scale {cells.scale.iloc[0]}; {notes}; {cells.seed.nunique()} seeds.{lacking}"


def write(cells_path: str | Path, out: str | Path) -> None:
    """Write ``ranks.csv``, ``ranks.md``, ``heatmap.png`` and ``heatmap.pdf`` into a folder.

    Args:
        cells_path: ``cells.csv`` of a collected target whose panels are the attacks, ``none`` the
            one without.
        out: the folder.

    Raises:
        UserError: if the file cannot be read or lacks columns.
    """
    try:
        cells = pd.read_csv(cells_path)
    except (OSError, ValueError) as error:
        raise UserError(f"{cells_path}: {error}") from None
    lacking = [column for column in _NEEDED if column not in cells]
    if lacking or cells.empty:
        raise UserError(f"{cells_path}: no cells, or columns missing: {', '.join(lacking)}")
    scored = scores(cells)
    table, words, out = ranks(scored), source(cells), Path(out)
    write_text(out / "ranks.csv", table.to_csv(lineterminator="\n"))
    write_text(out / "ranks.md", markdown(table, words))
    figure = heat_map(scored, table, words)
    for extension, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        with atomic_path(out / f"heatmap.{extension}") as path:
            figure.savefig(path, dpi=160, metadata=metadata, format=extension)
