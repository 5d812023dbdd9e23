"""Every figure of the paper, and those it argues but does not plot, drawn from collected files.

Each function takes what it draws and gives back a `style.Drawing`; `draw` picks one by the plot of
the target's entry and saves it. Colours, fonts and layout are in `style`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from arfl.errors import UserError
from arfl.reporting import captions, compare, evidence, frames, paper, partition_picture, style
from arfl.reporting import readings as of_text
from arfl.reporting.frames import DONE, Collected, x_text
from arfl.reporting.paper import PaperNumbers
from arfl.reporting.style import Drawing, Look
from arfl.reporting.targets import Target

ONE_SEED = "One seed."
CODE = "Computed without any training or data."
HEAVIEST = 2
# A sweep of more x than this is shown by round at three of them.
MANY = 4
# The band of more seeds than this leaves out their extremes.
FEW = 5
# A heat map of more scenarios than this is taller than a page.
MAX_WEIGHT_ROWS = 8
# A rule whose best value lies this far below the others' worst gets an axis of its own.
OUTLIER = 25


def sweep(cells: pd.DataFrame, numbers: PaperNumbers, target: Target) -> Drawing:
    """Accuracy against the swept value: a panel per rule, the others in grey behind it.

    Only points that exist are drawn, and no line leads over a planned one that is missing. Where
    one point of the sweep is all there is, rules are compared side by side (`bars`) instead.
    """
    cells = cells.assign(at=_places(cells))
    done = cells[(cells.state == DONE) & cells.accuracy.notna()]
    if done.empty or done.groupby("panel")["at"].nunique().max() < 2:
        return bars(cells, numbers, target)
    single = cells.groupby("panel").aggregator.nunique().max() == 1
    looks = style.looks(cells.aggregator)
    labels = dict(zip(cells.aggregator, cells.label, strict=True))
    curves = {
        facet: curve
        for facet, curve in _curves(cells, numbers).items()
        if curve[["mean", "paper"]].notna().any(axis=None)
    }
    facets = list(curves)
    figure, axes = style.grid(len(facets), columns=3)
    own_scale = set() if single else _outliers(curves)
    for axis, (panel, rule) in zip(axes, facets, strict=True):
        for (p, other), curve in curves.items():
            if p == panel and other != rule and other not in own_scale:
                own = curve[curve.planned]
                axis.plot(own.x, own["mean"], color=style.SOFT, lw=1, zorder=1)
        curve, look = curves[panel, rule], looks[rule]
        own, printed = curve[curve.planned], curve.dropna(subset="paper")
        axis.plot(printed.x, printed.paper, zorder=2, **style.PAPER_LINE)
        words = cells[cells.panel == panel].x.map(lambda x: isinstance(x, str)).any()
        line = look.line_style() | {"linestyle": "" if words else "-"}
        axis.plot(own.x, own["mean"], zorder=4, **line)
        seeds = done[(done.panel == panel) & (done.aggregator == rule)]
        axis.plot(seeds["at"], 100 * seeds.accuracy, ".", color=look.color, ms=4, zorder=3)
        _sweep_axis(axis, cells[cells.panel == panel])
        name = labels[rule] + (" (own scale)" if rule in own_scale else "")
        where = captions.panel_title(panel)
        axis.set_title(where if single and where else f"{where}: {name}" if where else name,
                       loc="left")  # fmt: skip
    shared = [a for a, (_, rule) in zip(axes, facets, strict=True) if rule not in own_scale]
    _share_y(shared)
    for axis in axes[:: min(3, len(axes))]:
        axis.set_ylabel("accuracy (%)")
    several = done.seed.nunique() > 1
    parts = ["Small dots: seeds; line and large dots: their mean." if several else ONE_SEED]
    if not single:
        parts.append("Grey: the other rules.")
    parts.append(_paper_sentence(cells, numbers))
    words = " ".join(filter(None, parts))
    return Drawing(figure, target.title, words, captions.caption(cells), _alt(curves, labels))


def bars(cells: pd.DataFrame, numbers: PaperNumbers, target: Target) -> Drawing:
    """Accuracy and attack success rate of every rule as points, a row of panels per scenario."""
    planned, cells = cells, _existing(cells)
    keys = list(dict.fromkeys(zip(cells.panel, cells.x.map(x_text), strict=True)))
    metrics = ["accuracy"]
    if cells.attack_success_rate.notna().any():
        metrics.append("attack_success_rate")
    looks = style.looks(cells.aggregator)
    height = 0.8 + 0.25 * len(looks)
    figure, axes = style.grid(
        len(metrics) * len(keys), columns=len(metrics), panel_width=4.2, panel_height=height
    )
    n_clients = numbers.participants(cells)
    for row, (panel, column) in enumerate(keys):
        here = cells[(cells.panel == panel) & (cells.x.map(x_text) == column)]
        first = here.iloc[0]
        beside = numbers.column(first.x_name, first.x, n_clients)
        printed = numbers.values[
            (numbers.values.panel == panel) & (numbers.values.column == beside)
        ]
        where = captions.scenario(panel, first.x_name, first.x)
        for axis, metric in zip(axes[len(metrics) * row :], metrics, strict=False):
            _points(axis, here, metric, printed, looks)
            name = captions.COLUMN_METRICS[metric].lower()
            axis.set_title(f"{where}: {name} (%)".removeprefix(": "), loc="left")
    _share_x(axes[:: len(metrics)])
    for axis in axes[1 :: len(metrics)] if len(metrics) > 1 else ():
        axis.set_yticklabels([])
        axis.set_xlim(-4, 104)
    several = cells[cells.state == DONE].seed.nunique() > 1
    parts = ["Diamonds: mean; dots: seeds." if several else ONE_SEED]
    if len(metrics) > 1:
        parts.append("Hollow, below: target class left out.")
    parts.append(_paper_sentence(cells, numbers, "Upright bars"))
    seen = [
        f"{captions.scenario(panel, here.x_name.iloc[0], here.x.iloc[0])}, "
        f"{captions.COLUMN_METRICS[metric].lower()}: {_told(here, metric)}"
        for (panel, _), here in cells.groupby(["panel", cells.x.map(x_text)], sort=False)
        for metric in metrics
        if here[metric].notna().any()
    ]
    alt = f"Points, a row per rule. {'; '.join(part.removeprefix(', ') for part in seen)}."
    words = " ".join(filter(None, parts))
    return Drawing(figure, target.title, words, captions.caption(planned), alt)


def by_round(collected: Collected, target: Target, metrics: tuple[str, ...]) -> Drawing | None:
    """Rates after every round: a row per metric, a panel per scenario; None if there are none.

    Of a long sweep the first, the middle and the last x are shown.
    """
    cells = collected.cells
    cells = cells[cells.state == DONE]
    cells, left_out = _thinned(cells)
    panels = []
    for metric in metrics:
        for _, group in (
            cells[cells[metric].notna()]
            .assign(column=cells.x.map(x_text))
            .groupby(["panel", "column"], sort=False)
        ):
            panels.append((metric, group))
    if not panels:
        return None
    of_first = sum(metric == panels[0][0] for metric, _ in panels)
    columns = 2 if of_first in (2, 4) else min(of_first, 3)
    size = (6.4, 3.6) if len(panels) == 1 else (3.6, 2.7)
    # Each metric begins a row.
    left_over = -of_first % columns if len(panels) > of_first else 0
    figure, places = style.grid(len(panels) + left_over, columns, *size)
    for spare in places[of_first : of_first + left_over]:
        spare.set_visible(False)
    axes = places[:of_first] + places[of_first + left_over :]
    looks = style.looks(collected.cells.aggregator)
    several = len({metric for metric, _ in panels}) > 1
    # The range of many seeds covers everything.
    edge = 0.25 if cells.seed.nunique() > FEW else 0.0
    for axis, (metric, group) in zip(axes, panels, strict=True):
        rounds = collected.rounds[collected.rounds.cell_id.isin(group.cell_id)]
        rounds = rounds.merge(group[["cell_id", "aggregator", "label"]], on="cell_id")
        ends = []
        for (rule, label), of_rule in rounds.groupby(["aggregator", "label"], sort=False):
            of_round = (100 * of_rule[metric]).groupby(of_rule["round"])
            mean, low, high = of_round.mean(), of_round.quantile(edge), of_round.quantile(1 - edge)
            look = looks[rule]
            # In its own dashes, since two rules may submit the very same model.
            axis.plot(mean, color=look.color, lw=1.4, ls=look.line)
            axis.fill_between(mean.index, low, high, color=look.color, alpha=0.13, lw=0)
            ends.append((mean.index[-1], mean.iloc[-1], label, look.color))
        axis.set_ylim(0, 100)
        style.label_ends(axis, ends, gap=100 * 0.13 / size[1] * 1.25)
        first = group.iloc[0]
        name = captions.METRICS[metric].split(",")[0].lower()
        where = captions.scenario(first.panel, first.x_name, first.x)
        axis.set_title("\n".join(filter(None, [where, name if several else ""])), loc="left")
        axis.set_xlim(1, max(rounds["round"].max(), 2))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_xlabel("round")
    axes[0].set_ylabel("%" if several else f"{name} (%)")
    title = target.title if target.plot == "rounds" else f"{target.title}, by round"
    one = cells.seed.nunique() == 1
    band = "the middle half of the seeds" if edge else "all seeds"
    caption = ONE_SEED if one else f"Lines: mean over the seeds; band: {band}."
    if left_out:
        caption += (
            f" Of each sweep the first, the middle and the last; {left_out} more in the data."
        )
    if len(metrics) == 1:
        caption = f"{captions.METRICS[metrics[0]]}. {caption}"
    seen = []
    for metric in dict.fromkeys(metric for metric, _ in panels):
        last = next(group for of, group in reversed(panels) if of == metric)
        where = captions.scenario(last.panel.iloc[0], last.x_name.iloc[0], last.x.iloc[0])
        name = captions.METRICS[metric].split(",")[0].lower()
        seen.append(f"{where}, {name}: {_told(last, metric)}".removeprefix(", "))
    n_panels = captions.counted(len(panels), "panel")
    alt = f"Lines over the rounds in {n_panels}. After the last round, {'; '.join(seen)}."
    return Drawing(figure, title, caption, captions.caption(collected.cells), alt)


def protocols(cells: pd.DataFrame, numbers: PaperNumbers) -> Drawing:
    """Figure 3 under each protocol beside the paper's curves, a panel per rule.

    No line leads over a number of attackers that is planned and has no record.

    Args:
        cells: of target ``figure3``, of several runs.
        numbers: the paper's Figure 3.
    """
    title = "Figure 3 under both protocols"
    done = cells[(cells.state == DONE) & cells.accuracy.notna()]
    source = of_text.sources(cells)
    if done.empty:
        return style.empty(title, source)
    names = list(dict.fromkeys(cells.protocol))
    # Every other one, so that no protocol is the grey of a grid.
    looks = dict(zip(names, style.spare_looks(2 * len(names))[::2], strict=True))
    rules = list(dict.fromkeys(zip(cells.aggregator, cells.label, strict=True)))
    figure, axes = style.grid(len(rules), 3, panel_width=2.9, panel_height=2.2, sharey=True)
    alts = []
    for axis, (rule, label) in zip(axes, rules, strict=True):
        printed = numbers.values[numbers.values.aggregator == rule].sort_values("x")
        axis.plot(printed.x, 100 * printed.value, zorder=3, **style.PAPER_LINE)
        for name in names:
            here = done[(done.aggregator == rule) & (done.protocol == name)]
            planned = cells[(cells.aggregator == rule) & (cells.protocol == name)]
            places = sorted(planned.n_attackers.unique())
            look, of_x = looks[name], here.groupby("n_attackers")
            mean = 100 * of_x.accuracy.mean()
            axis.vlines(mean.index, 100 * of_x.accuracy.min(), 100 * of_x.accuracy.max(),
                        color=look.color, lw=1, alpha=0.6, zorder=2)  # fmt: skip
            axis.plot(mean.reindex(places), color=look.color, marker=look.marker, ms=4.5, lw=1.5,
                      zorder=4)  # fmt: skip
            late = 100 * of_x.accuracy_late.mean().reindex(places)
            axis.plot(late, color=look.color, lw=0.9, ls=(0, (1, 1.5)), marker=".", ms=2, zorder=2)
            if len(mean):
                ends = [f"{y:.0f} % at {x}" for x, y in mean.iloc[[0, -1]].items()]
                alts.append(f"{label}, {name}: {', '.join(dict.fromkeys(ends))}")
        axis.set_title(label, loc="left")
        axis.set_xticks(range(0, 11, 2))
    for axis in axes[-3:]:
        axis.set_xlabel("attackers of 100")
    for axis in axes[::3]:
        axis.set_ylabel("accuracy (%)")
    handles = [Line2D([], [], label="the paper", **style.PAPER_LINE)]
    handles += [
        Line2D([], [], color=looks[n].color, marker=looks[n].marker, ms=4.5,
               label=f"protocol {n}" + ("" if n in set(done.protocol) else " (no record yet)"))
        for n in names
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    words = (
        "Figure 3 again, from records: marks are means over the seeds after the last round, "
        "upright lines their range, dotted lines the mean of the last rounds; dashed: the paper."
    )
    return Drawing(
        figure, title, words, source, f"Accuracy by number of attackers. {'; '.join(alts)}."
    )


def readings(cells: pd.DataFrame, numbers: PaperNumbers, target: Target) -> Drawing | None:
    """Each reading's accuracies, a panel per rule, with the printed numbers as upright lines.

    Args:
        cells: of target ``readings``, of one run or several.
        numbers: the paper's Figure 3.
        target: its entry in the table of targets.

    Returns:
        None where nothing has been trained.
    """
    seeds = of_text.measured(of_text.values(cells, numbers))
    seeds = seeds[seeds["last"].notna()]
    if seeds.empty:
        return None
    columns = sorted(set(seeds.column), key=int)
    looks = dict(zip(columns, style.spare_looks(len(columns)), strict=True))
    panels = []
    for label, here in seeds.groupby("label", sort=False):
        # A reading that does not touch the rule shows the protocol's points again.
        shown = here[here.groupby(["run", "reading"]).own.transform("any")]
        panels.append((label, shown, list(dict.fromkeys(shown.words))))
    lines = max(len(named) for _, _, named in panels)
    figure, axes = style.grid(len(panels), 2, panel_width=5.2, panel_height=0.9 + 0.27 * lines)
    for axis, (label, shown, named) in zip(axes, panels, strict=True):
        for number, column in enumerate(columns):
            here, look = shown[shown.column == column], looks[column]
            for value in 100 * here.paper.dropna().unique():
                axis.axvline(value, color=look.color, lw=1.2, ls=look.line, zorder=1)
            shift = 0.22 * (number - (len(columns) - 1) / 2)
            for reading, of_one in here.groupby("words", sort=False):
                place = named.index(reading) + shift
                last, late = 100 * of_one["last"], 100 * of_one.late.mean()
                axis.plot([last.min(), last.max()], [place] * 2, color=look.color, lw=1.2)
                axis.plot(last.mean(), place, look.marker, color=look.color, ms=5)
                axis.plot(late, place, look.marker, color=look.color, ms=5, mfc="white", mew=0.9)
        names = [text.removeprefix("protocol ") for text in named]
        axis.set_yticks(range(len(named)), names, fontsize=8)
        axis.set_ylim(len(named) - 0.5, -0.5)
        axis.set_title(label, loc="left")
    for axis in axes[-2:]:
        axis.set_xlabel("accuracy (%)")
    handles = [
        Line2D([], [], color=looks[c].color, ls=looks[c].line, marker=looks[c].marker, ms=5,
               label=captions.counted(int(c), "attacker"))
        for c in columns
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper right", ncols=len(columns), frameon=False)
    words = (
        "Full: after the last round, mean over the seeds, with their range; hollow: mean of the "
        "last rounds. Upright lines: the paper's Figure 3. A rule's panel has the readings that "
        "change something in it, and an axis of its own."
    )
    source = of_text.sources(cells)
    n_readings = seeds.groupby(["run", "reading"]).ngroups
    ranges = [
        f"{label} {100 * here['last'].min():.0f} to {100 * here['last'].max():.0f} %"
        for label, here, _ in panels
    ]
    alt = f"Accuracies under {captions.counted(n_readings, 'reading')}: {', '.join(ranges)}."
    return Drawing(figure, target.title, words, source, alt)


def weights(collected: Collected, target: Target) -> Drawing | None:
    """Heat maps of the clients' weights over the rounds, of the strongest attack of each kind.

    One row per (task, attack), one column per rule that weighs clients unevenly; the first seed
    that has a record. None if no rule does.
    """
    cells = collected.cells
    attacked = cells.attackers.map(bool)
    cells = cells[cells.cell_id.isin(collected.weights.cell_id) & attacked]
    scenarios = [_strongest(of_one) for _, of_one in cells.groupby(["task", "attack"], sort=False)][
        :MAX_WEIGHT_ROWS
    ]
    if not scenarios:
        return None
    rules = list(dict.fromkeys(rule for cells in scenarios for rule in cells.aggregator))
    figure, axes = style.grid(
        len(scenarios) * len(rules), len(rules), panel_width=max(4.0, 7 / len(rules)),
        panel_height=2.1,
    )  # fmt: skip
    image, seen = None, []
    for row, here in enumerate(scenarios):
        for axis, rule in zip(axes[row * len(rules) :], rules, strict=False):
            of_rule = here[here.aggregator == rule]
            if of_rule.empty:
                axis.set_axis_off()
            else:
                cell = of_rule.iloc[0]
                rows = collected.weights[collected.weights.cell_id == cell.cell_id]
                image = _heat_map(axis, cell, rows)
                share = rows.weight / rows.groupby("round").weight.transform("mean")
                of_attackers = share[rows.attacker.astype(bool)].mean()
                attack = captions.panel_title(cell.attack)
                seen.append(f"{cell.label}, {attack}: attackers {of_attackers:.2g} of a share")
    bar = figure.colorbar(image, ax=axes, location="right", shrink=0.5, aspect=30, extend="max")
    bar.set_label("weight as a multiple of an equal share")
    caption = (
        "Each client's weight as a multiple of an equal share (white, 1: plain average; grey: took "
        "no part); those clients that took part in a round drawn, the attackers last, beside the "
        "orange bar; the strongest attack of each kind, one seed; rules that weigh all clients "
        "alike are left out."
    )
    alt = f"Heat maps of clients by rounds, attackers at the bottom. {'; '.join(seen)}."
    return Drawing(figure, target.title, caption, captions.caption(collected.cells), alt)


def timing(collected: Collected, target: Target) -> Drawing | None:
    """Milliseconds of aggregation per round, one panel per task; None without any record."""
    rows = compare.timing(collected.cells)
    if rows.empty:
        return None
    groups = list(rows.groupby(["task", "n_clients", "device"], sort=False))
    figure, axes = style.grid(len(groups), 2, 4.2, 2.2, sharex=True)
    axes[0].set_xscale("log")
    looks = style.looks(rows.aggregator)
    for axis, ((task, n_clients, _), here) in zip(axes, groups, strict=True):
        for position, row in enumerate(here.itertuples()):
            milliseconds, look = 1000 * row.aggregation_per_round, looks[row.aggregator]
            axis.plot(milliseconds, position, color=look.color, marker=look.marker, markersize=7)
            text = f"{float(f'{milliseconds:.2g}'):g}"
            axis.annotate(
                text, (milliseconds, position), xytext=(7, 0), fontsize=8,
                textcoords="offset points", va="center",
            )  # fmt: skip
        axis.set_yticks(range(len(here)), here.label)
        axis.set_ylim(len(here) - 0.5, -0.5)
        axis.set_title(f"{captions.task_name(task)}, {n_clients} clients", loc="left")
    style.decades(axes[0], "x")
    for axis in axes[-2:]:
        axis.set_xlabel("aggregation, ms a round")
    devices = captions.listed(list(dict.fromkeys(rows.device)))
    caption = f"Measured on {devices}. {compare.TIMING}"
    slowest = rows.loc[rows.aggregation_per_round.idxmax()]
    alt = f"Dots of milliseconds on a logarithmic axis; {slowest.label} takes longest."
    return Drawing(figure, target.title, caption, captions.caption(collected.cells), alt)


def partitions(collected: Collected, target: Target) -> Drawing | None:
    """Which classes each client holds, one panel per partition, of its first seed; or None."""
    tasks: dict[tuple, str] = {}
    for task, rows in collected.partitions.groupby("task", sort=False):
        first = rows.sort_values("seed", kind="stable").iloc[0]
        same = (rows.partition == first.partition) & (rows.seed == first.seed)
        # A task that changes no more than the training has the partition of another.
        tasks.setdefault((int(first.seed), tuple(map(tuple, rows[same].class_counts))), task)
    if not tasks:
        return None
    figure, axes = style.grid(len(tasks), 2, 4.4, 2.5)
    for axis, ((seed, held), task) in zip(axes, tasks.items(), strict=True):
        counts = np.array(held)
        mesh = partition_picture.heat_map(axis, counts)
        axis.set_title(f"{captions.task_name(task)}, seed {seed}", loc="left")
        n_clients, n_classes = counts.shape
        axis.set_xticks(*_every(n_clients, 10))
        axis.set_yticks(*_every(n_classes, 10))
        figure.colorbar(mesh, ax=axis, label="samples")
    caption = "Training samples of each class at each participant; white: none."
    if (more := collected.partitions.task.nunique() - len(tasks)) > 0:
        caption += f" {captions.counted(more, 'further task')} with one of these partitions."
    names = captions.listed([captions.task_name(task) for task in tasks.values()])
    alt = f"Heat maps of classes by clients for {names}."
    return Drawing(figure, target.title, caption, captions.caption(collected.cells), alt)


def _every(count: int, most: int) -> tuple[np.ndarray, list[str]]:
    """Places and names of at most ``most`` of the cells that `heat_map` draws side by side."""
    shown = np.arange(0, count, -(-count // most))
    return shown + 0.5, [str(place) for place in shown]


def confidence(rows: pd.DataFrame, target: Target) -> Drawing:
    """Figure 2: confidence against the normalised residual, a panel per (K, δ), a line per λ.

    The curve is even in the residual, so that its positive half is drawn. The zones of the paper's
    figure are shaded for its λ = 2; where they end follows from the curve itself: in the orange one
    the confidence times the residual is the constant at which it begins.
    """
    panels = list(rows.groupby(["n_clients", "delta"], sort=False))
    lams = list(dict.fromkeys(rows.lam))
    looks = dict(zip(lams, style.spare_looks(len(lams)), strict=True))
    figure, axes = style.grid(len(panels), 2, 4.2, 2.5, sharex=True, sharey=True)
    for axis, ((n_clients, delta), here) in zip(axes, panels, strict=True):
        ends = {}
        for lam, of_lam in here[here.normalised_residual > 0].groupby("lam", sort=False):
            e, w = of_lam.normalised_residual.to_numpy(), of_lam.confidence.to_numpy()
            falling = (w > 0) & (w < 1 - 1e-9)
            start = float(np.median((w * e)[falling])) if falling.any() else e[-1]
            ends[lam] = (start, start / delta)
            inner = e[(e > start) & (e < start / delta) & falling]
            x = np.concatenate([[1e-3, start], inner, [start / delta] * 2, [1e4]])
            y = np.concatenate([[1, 1], w[np.isin(e, inner)], [delta, 0, 0]])
            axis.plot(x, y, color=looks[lam].color, lw=1.8, label=f"λ = {lam:g}")
        if PAPER_LAMBDA in ends:
            start, end = ends[PAPER_LAMBDA]
            axis.axvspan(1e-3, start, color="#009E73", alpha=0.16, lw=0)
            axis.axvspan(start, end, color="#E69F00", alpha=0.16, lw=0)
        axis.set_title(f"K = {n_clients:g}, δ = {delta:g}", loc="left")
        axis.set_xscale("log")
        axis.set_xlim(0.02, 300)
        axis.set_ylim(-0.04, 1.08)
    for axis in axes[-2:]:
        axis.set_xlabel("normalised residual, absolute e")
    for axis in axes[::2]:
        axis.set_ylabel("confidence w")
    axes[0].legend(loc="upper right", frameon=False)
    caption = (
        "Shaded for λ = 2 as in the paper: confidence 1 (green), falling (orange), 0 (none); the "
        "curve is the same for negative residuals."
    )
    alt = "Confidence is 1 up to a bound, falls with the inverse of the residual, then drops to 0."
    return Drawing(figure, target.title, caption, CODE, alt)


def theory(rows: pd.DataFrame, target: Target) -> Drawing:
    """Equation 14: the simulated error against each quantity of the bound, beside the bound.

    Each panel varies one quantity and holds the others at the middle of their values.
    """
    middle = {q: sorted(set(rows[q]))[len(set(rows[q])) // 2] for q in THEORY_LABELS}
    constant = float((rows.error / rows.rate).max())
    figure, axes = style.grid(len(middle), 2, 4.2, 2.6)
    for axis, quantity in zip(axes, middle, strict=True):
        held = pd.Series(True, rows.index)
        for other, value in middle.items():
            held &= (rows[other] == value) | (other == quantity)
        here = rows[held].sort_values(quantity)
        for column, (rule, _) in THEORY_ERRORS.items():
            look = style.looks([rule])[rule]
            errors = 1.96 * here.error_standard_error if column == "error" else None
            axis.errorbar(here[quantity], here[column], yerr=errors, capsize=2.5,
                          **look.line_style() | {"linestyle": "-"})  # fmt: skip
        axis.plot(here[quantity], constant * here.rate, **style.PAPER_LINE | {"marker": ""})
        axis.set_xlabel(THEORY_LABELS[quantity])
        style.decades(axis, "y")
        if here[quantity].iloc[0] > 0:
            axis.set_xscale("log")
    for axis in axes[::2]:
        axis.set_ylabel("mean absolute error")
    handles = [
        Line2D([], [], label=name, **style.looks([rule])[rule].line_style() | {"linestyle": "-"})
        for rule, name in THEORY_ERRORS.values()
    ]
    line = style.PAPER_LINE | {"marker": ""}
    handles.append(Line2D([], [], label=f"{constant:.2g} × Eq. 14", **line))
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    held = ", ".join(f"{THEORY_LABELS[q].split()[-1]} = {v:g}" for q, v in middle.items())
    loose = float((constant * rows.rate / rows.error).median())
    caption = (
        "Corrupted clients submit the value just inside what the rule would discard, where it "
        f"pulls most. Held where not varied: {held}. Error bars: 95 %. Eq. 14 leaves its constant "
        "open; dashed with the smallest one that bounds every simulated error of the rule; even so "
        f"it is {loose:.0f} times the error on median."
    )
    alt = "Errors fall with clients and samples and rise with corruption, all below the bound."
    return Drawing(figure, target.title, caption, CODE, alt)


def trigger(path: Path, target: Target) -> Drawing:
    """Figure 5: ``triggered`` beside ``clean``, (H, W) or (H, W, 3) uint8, ``note`` below."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("clean", "triggered", "note")}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the step that makes it first") from None
    except (KeyError, ValueError) as problem:
        raise UserError(f"{path} lacks its arrays ({problem}); make it again") from None
    figure, axes = style.grid(2, columns=2, panel_width=2.4, panel_height=2.5)
    for axis, name in zip(axes, ("clean", "triggered"), strict=True):
        axis.imshow(arrays[name], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(name, loc="left")
        axis.set_axis_off()
    alt = "An image twice, the second time with white bars in its upper left corner."
    return Drawing(figure, target.title, "", str(arrays["note"]), alt)


PAPER_LAMBDA = 2.0
THEORY_LABELS = {
    "n_clients": "number of clients K",
    "n_samples": "samples per client S",
    "corruption": "share of corrupted clients α",
    "delta": "threshold δ",
}
# The columns of errors, each with the rule whose look it takes, and its name.
THEORY_ERRORS = {
    "error_mean": ("fedavg", "mean"),
    "error_median": ("median", "median"),
    "error": ("residual_reweighting", "residual reweighting"),
}
_STUDY_COLUMNS: Mapping[str, tuple[Callable, tuple[str, ...]]] = {
    "figure2": (confidence, ("n_clients", "lam", "delta", "normalised_residual", "confidence")),
    "theory": (theory, (*THEORY_LABELS, *THEORY_ERRORS, "error_standard_error", "rate")),
}
_VIEWS: Mapping[str, Callable] = {"weights": weights, "timing": timing, "partitions": partitions}
_SWEEPS: Mapping[str, Callable] = {"swept": sweep, "bars": bars, "readings": readings}
PLOTS = (*_SWEEPS, *_VIEWS, "rounds")


def make(source: str | Path, target: Target, paper_dir: str | Path) -> Drawing:
    """The figure of one target.

    Args:
        source: the ``collected.json`` of what it is made of; of a study the file that it writes.
        target: its entry in the table of targets.
        paper_dir: folder with the paper's numbers.

    Raises:
        UserError: where nothing can be read or drawn, or the entry's plot is not known.
    """
    if target.plot == "figure5":
        return trigger(Path(source), target)
    if target.plot in _STUDY_COLUMNS:
        function, columns = _STUDY_COLUMNS[target.plot]
        return function(frames.read_csv(source, columns), target)
    if target.plot not in PLOTS:
        known = ", ".join(PLOTS)
        raise UserError(f"{target.name}: unknown plot {target.plot!r}; known are {known}")
    collected = evidence.collected(source, paper_dir)
    drawing = None
    if not captions.trained(collected.cells).empty:
        if target.plot in _VIEWS:
            drawing = _VIEWS[target.plot](collected, target)
        elif target.plot == "rounds":
            drawing = by_round(collected, target, ("attack_success_rate",))
            drawing = drawing or by_round(collected, target, ("accuracy",))
        else:
            printed = of_text.PRINTED if target.plot == "readings" else target.name
            numbers = paper.load(paper_dir, printed)
            drawing = _SWEEPS[target.plot](collected.cells, numbers, target)
    # An incomplete grid still renders, and says that it is empty.
    return drawing or style.empty(target.title, captions.caption(collected.cells))


def draw(source: str | Path, target: Target, paper_dir: str | Path, out_prefix: str | Path) -> None:
    """Draw one target into ``<out_prefix>.svg``, ``.png``, ``.pdf`` and ``.json``; see `make`."""
    style.save(make(source, target, paper_dir), out_prefix)


def draw_rounds(
    source: str | Path, target: Target, paper_dir: str | Path, out_prefix: str | Path
) -> None:
    """Draw a target's rates after every round into the same four files."""
    collected = evidence.collected(source, paper_dir)
    drawing = by_round(collected, target, ("accuracy", "attack_success_rate"))
    title = f"{target.title}, by round"
    style.save(drawing or style.empty(title, captions.caption(collected.cells)), out_prefix)


def _curves(cells: pd.DataFrame, numbers: PaperNumbers) -> dict[tuple[str, str], pd.DataFrame]:
    """(panel, rule) -> x, the mean over the seeds and the paper's value there, in percent.

    ``planned`` tells the run's own x, of which some may have no mean yet, from the paper's.
    """
    n_clients = numbers.participants(cells)
    per_share = 1.0
    if (cells.x_name == "n_attackers").all() and numbers.n_clients and n_clients:
        per_share = n_clients / numbers.n_clients
    printed = numbers.values[numbers.values.metric == "accuracy"]
    curves = {}
    for (panel, rule), here in cells.groupby(["panel", "aggregator"], sort=False):
        mean = 100 * here.groupby("at").accuracy.mean()
        of_rule = printed[(printed.panel == panel) & (printed.aggregator == rule)]
        paper_y = pd.Series(100 * of_rule.value.to_numpy(), per_share * of_rule.x.to_numpy(float))
        curve = pd.DataFrame({"mean": mean, "paper": paper_y.groupby(level=0).first()}, dtype=float)
        curve["planned"] = curve.index.isin(mean.index)
        # Where runs exist the paper's line does not reach beyond them.
        known = curve["mean"].dropna().index
        if len(known):
            curve = curve.loc[known.min() - 1e-9 : known.max() + 1e-9]
        curves[panel, rule] = curve.rename_axis("x").reset_index()
    return curves


def _told(cells: pd.DataFrame, metric: str) -> str:
    """The mean of each rule, as words for those who cannot see it."""
    means = 100 * cells.groupby("label", sort=False)[metric].mean().dropna()
    return ", ".join(f"{label} {mean:.0f} %" for label, mean in means.items())


def _thinned(cells: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The first, the middle and the last x of a panel with more than `MANY`; how many are not."""
    shown, left_out = [], 0
    for _, group in cells.groupby("panel", sort=False):
        column = group.x.map(x_text)
        places = list(dict.fromkeys(column))
        if len(places) > MANY:
            left_out += len(places) - 3
            places = [places[0], places[len(places) // 2], places[-1]]
        shown.append(group[column.isin(places)])
    return (pd.concat(shown) if shown else cells), left_out


def _outliers(curves: Mapping[tuple[str, str], pd.DataFrame]) -> set[str]:
    """Rules that reach so far below all others that a common axis would flatten these."""
    low = {rule: c[["mean", "paper"]].min().min() for (_, rule), c in curves.items()}
    return {
        rule
        for rule in low
        if len(low) > 2 and low[rule] + OUTLIER < min(v for k, v in low.items() if k != rule)
    }


def _sweep_axis(axis: Axes, cells: pd.DataFrame) -> None:
    x_name, n_clients = cells.x_name.iloc[0], cells.n_clients.max()
    label = captions.x_label(x_name)
    if x_name == "n_attackers" and n_clients > 0:
        label += f" (of {n_clients:.0f})"
    axis.set_xlabel(label)
    done = cells[cells.state == DONE]
    shown = (done if len(done) else cells).drop_duplicates("at").sort_values("at")
    xs, words = list(shown["at"]), shown.x.map(lambda x: isinstance(x, str)).any()
    if not words and len(xs) > 2 and xs[0] > 0 and xs[-1] / xs[0] > 8:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(xs, [x_text(x) for x in shown.x])
    if words:
        axis.margins(x=0.4)


def _places(cells: pd.DataFrame) -> pd.Series:
    """Where each x lies on its axis: numbers at themselves, words side by side."""
    words = {x: i for i, x in enumerate(dict.fromkeys(x for x in cells.x if isinstance(x, str)))}
    return cells.x.map(lambda x: np.nan if x is None else float(words.get(x, x)))


def _share_y(axes: list[Axes]) -> None:
    limits = [axis.get_ylim() for axis in axes]
    for axis in axes:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _share_x(axes: list[Axes]) -> None:
    limits = [axis.get_xlim() for axis in axes]
    for axis in axes:
        axis.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))


def _existing(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows whose panel and x have any result; all if none has."""
    keys = [cells.panel, cells.x.map(x_text)]
    found = (cells.state == DONE).groupby(keys).transform("any")
    return cells[found] if found.any() else cells


def _points(
    axis: Axes, cells: pd.DataFrame, metric: str, printed: pd.DataFrame, looks: Mapping[str, Look]
) -> None:
    """One row per rule: its seeds, their mean, and the paper's number as an upright bar."""
    rules = list(cells.groupby(["aggregator", "label"], sort=False))
    for position, ((rule, _), here) in enumerate(rules):
        color = looks[rule].color
        rates = [(metric, "full", 0.0)]
        if metric == "attack_success_rate":
            rates.append((f"{metric}_excl_target", "none", 0.24))
        for rate, fill, below in rates:
            values = 100 * here[rate].dropna()
            place = position + below
            axis.plot(values, [place] * len(values), "o", color=color, ms=3, alpha=0.6)
            if len(values):
                axis.plot(values.mean(), place, "D", color=color, ms=5.5, fillstyle=fill)
        number = printed[(printed.aggregator == rule) & (printed.metric == metric)]
        for value in 100 * number.value:
            axis.plot(value, position, marker="|", markersize=15, markeredgewidth=1.6,
                      color=style.INK)  # fmt: skip
    axis.set_yticks(range(len(rules)), [label for (_, label), _ in rules])
    axis.set_ylim(len(rules) - 0.4, -0.6)
    axis.xaxis.set_major_locator(MaxNLocator(6))


def _strongest(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of the strongest level of one attack and its first seed, one per rule."""
    plain = cells[cells.changes.map(lambda c: not (c.get("aggregator") or c.get("task")))]
    cells = cells if plain.empty else plain
    level = cells.changes.map(lambda c: max([0, *map(_number, (c.get("attack") or {}).values())]))
    level = level.where(level > 0, cells.x.map(_number))
    order = pd.DataFrame({"n": cells.n_attackers, "level": level})
    strongest = order.sort_values(["n", "level"]).iloc[-1]
    here = cells[(order == strongest).all(axis=1)]
    return here[here.seed == here.seed.min()].drop_duplicates("aggregator")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _heat_map(axis: Axes, cell, rows: pd.DataFrame):
    values = rows.pivot(index="client", columns="round", values="weight")
    attackers = set(cell.attackers)
    clients = sorted(values.index, key=lambda k: (k in attackers, k))
    # A round's weights as multiples of an equal share among those who took part.
    share = values.mean()
    values = (values / share.where(share > 0, 1)).loc[clients]
    rounds, n_honest = list(values.columns), len(clients) - len(attackers & set(clients))
    axis.set_facecolor("#9A9AA0")
    image = axis.imshow(
        values, aspect="auto", cmap="PuOr_r", interpolation="nearest",
        norm=TwoSlopeNorm(1, 0, HEAVIEST),
    )  # fmt: skip
    axis.plot([-0.5 - 0.02 * len(rounds)] * 2, [n_honest - 0.5, len(clients) - 0.5],
              color=style.ATTACKER, lw=5, clip_on=False, solid_capstyle="butt")  # fmt: skip
    axis.axhline(n_honest - 0.5, color=style.ATTACKER, lw=1)
    last = len(rounds) - 1
    axis.set_xticks([0, last], [rounds[0], rounds[last]])
    axis.set_yticks([])
    axis.set_xlim(-0.5, last + 0.5)
    axis.set_ylim(len(clients) - 0.5, -0.5)
    axis.grid(visible=False)
    axis.set_xlabel("round", labelpad=-8)
    some = len(clients) < cell.n_clients
    of_all = f"{len(clients)} of {cell.n_clients:.0f}" if some else len(clients)
    axis.set_ylabel(f"{of_all} clients", labelpad=9)
    swept = captions.scenario("", cell.x_name, cell.x) if cell.x_name != "n_attackers" else ""
    name, n_attackers = captions.panel_title(cell.attack), int(cell.n_attackers)
    attack = ", ".join(filter(None, [name, captions.counted(n_attackers, "attacker"), swept]))
    axis.set_title(
        f"{cell.label}: {captions.task_name(cell.task)}\n{attack}", loc="left", fontsize=9
    )
    return image


def _paper_sentence(cells: pd.DataFrame, numbers: PaperNumbers, marks: str = "Dashed") -> str:
    if numbers.values.empty:
        return ""
    sources = captions.listed(list(dict.fromkeys(numbers.values.source)))
    sentence = f"{marks}: the paper ({sources})"
    shared = (cells.x_name == "n_attackers").any()
    if shared and numbers.participants(cells) != numbers.n_clients:
        sentence += f", {numbers.n_clients} participants, drawn at the same share of attackers"
    return sentence + "."


def _alt(curves: Mapping[tuple[str, str], pd.DataFrame], labels: Mapping[str, str]) -> str:
    """Where each line begins and ends."""
    parts = []
    for (panel, rule), curve in curves.items():
        known = curve["mean"].dropna()
        if len(known):
            name = ", ".join(filter(None, [captions.panel_title(panel), labels[rule]]))
            parts.append(f"{name} from {known.iloc[0]:.0f} to {known.iloc[-1]:.0f} %")
    return f"Accuracy over the sweep: {'; '.join(parts)}."
