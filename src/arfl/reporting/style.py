"""One look for every figure: a palette safe for colour-blind readers and for grey print.

Colours are those of Okabe and Ito (2008); a rule is also told by its marker and its line style,
because several of the colours are the same grey.
"""

import io
import logging
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from arfl.files import atomic_path

DPI = 160
INK = "#222222"
PAPER_LINE = {"linewidth": 1.0, "linestyle": (0, (3, 2)), "alpha": 0.75}
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
        "svg.fonttype": "none",
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


def empty(title: str, caption: str) -> Figure:
    """A figure that says that there is nothing to draw yet."""
    figure, (axis,) = grid(1, columns=1, panel_width=6.6, panel_height=1.6)
    axis.text(0.5, 0.5, "no records to draw yet", ha="center", va="center", color="#777777")
    axis.set_axis_off()
    finish(figure, title, caption)
    return figure


def grid(
    n_panels: int, columns: int, panel_width: float = 3.6, panel_height: float = 2.9, **options
) -> tuple[Figure, list[Axes]]:
    """A figure with ``n_panels`` axes in rows of at most ``columns``; spare places stay empty."""
    columns = min(columns, n_panels)
    rows = -(-n_panels // columns)
    size = (max(panel_width * columns, 4.8), panel_height * rows + 1.0)
    # Without pyplot: it keeps every figure until told to forget it, and looks for a display.
    figure = Figure(figsize=size)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    flat = list(axes.flat)
    for spare in flat[n_panels:]:
        spare.set_visible(False)
    # With shared axes only the bottom row has tick labels, so the last of each column gets its own.
    for axis in flat[max(0, n_panels - columns) : n_panels]:
        axis.tick_params(labelbottom=True)
    return figure, flat[:n_panels]


def finish(
    figure: Figure,
    title: str,
    caption: str,
    handles: Sequence = (),
    legend_columns: int | None = None,
    left: float | None = None,
) -> None:
    """Lay a figure out: title on top, legend below the panels, the small caption at the foot.

    ``left`` is the room in inches for the labels of the first column, where the other columns have
    none and the panels share their axes; without it all labels are measured, which takes as long
    as drawing the figure.
    """
    width, height = figure.get_size_inches()
    # 0.059 inch is an ample mean width of a character of DejaVu Sans at 7.5 points.
    lines = _wrap(caption, int((width - 0.4) / 0.059))
    foot = 0.14 * len(lines) + 0.12
    columns = legend_columns or max(1, min(len(handles), int(width / 1.75)))
    legend_rows = -(-len(handles) // columns) if handles else 0
    legend_height = 0.2 * legend_rows + (0.12 if handles else 0)
    head = 0.24 * len(_wrap(title, int(width / 0.088))) + 0.12
    extra = foot + legend_height + head - 1.0
    height = height + max(0.0, extra)
    figure.set_size_inches(width, height)
    figure.text(
        0.2 / width, 1 - 0.08 / height, "\n".join(_wrap(title, int(width / 0.088))),
        ha="left", va="top", fontsize=11.5, fontweight="bold",
    )  # fmt: skip
    figure.text(
        0.2 / width, 0.08 / height, "\n".join(lines), fontsize=7.5, color="#555555",
        ha="left", va="bottom", linespacing=1.25,
    )  # fmt: skip
    if handles:
        figure.legend(
            handles=list(handles), loc="lower center", ncols=columns, frameon=False,
            bbox_to_anchor=(0.5, foot / height), borderaxespad=0, handlelength=3.2,
            columnspacing=1.4, labelspacing=0.3,
        )  # fmt: skip
    bottom = (foot + legend_height + 0.04) / height
    if left is None:
        figure.tight_layout(pad=0.6, rect=(0, bottom, 1, 1 - head / height))
        return
    rows, columns = figure.axes[0].get_gridspec().get_geometry()
    panel_height = (height * (1 - bottom) - head - 0.8) / rows
    figure.subplots_adjust(
        left=left / width, right=1 - 0.15 / width, bottom=bottom + 0.5 / height,
        top=1 - (head + 0.25) / height, wspace=0.1, hspace=0.5 / panel_height,
    )  # fmt: skip


def save(figure: Figure, out_prefix: str | Path) -> None:
    """Write ``<out_prefix>.png`` and ``.pdf``."""
    for extension in ("png", "pdf"):
        # Without dates in the files the same CSV gives the same bytes.
        metadata = {"CreationDate": None} if extension == "pdf" else {"Software": None}
        with atomic_path(f"{out_prefix}.{extension}") as path:
            figure.savefig(path, dpi=DPI, metadata=metadata)


def png(figure: Figure, dpi: int) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20)) or [""]
