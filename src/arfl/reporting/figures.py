"""Every figure of the paper, and those it argues but does not plot, drawn from collected CSV.

Each function takes what it draws and gives back a matplotlib figure; `draw` picks one by the
target's name and saves it. Colours, fonts and layout are in `style`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from arfl.errors import UserError
from arfl.reporting import captions, paper, style, timing
from arfl.reporting.collect import CellRow, Collected, PartitionRow, read_csv
from arfl.reporting.compare import mean_std, unique
from arfl.reporting.paper import PaperNumbers

BARS = "Error bars: standard deviation over the seeds."
BAND = "Lines: mean over the seeds; band: their standard deviation."
CATEGORIES = "categories"
CODE = "Computed without any training or data."
HEAVIEST = 2
# A heat map of more scenarios than this is taller than a page.
MAX_WEIGHT_ROWS = 8


def sweep(cells: Sequence[CellRow], numbers: PaperNumbers, target: str) -> Figure:
    """Accuracy against the swept value, one panel per panel of the target, the paper's dashed."""
    panels = unique(c.panel for c in cells)
    width = 6.6 if len(panels) == 1 else 3.9
    figure, axes = style.grid(len(panels), columns=3, panel_width=width, panel_height=3.8)
    looks = style.looks(c.aggregator for c in cells)
    for axis, panel in zip(axes, panels, strict=True):
        in_panel = [c for c in cells if c.panel == panel]
        for aggregator in unique(c.aggregator for c in in_panel):
            line = [c for c in in_panel if c.aggregator == aggregator]
            _sweep_line(axis, line, looks[aggregator])
            _paper_line(axis, line, numbers, looks[aggregator], numbers.participants(cells))
        _sweep_axes(axis, in_panel, panel)
    _share_heights([a for a in axes if a.get_label() != CATEGORIES])
    axes[0].set_ylabel("accuracy (%)")
    handles = [_handle(looks[c.aggregator], c.label) for c in _one_each(cells)]
    sentences = [captions.caption(cells), BARS]
    if numbers.values:
        handles.append(Line2D([], [], color=style.INK, label="the paper", **style.PAPER_LINE))
        sentences.append(_paper_sentence(cells, numbers))
    style.finish(figure, captions.title(target), " ".join(sentences), handles)
    return figure


def backdoors(cells: Sequence[CellRow], numbers: PaperNumbers, target: str) -> Figure:
    """Accuracy and attack success rate of every rule, a row of panels per scenario."""
    panels = unique(c.panel for c in cells)
    figure, axes = style.grid(2 * len(panels), columns=2, panel_width=4.2, panel_height=2.4)
    looks = style.looks(c.aggregator for c in cells)
    for row, panel in enumerate(panels):
        in_panel = [c for c in cells if c.panel == panel]
        accuracy, success = axes[2 * row : 2 * row + 2]
        _dots(accuracy, in_panel, "accuracy", numbers, looks)
        _dots(success, in_panel, "attack_success_rate_excl_target", numbers, looks, hollow=True)
        _dots(success, in_panel, "attack_success_rate", numbers, looks)
        success.set_yticklabels([])
        accuracy.set_title(f"{captions.panel_title(panel)}: accuracy (%)", loc="left")
        success.set_title("attack success rate (%)", loc="left")
        success.set_xlim(-4, 104)
    dot = {"color": style.INK, "linestyle": "", "marker": "o"}
    handles = [
        Line2D([], [], label="measured, as the paper counts", **dot),
        Line2D([], [], label="measured, target class left out", fillstyle="none", **dot),
        Line2D([], [], color=style.INK, linestyle="", marker="|", markersize=13, label="the paper"),
    ]
    caption = f"{captions.caption(cells)} {BARS} {_paper_sentence(cells, numbers, 'Bars')}"
    style.finish(figure, captions.title(target), caption, handles)
    return figure


