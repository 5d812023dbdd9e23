"""Every figure of the paper, and those it argues but does not plot, drawn from collected CSV.

Each function takes what it draws and gives back a matplotlib figure; `draw` picks one by the
target's name and saves it. Colours, fonts and layout are in `style`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arfl.reporting import captions, paper, style
from arfl.reporting.collect import CellRow, load
from arfl.reporting.compare import mean_std, unique
from arfl.reporting.paper import PaperNumbers

SPREAD = "Error bars: standard deviation over the seeds."


def sweep(cells: Sequence[CellRow], numbers: PaperNumbers, target: str) -> Figure:
    """Accuracy against the swept value, one panel per panel of the target, the paper's dashed."""
    panels = unique(c.panel for c in cells)
    figure, axes = style.grid(len(panels), columns=2, panel_width=6.6 / min(len(panels), 1.6),
                              panel_height=3.9, sharey=True)  # fmt: skip
    looks = style.looks(c.aggregator for c in cells)
    for axis, panel in zip(axes, panels, strict=True):
        in_panel = [c for c in cells if c.panel == panel]
        for aggregator, look in looks.items():
            line = [c for c in in_panel if c.aggregator == aggregator]
            if line:
                _sweep_line(axis, line, look)
                _paper_line(axis, line, numbers, look)
        _sweep_axes(axis, in_panel, panel)
    handles = [_handle(looks[c.aggregator], c.label) for c in _one_each(cells)]
    sentences = [captions.caption(cells), SPREAD]
    if numbers.values:
        handles.append(Line2D([], [], color=style.INK, label="the paper", **style.PAPER_LINE))
        sentences.append(_paper_sentence(cells, numbers))
    style.finish(figure, captions.title(target), " ".join(sentences), handles)
    return figure


def _sweep_line(axis: Axes, cells: list[CellRow], look: style.Look) -> None:
    points = []
    for x in unique(c.x for c in cells):
        mean, std = mean_std([c.accuracy for c in cells if c.x == x and c.accuracy is not None])
        if mean is not None:
            points.append((x, 100 * mean, 100 * (std or 0)))
    if points:
        x, mean, std = zip(*sorted(points), strict=True)
        axis.errorbar(x, mean, yerr=std, capsize=2.5, elinewidth=1, **look.line_style())


def _paper_line(axis: Axes, cells: list[CellRow], numbers: PaperNumbers, look: style.Look) -> None:
    curve = numbers.curve(cells[0].panel, cells[0].aggregator, "accuracy")
    n_clients = next((c.n_clients for c in cells if c.done), numbers.n_clients)
    # The same share of attackers stands at the same place: 10 of 100 where our 2 of 20 are.
    scale = 1.0
    if cells[0].x_name == "n_attackers" and curve:
        scale = n_clients / numbers.n_clients
    if curve:
        x, y = np.array(curve).T
        axis.plot(x * scale, 100 * y, color=look.color, zorder=1, **style.PAPER_LINE)


def _sweep_axes(axis: Axes, cells: list[CellRow], panel: str) -> None:
    x_name = cells[0].x_name
    label = captions.X_LABELS.get(x_name, x_name)
    n_clients = max((c.n_clients for c in cells if c.done), default=None)
    if x_name == "n_attackers" and n_clients:
        label += f" (of {n_clients})"
    axis.set_xlabel(label)
    axis.set_ylabel("accuracy (%)")
    xs = sorted({c.x for c in cells})
    if x_name in ("delta", "lam") and xs[0] > 0:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(xs, [captions.x_text(x) for x in xs])
    if panel:
        axis.set_title(captions.panel_title(panel), loc="left")


def _paper_sentence(cells: Sequence[CellRow], numbers: PaperNumbers) -> str:
    sources = unique(value.source for value in numbers.values.values())
    sentence = f"Dashed: the paper ({', '.join(sources)})"
    n_clients = next((c.n_clients for c in cells if c.done), numbers.n_clients)
    if cells[0].x_name == "n_attackers" and n_clients != numbers.n_clients:
        sentence += f", {numbers.n_clients} participants, drawn at the same share of attackers"
    return sentence + "."


def _one_each(cells: Sequence[CellRow]) -> list[CellRow]:
    """The first cell of each aggregator."""
    return list({c.aggregator: c for c in reversed(cells)}.values())[::-1]


def _handle(look: style.Look, label: str, markers: bool = True) -> Line2D:
    return Line2D([], [], label=label, **look.line_style(markers))


def draw(
    collected_dir: str | Path, target: str, paper_dir: str | Path, out_prefix: str | Path
) -> None:
    """Draw one target into ``<out_prefix>.png`` and ``.pdf``."""
    cells = load(collected_dir).cells
    style.save(sweep(cells, paper.load(paper_dir, target), target), out_prefix)
