"""One look for every figure: a palette safe for colour-blind readers and for grey print.

Colours are those of Okabe and Ito (2008); a rule is also told by its marker and its line style,
because several of the colours are the same grey.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from arfl.files import atomic_path, write_json

DPI = 160
INK = "#222222"
SOFT = "#B8B8BE"
PAPER_LINE = {
    "color": INK, "linewidth": 1.2, "linestyle": (0, (3, 2)), "marker": "o", "markersize": 4,
    "markerfacecolor": "white",
}  # fmt: skip
ATTACKER = "#D55E00"


@dataclass(frozen=True)
class Look:
    """How one aggregator is drawn."""

    color: str
    marker: str
    line: object

    def line_style(self, markers: bool = True) -> dict:
        """Keyword arguments for a line of this aggregator."""
        look = {"color": self.color, "linestyle": self.line, "linewidth": 1.8}
        if markers:
            size = 9 if self.marker == "*" else 5.5
            look |= {"marker": self.marker, "markersize": size, "markeredgewidth": 0.8}
        return look


_LOOKS = {
    "fedavg": Look("#000000", "o", "-"),
    "median": Look("#E69F00", "s", (0, (5, 1.5))),
    "trimmed_mean": Look("#56B4E9", "^", (0, (5, 1.5, 1, 1.5))),
    "repeated_median": Look("#009E73", "D", (0, (1.5, 1.2))),
    "foolsgold": Look("#CC79A7", "v", (0, (8, 1.5))),
    "residual_reweighting": Look("#D55E00", "*", "-"),
}
_OTHERS = (
    Look("#0072B2", "P", (0, (6, 1, 1, 1, 1, 1))),
    Look("#7A7A7A", "X", (0, (2, 2))),
    Look("#8C510A", "<", "-"),
    Look("#5E3C99", ">", (0, (4, 4))),
)

# It reports every glyph that it puts into a PDF.
logging.getLogger("fontTools").setLevel(logging.WARNING)
matplotlib.rcParams.update(
    {
        "figure.dpi": 100,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.labelsize": 10,
        "legend.fontsize": 9,
        "text.color": INK,
        "axes.edgecolor": "#666666",
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#E4E4E4",
        "grid.linewidth": 0.7,
        "axes.axisbelow": True,
        "pdf.fonttype": 42,
        "svg.fonttype": "path",
        # Without it each run names the parts of an SVG anew.
        "svg.hashsalt": "arfl",
        "figure.constrained_layout.use": True,
    }
)


def looks(aggregators: Iterable[str]) -> dict[str, Look]:
    """A look for every aggregator; those without one of their own get the spare ones in turn."""
    aggregators = list(dict.fromkeys(aggregators))
    others = [a for a in aggregators if a not in _LOOKS]
    spare = {a: _OTHERS[i % len(_OTHERS)] for i, a in enumerate(others)}
    return {a: _LOOKS.get(a) or spare[a] for a in aggregators}


def decades(axis: Axes, which: str) -> None:
    """Make an axis logarithmic, with whole decades as limits and as the only labels."""
    getattr(axis, f"set_{which}scale")("log")
    low, high = getattr(axis, f"get_{which}lim")()
    limits = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
    getattr(axis, f"set_{which}lim")(*limits)
    getattr(axis, f"{which}axis").set_minor_formatter(NullFormatter())


def spare_looks(count: int) -> list[Look]:
    """Looks for lines that are not aggregators."""
    return [_OTHERS[i % len(_OTHERS)] for i in range(count)]


def grid(
    n_panels: int, columns: int, panel_width: float = 3.2, panel_height: float = 2.4, **options
) -> tuple[Figure, list[Axes]]:
    """A figure with ``n_panels`` axes in rows of at most ``columns``; spare places stay empty."""
    columns = min(columns, n_panels)
    rows = -(-n_panels // columns)
    # Without pyplot: it keeps every figure until told to forget it, and looks for a display.
    figure = Figure(figsize=(max(panel_width * columns, 4.8), panel_height * rows + 0.3))
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for spare in axes[n_panels:]:
        spare.set_visible(False)
    # With shared axes only the bottom row has tick labels, so the last of each column gets its own.
    for axis in axes[max(0, n_panels - columns) : n_panels]:
        axis.tick_params(labelbottom=True)
    return figure, axes[:n_panels]


@dataclass(frozen=True)
class Drawing:
    """A figure with its words.

    Attributes:
        figure: without title and caption: a page has them as text.
        title: heading.
        caption: what is shown.
        source: from which records.
        alt: what is seen, for those who cannot see it.
    """

    figure: Figure
    title: str
    caption: str
    source: str
    alt: str


def empty(title: str, source: str) -> Drawing:
    """A figure that says that there is nothing to draw yet."""
    figure, (axis,) = grid(1, columns=1, panel_width=6.6, panel_height=1.2)
    axis.text(0.5, 0.5, "no records to draw yet", ha="center", va="center", color="#777777")
    axis.set_axis_off()
    return Drawing(figure, title, "", source, "Nothing to draw yet.")


def label_ends(axis: Axes, ends: Iterable[tuple[float, float, str, str]], gap: float) -> None:
    """Write names at the ends of lines, apart from each other by at least ``gap`` in data units.

    ``ends`` holds x, y, name and colour of each.
    """
    ordered = sorted(ends, key=lambda end: end[1])
    if not ordered:
        return
    places = [ordered[0][1]]
    for _, y, _, _ in ordered[1:]:
        places.append(max(y, places[-1] + gap))
    shift = sum(place - end[1] for place, end in zip(places, ordered, strict=True)) / len(places)
    low, high = axis.get_ylim()
    shift = min(max(shift, places[-1] - high), places[0] - low)
    for place, (x, _, name, color) in zip(places, ordered, strict=True):
        axis.annotate(
            name, (x, place - shift), xytext=(5, 0), textcoords="offset points", color=color,
            fontsize=8, va="center", annotation_clip=False,
        )  # fmt: skip


def save_svg(drawing: Drawing, path: str | Path) -> None:
    """Write a drawing as SVG, without its words."""
    # Without dates in the files the same CSV gives the same bytes.
    with atomic_path(path) as temporary:
        drawing.figure.savefig(temporary, format="svg", metadata={"Date": None})


def save(drawing: Drawing, out_prefix: str | Path) -> None:
    """Write a drawing as ``.svg`` without its words, ``.png`` and ``.pdf`` with, and ``.json``."""
    figure = drawing.figure
    save_svg(drawing, f"{out_prefix}.svg")
    figure.suptitle(drawing.title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", wrap=True)
    words = f"{drawing.caption} {drawing.source}".strip()
    figure.supxlabel(words, x=0.01, ha="left", fontsize=7.5, color="#555555", wrap=True)
    for extension in ("png", "pdf"):
        # The second is laid out like the first.
        figure.set_layout_engine("constrained" if extension == "png" else "none")
        metadata = {"CreationDate": None} if extension == "pdf" else {"Software": None}
        with atomic_path(f"{out_prefix}.{extension}") as path:
            figure.savefig(path, dpi=DPI, metadata=metadata)
    kept = {key: getattr(drawing, key) for key in ("title", "caption", "source", "alt")}
    write_json(f"{out_prefix}.json", kept)