def by_round(collected: Collected, metric: str, target: str) -> Figure | None:
    """A rate after every round, one panel per scenario; None if no cell has that rate."""
    cells = [c for c in collected.cells if c.done and getattr(c, metric) is not None]
    if not cells:
        return None
    series: dict[str, list[float]] = {}
    for entry in collected.rounds:
        series.setdefault(entry.cell_id, []).append(getattr(entry, metric))
    scenarios = unique((c.panel, c.x) for c in cells)
    width, height = (6.6, 3.8) if len(scenarios) == 1 else (3.5, 2.6)
    columns = 2 if len(scenarios) == 4 else 3
    figure, axes = style.grid(len(scenarios), columns, width, height, sharex=True, sharey=True)
    looks = style.looks(c.aggregator for c in collected.cells)
    for axis, (panel, x) in zip(axes, scenarios, strict=True):
        here = [c for c in cells if (c.panel, c.x) == (panel, x)]
        for aggregator in unique(c.aggregator for c in here):
            curves = [series[c.cell_id] for c in here if c.aggregator == aggregator]
            _band(axis, 100 * np.array(curves, dtype=float), looks[aggregator])
        axis.set_title(_scenario(here[0]), loc="left")
        axis.set_ylim(-3, 103)
        axis.locator_params(nbins=5)
    for axis in axes[-3:]:
        axis.set_xlabel("round")
    axes[0].set_ylabel(captions.METRICS[metric].split(",")[0].lower() + " (%)")
    handles = [_handle(looks[c.aggregator], c.label, markers=False) for c in _one_each(cells)]
    caption = f"{captions.METRICS[metric]}. {captions.caption(collected.cells)} {BAND}"
    title = captions.title(target)
    if target != "figure4":
        title += ", by round"
    style.finish(figure, title, caption, handles, left=0.7)
    return figure


def weights(collected: Collected) -> Figure | None:
    """Heat maps of the clients' weights over the rounds, of the strongest attack of each kind.

    One row per (task, attack), one column per rule that weighs clients unevenly; the first seed
    that has a record. None if no rule does.
    """
    by_cell: dict[str, list] = {}
    for row in collected.weights:
        by_cell.setdefault(row.cell_id, []).append(row)
    scenarios = _weight_scenarios(collected.cells, by_cell)[:MAX_WEIGHT_ROWS]
    if not scenarios:
        return None
    rules = unique(c.aggregator for cells in scenarios for c in cells)
    figure, axes = style.grid(
        len(scenarios) * len(rules), columns=len(rules), panel_width=max(4.2, 7 / len(rules)),
        panel_height=2.1,
    )  # fmt: skip
    for row, cells in enumerate(scenarios):
        for column, rule in enumerate(rules):
            axis = axes[row * len(rules) + column]
            cell = next((c for c in cells if c.aggregator == rule), None)
            if cell is None:
                axis.set_axis_off()
            else:
                _heat_map(axis, cell, by_cell[cell.cell_id])
    shades = matplotlib.colormaps["cividis"](np.linspace(0, 1, 5))
    levels = (f"{level:g}" for level in np.linspace(0, HEAVIEST, 5))
    handles = [Patch(color=s, label=level) for s, level in zip(shades, levels, strict=True)]
    handles[-1].set_label(f"{HEAVIEST} or more")
    handles.append(Patch(color=style.ATTACKER, label="attackers"))
    caption = (
        "Each client's weight as a multiple of an equal share (1 = plain average); clients sorted "
        "with the attackers last, white where a client took no part; the strongest attack of each "
        "kind, one seed; rules that weigh all clients alike are left out. "
        f"{captions.caption(collected.cells)}"
    )
    style.finish(figure, captions.title("weights"), caption, handles, legend_columns=6)
    return figure


def seconds(cells: Sequence[CellRow]) -> Figure | None:
    """Milliseconds of aggregation per round, one panel per task; None without any record."""
    rows = timing.summarise(cells)
    if not rows:
        return None
    tasks = unique((r.task, r.n_clients, r.device) for r in rows)
    figure, axes = style.grid(len(tasks), columns=2, panel_width=4.2, panel_height=2.4)
    looks = style.looks(r.aggregator for r in rows)
    for axis, (task, n_clients, device) in zip(axes, tasks, strict=True):
        here = [r for r in rows if (r.task, r.n_clients, r.device) == (task, n_clients, device)]
        for position, row in enumerate(here):
            look = looks[row.aggregator]
            milliseconds = 1000 * row.aggregation_per_round
            axis.plot(milliseconds, position, color=look.color, marker=look.marker, markersize=7)
            axis.annotate(
                f"{milliseconds:.3g}", (milliseconds, position), xytext=(7, 0), fontsize=8,
                textcoords="offset points", va="center",
            )  # fmt: skip
        axis.set_yticks(range(len(here)), [r.label for r in here])
        axis.set_ylim(len(here) - 0.5, -0.5)
        style.decades(axis, "x")
        axis.set_title(f"{task}, {n_clients} clients", loc="left")
    for axis in axes[-2:]:
        axis.set_xlabel("aggregation, ms a round")
    devices = ", ".join(unique(r.device for r in rows))
    caption = f"Measured on {devices}. {timing.RULE} {captions.caption(cells)}"
    style.finish(figure, captions.title("timing"), caption)
    return figure


def partitions(rows: Sequence[PartitionRow], cells: Sequence[CellRow]) -> Figure:
    """Which classes each client holds, one panel per task, of the first seed."""
    tasks = unique(r.task for r in rows)
    figure, axes = style.grid(len(tasks), columns=2, panel_width=4.4, panel_height=2.6)
    for axis, task in zip(axes, tasks, strict=True):
        seed = min(r.seed for r in rows if r.task == task)
        counts = np.array([r.class_counts for r in rows if (r.task, r.seed) == (task, seed)])
        image = axis.imshow(counts.T, aspect="auto", cmap="Blues", interpolation="nearest")
        axis.set_title(f"{task}, seed {seed}", loc="left")
        axis.set_xlabel("client")
        axis.set_ylabel("class")
        axis.grid(visible=False)
        figure.colorbar(image, ax=axis, label="samples")
    caption = f"Training samples of each class at each client. {captions.caption(cells)}"
    style.finish(figure, "Partitions of the training data", caption)
    return figure


def confidence(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Figure 2: confidence against the normalised residual, a panel per (K, δ), a line per λ.

    ``rows`` have the columns n_clients, lam, delta, normalised_residual and confidence, see
    `arfl.studies.confidence`. The zones of the paper's figure are shaded for its λ = 2.
    """
    table = _columns(rows, ("n_clients", "lam", "delta", "normalised_residual", "confidence"))
    panels = unique(zip(table["n_clients"], table["delta"], strict=True))
    lams = unique(table["lam"])
    looks = dict(zip(lams, style.spare_looks(len(lams)), strict=True))
    figure, axes = style.grid(
        len(panels), columns=2, panel_width=4.2, panel_height=2.7, sharex=True, sharey=True
    )
    for axis, (n_clients, delta) in zip(axes, panels, strict=True):
        for lam, look in looks.items():
            here = (
                (table["n_clients"] == n_clients)
                & (table["delta"] == delta)
                & (table["lam"] == lam)
            )
            x, y = table["normalised_residual"][here], table["confidence"][here]
            axis.plot(x, y, **look.line_style(markers=False))
            if lam == PAPER_LAMBDA:
                _shade(axis, x, y)
        axis.set_title(f"K = {n_clients:g}, δ = {delta:g}", loc="left")
        # Linear up to 1, where the confidence is 1; the zones end at tens of that.
        axis.set_xscale("symlog", linthresh=1)
        axis.set_ylim(-0.04, 1.08)
    for axis in axes[-2:]:
        axis.set_xlabel("normalised residual e")
    for axis in axes[::2]:
        axis.set_ylabel("confidence w")
    handles = [_handle(look, f"λ = {lam:g}", markers=False) for lam, look in looks.items()]
    caption = (
        "Shaded for λ = 2 as in the paper: confidence 1 (green), falling (orange), 0 (none). The "
        f"axis is linear from −1 to 1 and logarithmic beyond. {CODE}"
    )
    style.finish(figure, captions.title("figure2"), caption, handles)
    return figure


def theory(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Equation 14: the simulated error against each quantity of the bound, beside the bound.

    ``rows`` have the columns n_clients, n_samples, corruption, delta, error, error_mean,
    error_median, error_standard_error and rate, see `arfl.studies.theory`. Each panel varies one
    quantity and holds the others at the middle of their values.
    """
    swept = tuple(THEORY_LABELS)
    table = _columns(rows, (*swept, *THEORY_ERRORS, "error_standard_error", "rate"))
    middle = {q: np.unique(table[q])[len(np.unique(table[q])) // 2] for q in swept}
    constant = float(np.max(table["error"] / table["rate"]))
    figure, axes = style.grid(len(swept), columns=2, panel_width=4.2, panel_height=2.9)
    for axis, quantity in zip(axes, swept, strict=True):
        held = [table[q] == middle[q] for q in swept if q != quantity]
        here = np.flatnonzero(np.logical_and.reduce(held))
        here = here[np.argsort(table[quantity][here])]
        x = table[quantity][here]
        for column, rule in THEORY_ERRORS.items():
            look = style.looks([rule])[rule]
            errors = 1.96 * table["error_standard_error"][here] if column == "error" else None
            axis.errorbar(x, table[column][here], yerr=errors, capsize=2.5, **look.line_style())
        axis.plot(x, constant * table["rate"][here], color="#555555", **style.PAPER_LINE)
        axis.set_xlabel(THEORY_LABELS[quantity])
        style.decades(axis, "y")
        if x[0] > 0:
            axis.set_xscale("log")
    for axis in axes[::2]:
        axis.set_ylabel("mean absolute error")
    names = {"error": "residual reweighting", "error_mean": "mean", "error_median": "median"}
    handles = [_handle(style.looks([r])[r], names[c]) for c, r in THEORY_ERRORS.items()]
    handles.append(
        Line2D([], [], color="#555555", label=f"{constant:.2g} × Eq. 14", **style.PAPER_LINE)
    )
    held = ", ".join(f"{THEORY_LABELS[q].split()[-1]} = {v:g}" for q, v in middle.items())
    caption = (
        f"Held where not varied: {held}. Error bars: 95 %. Eq. 14 leaves its constant open; dashed "
        f"with the smallest one that bounds every simulated error of the rule. {CODE}"
    )
    style.finish(figure, captions.title("theory"), caption, handles)
    return figure


def trigger(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Figure 5: ``triggered`` beside ``clean``, (H, W) or (H, W, 3) uint8, ``note`` below."""
    figure, axes = style.grid(2, columns=2, panel_width=3.2, panel_height=3.2)
    for axis, name in zip(axes, ("clean", "triggered"), strict=True):
        axis.imshow(arrays[name], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(name, loc="left")
        axis.set_axis_off()
    style.finish(figure, captions.title("figure5"), str(arrays["note"]))
    return figure


PAPER_LAMBDA = 2.0
THEORY_LABELS = {
    "n_clients": "number of clients K",
    "n_samples": "samples per client S",
    "corruption": "share of corrupted clients α",
    "delta": "threshold δ",
}
# The columns of errors, each with the rule whose look it takes.
THEORY_ERRORS = {"error": "residual_reweighting", "error_mean": "fedavg", "error_median": "median"}
_SWEEPS = ("figure3", "table1", "table2", "table4", "hyperparameters")
_BACKDOORS = ("table3", "loan")
_STUDIES: dict[str, Callable] = {"figure2": confidence, "theory": theory}
TARGETS = (*_SWEEPS, *_BACKDOORS, "figure4", "weights", "timing", *_STUDIES, "figure5")


def make(collected_dir: str | Path, target: str, paper_dir: str | Path) -> Figure:
    """The figure of one target.

    Args:
        collected_dir: folder with the target's collected CSV; for figure2 and theory with
            ``<target>.csv``, for figure5 with ``figure5.npz``, as the studies write them.
        target: one of `TARGETS`.
        paper_dir: folder with the paper's numbers.

    Raises:
        UserError: for another target, or where nothing can be read or drawn.
    """
    if target not in TARGETS:
        raise UserError(f"{target} has no figure; figures are {', '.join(TARGETS)}")
    if target in _STUDIES:
        return _study(Path(collected_dir) / f"{target}.csv", _STUDIES[target])
    if target == "figure5":
        return trigger(_arrays(Path(collected_dir) / "figure5.npz"))
    collected = Collected(collected_dir)
    figure = _of_cells(collected, target, paper.load(paper_dir, target))
    if figure is None:
        # An incomplete grid still renders, and says that it is empty.
        return style.empty(captions.title(target), captions.caption(collected.cells))
    return figure


def draw(
    collected_dir: str | Path, target: str, paper_dir: str | Path, out_prefix: str | Path
) -> None:
    """Draw one target into ``<out_prefix>.png`` and ``.pdf``; see `make`."""
    style.save(make(collected_dir, target, paper_dir), out_prefix)


def _of_cells(collected: Collected, target: str, numbers: PaperNumbers) -> Figure | None:
    if not collected.cells:
        return None
    if target in _SWEEPS:
        return sweep(collected.cells, numbers, target)
    if target in _BACKDOORS:
        return backdoors(collected.cells, numbers, target)
    if target == "figure4":
        return by_round(collected, "attack_success_rate", target)
    return weights(collected) if target == "weights" else seconds(collected.cells)


def _study(path: Path, function: Callable) -> Figure:
    rows = read_csv(path)
    if not rows:
        raise UserError(f"{path} has no rows; delete it and run its step again")
    try:
        return function(rows)
    except (KeyError, ValueError) as problem:
        raise UserError(f"{path} does not have the expected columns: {problem!r}") from None


def _columns(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ("clean", "triggered", "note")}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the step that makes it first") from None
    except (KeyError, ValueError) as problem:
        raise UserError(f"{path} lacks its arrays ({problem}); make it again") from None


def _sweep_line(axis: Axes, cells: list[CellRow], look: style.Look) -> None:
    points = []
    for x in unique(c.x for c in cells):
        mean, std = mean_std([c.accuracy for c in cells if c.x == x and c.accuracy is not None])
        if mean is not None:
            points.append((x, 100 * mean, 100 * (std or 0)))
    if points:
        x, mean, std = zip(*sorted(points), strict=True)
        line = look.line_style()
        if isinstance(x[0], str):
            line["linestyle"] = ""
        axis.errorbar(x, mean, yerr=std, capsize=2.5, elinewidth=1, **line)


def _paper_line(
    axis: Axes,
    cells: list[CellRow],
    numbers: PaperNumbers,
    look: style.Look,
    n_clients: int | None,
) -> None:
    curve = numbers.curve(cells[0].panel, cells[0].aggregator, "accuracy")
    by_share = cells[0].x_name == "n_attackers"
    if not curve or (by_share and n_clients is None):
        return
    x, y = np.array(curve).T
    if by_share:
        # The same share of attackers stands at the same place: 10 of 100 where our 2 of 20 are.
        x = x * (n_clients / numbers.n_clients)
    axis.plot(x, 100 * y, color=look.color, zorder=1, **style.PAPER_LINE)


def _share_heights(axes: Sequence[Axes]) -> None:
    """One range of y for panels that are to be compared."""
    limits = [a.get_ylim() for a in axes]
    for axis in axes:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _sweep_axes(axis: Axes, cells: list[CellRow], panel: str) -> None:
    x_name = cells[0].x_name
    label = captions.X_LABELS.get(x_name, x_name)
    n_clients = max((c.n_clients for c in cells if c.done), default=None)
    if x_name == "n_attackers" and n_clients:
        label += f" (of {n_clients})"
    axis.set_xlabel(label)
    xs = unique(c.x for c in cells)
    if isinstance(xs[0], str):
        axis.set_label(CATEGORIES)
        axis.margins(x=0.35)
    else:
        if x_name in ("delta", "lam") and min(xs) > 0:
            axis.set_xscale("log")
            axis.minorticks_off()
        axis.set_xticks(xs, [captions.x_text(x) for x in xs])
    if panel:
        axis.set_title(captions.panel_title(panel), loc="left")


def _dots(
    axis: Axes,
    cells: list[CellRow],
    metric: str,
    numbers: PaperNumbers,
    looks: Mapping[str, style.Look],
    hollow: bool = False,
) -> None:
    """One row per rule: our mean with its spread, and the paper's number as a bar."""
    rows = _one_each(cells)
    for position, row in enumerate(rows):
        mean, std = mean_std(
            [v for c in cells if c.aggregator == row.aggregator
             and (v := getattr(c, metric)) is not None]
        )  # fmt: skip
        look = looks[row.aggregator]
        place = position + (0.22 if hollow else 0)
        if mean is not None:
            axis.errorbar(
                100 * mean, place, xerr=100 * (std or 0), color=look.color, marker="o",
                markersize=6, capsize=2.5, elinewidth=1, fillstyle="none" if hollow else "full",
            )  # fmt: skip
        printed = numbers.values.get((row.panel, row.aggregator, metric, None))
        if printed:
            axis.plot(100 * printed.value, place, marker="|", markersize=13, markeredgewidth=1.6,
                      color=style.INK)  # fmt: skip
    axis.set_yticks(range(len(rows)), [r.label for r in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)


def _band(axis: Axes, curves: np.ndarray, look: style.Look) -> None:
    """``curves``: (seeds, rounds) in percent."""
    rounds = np.arange(1, curves.shape[1] + 1)
    mean = curves.mean(0)
    axis.plot(rounds, mean, **look.line_style(markers=False))
    if len(curves) > 1:
        std = curves.std(0, ddof=1)
        axis.fill_between(rounds, mean - std, mean + std, color=look.color, alpha=0.15, lw=0)


def _weight_scenarios(cells: Sequence[CellRow], by_cell: Mapping[str, list]) -> list[list[CellRow]]:
    """The cells to show: the strongest level of each (task, attack), one cell per rule."""
    weighing = [c for c in cells if c.cell_id in by_cell and c.attackers]
    scenarios = []
    for task, attack in unique((c.task, c.attack) for c in weighing):
        here = [c for c in weighing if (c.task, c.attack) == (task, attack)]
        strongest = max(map(_strength, here))
        here = [c for c in here if _strength(c) == strongest]
        seed = min(c.seed for c in here)
        scenarios.append(_one_each([c for c in here if c.seed == seed]))
    return scenarios


def _strength(cell: CellRow) -> tuple:
    """What is swept of an attack, to be compared: the attackers, then the numbers changed."""
    numbers = (v for v in cell.changes["attack"].values() if isinstance(v, int | float))
    return cell.n_attackers, *numbers


def _heat_map(axis: Axes, cell: CellRow, rows: list) -> None:
    rounds = unique(w.round for w in rows)
    attackers = set(cell.attackers)
    clients = sorted({w.client for w in rows}, key=lambda k: (k in attackers, k))
    values = np.full((len(clients), len(rounds)), np.nan)
    row_of = {k: i for i, k in enumerate(clients)}
    column_of = {r: i for i, r in enumerate(rounds)}
    for w in rows:
        values[row_of[w.client], column_of[w.round]] = w.weight
    # A round's weights as multiples of an equal share among those who took part.
    share = np.nansum(values, axis=0) / np.sum(~np.isnan(values), axis=0)
    values = values / np.where(share > 0, share, 1)
    axis.imshow(
        values, aspect="auto", cmap="cividis", interpolation="nearest", vmin=0, vmax=HEAVIEST
    )
    n_honest = len(clients) - len(attackers & set(clients))
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
    axis.set_ylabel(f"{len(clients)} clients", labelpad=9)
    axis.set_title(f"{cell.label}: {cell.task}\n{_attack(cell)}", loc="left", fontsize=9)


def _attack(cell: CellRow) -> str:
    attackers = captions.counted(cell.n_attackers, "attacker")
    changes = [_equation(name, value) for name, value in cell.changes["attack"].items()]
    return ", ".join([cell.attack.replace("_", " "), attackers, *changes])


def _equation(name: str, value: float | str | bool | None) -> str:
    symbols = {"n_attackers": "attackers", "noise_std": "σ", "delta": "δ", "lam": "λ"}
    return f"{symbols.get(name, name)} = {captions.x_text(value)}"


def _shade(axis: Axes, x: np.ndarray, y: np.ndarray) -> None:
    trusted, counted = x[y >= 1 - 1e-9], x[y > 0]
    axis.axvspan(trusted[0], trusted[-1], color="#009E73", alpha=0.18, lw=0)
    for side in ((counted[0], trusted[0]), (trusted[-1], counted[-1])):
        axis.axvspan(*side, color="#E69F00", alpha=0.18, lw=0)


def _scenario(cell: CellRow) -> str:
    parts = [captions.panel_title(cell.panel)] if cell.panel else []
    if cell.x is not None:
        parts.append(_equation(cell.x_name, cell.x))
    return ", ".join(parts)


def _paper_sentence(cells: Sequence[CellRow], numbers: PaperNumbers, marks: str = "Dashed") -> str:
    if not numbers.values:
        return ""
    sources = unique(value.source for value in numbers.values.values())
    sentence = f"{marks}: the paper ({', '.join(sources)})"
    if cells[0].x_name == "n_attackers" and numbers.participants(cells) != numbers.n_clients:
        sentence += f", {numbers.n_clients} participants, drawn at the same share of attackers"
    return sentence + "."


def _one_each(cells: Sequence[CellRow]) -> list[CellRow]:
    """The first cell of each aggregator, in order."""
    first: dict[str, CellRow] = {}
    for c in cells:
        first.setdefault(c.aggregator, c)
    return list(first.values())


def _handle(look: style.Look, label: str, markers: bool = True) -> Line2D:
    return Line2D([], [], label=label, **look.line_style(markers))
