"""Tables beside the paper's numbers, as CSV (tidy, fractions), Markdown and LaTeX (percent)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arfl.errors import UserError
from arfl.files import write_text
from arfl.reporting import captions, compare, paper, timing
from arfl.reporting.collect import CellRow, Collected, write_csv
from arfl.reporting.compare import AVERAGE, Comparison, unique

# The targets that have a table; the others are pictures only.
TARGETS = (
    "figure3",
    "table1",
    "table2",
    "table3",
    "table4",
    "loan",
    "hyperparameters",
    "timing",
)
RULE = (
    "Percent. Measured: mean ± standard deviation over the seeds. ▲ or ▼: above or below the paper "
    "by more than the seeds' spread explains (95 % prediction interval for the mean of the paper's "
    "three runs, widened by the precision of the printed number)."
)
_NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """One line: the aggregator (or other subject), what the line holds, and the entries."""

    subject: str
    kind: str
    entries: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A table for people: a heading, column labels and rows, all of them final text."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A titled sequence of blocks with one caption."""

    title: str
    caption: str
    blocks: tuple[Block, ...]


def write(
    collected_dir: str | Path, target: str, paper_dir: str | Path, out_prefix: str | Path
) -> None:
    """Write ``<out_prefix>.csv``, ``.md`` and ``.tex`` for one target.

    Raises:
        UserError: the target has no table, or nothing has been collected for it.
    """
    if target not in TARGETS:
        raise UserError(f"{target} has no table; tables are {', '.join(TARGETS)}")
    cells = Collected(collected_dir).cells
    if target == "timing":
        columns, rows = timing.COLUMNS, [vars(t) for t in timing.summarise(cells)]
    else:
        numbers = paper.load(paper_dir, target)
        columns, rows = compare.COLUMNS, [vars(c) for c in compare.compare(cells, numbers)]
    table = build(cells, target, paper_dir)
    write_csv(f"{out_prefix}.csv", columns, rows)
    write_text(f"{out_prefix}.md", markdown(table))
    write_text(f"{out_prefix}.tex", latex(table, target))


def build(cells: Sequence[CellRow], target: str, paper_dir: str | Path) -> Table:
    """The table of one target, laid out for people."""
    if target == "timing":
        blocks, rule = (_timing_block(cells),), timing.RULE
    else:
        comparisons = compare.compare(cells, paper.load(paper_dir, target))
        blocks, rule = tuple(_blocks(comparisons, cells)), RULE
    caption = " ".join(filter(None, [captions.caption(cells), captions.diverged(cells), rule]))
    return Table(captions.title(target), caption, blocks)


def markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown."""
    lines = [f"# {table.title}", "", table.caption, ""]
    for block in table.blocks:
        lines += [f"## {block.heading}", ""] if block.heading else []
        lines.append("| | | " + " | ".join(block.columns) + " |")
        lines.append("|---|---|" + "--:|" * len(block.columns))
        for subject, row in _first_subject(block.rows):
            lines.append(f"| {subject} | {row.kind} | " + " | ".join(row.entries) + " |")
        lines.append("")
    return "\n".join(lines)


def latex(table: Table, target: str) -> str:
    """One LaTeX float per block; the document must load booktabs, graphicx and amssymb."""
    lines = [r"% needs \usepackage{booktabs,graphicx,amssymb}"]
    for number, block in enumerate(table.blocks, start=1):
        width = len(block.columns)
        title = f"{table.title}. {block.heading}." if block.heading else f"{table.title}."
        lines += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(title)} {_tex(table.caption)}}}",
            rf"\label{{tab:{target.replace('_', '-')}-{number}}}",
        ]
        lines.append(r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%")
        lines.append(rf"\begin{{tabular}}{{ll{'r' * width}}}")
        lines.append(r"\toprule")
        lines.append(" & ".join(["", "", *map(_tex, block.columns)]) + r" \\")
        lines.append(r"\midrule")
        for position, (subject, row) in enumerate(_first_subject(block.rows)):
            if subject and position:
                lines.append(r"\addlinespace")
            cells = [subject, row.kind, *row.entries]
            lines.append(" & ".join(map(_tex, cells)) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""]
    return "\n".join(lines) + "\n"


def percent(value: float | None, digits: int = 2, signed: bool = False) -> str:
    """A fraction as percent, with a true minus sign; a dash for None."""
    if value is None:
        return _NOTHING
    text = f"{100 * value:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "−")


def _blocks(comparisons: list[Comparison], cells: Sequence[CellRow]) -> list[Block]:
    """Swept panels: one block per metric, a column per x. Others: a column per metric."""
    n_clients = max((c.n_clients for c in cells if c.done), default=None)
    blocks = []
    for panel in unique(c.panel for c in comparisons):
        in_panel = [c for c in comparisons if c.panel == panel]
        name = captions.panel_title(panel) if panel else ""
        if not in_panel[0].x_name:
            blocks.append(_block(name, in_panel, lambda c: captions.COLUMN_METRICS[c.metric]))
            continue
        for metric in unique(c.metric for c in in_panel):
            entries = [c for c in in_panel if c.metric == metric]
            swept = captions.X_LABELS.get(entries[0].x_name, entries[0].x_name)
            heading = f"{captions.METRICS[metric]}, by {swept}"
            if entries[0].x_name == "n_attackers" and n_clients:
                heading += f" (of {n_clients})"
            heading = f"{name}: {heading}" if name else heading
            blocks.append(_block(heading, entries, _column_label))
    return blocks


def _column_label(entry: Comparison) -> str:
    if entry.column == AVERAGE:
        return "Average"
    if entry.paper_column and entry.paper_column != entry.column:
        return f"{entry.column} (paper's {entry.paper_column})"
    return entry.column


def _block(heading: str, comparisons: list[Comparison], label) -> Block:
    # A column's label comes from any row that has a paper's number for it.
    labels: dict[tuple[str, str], str] = {}
    for entry in comparisons:
        key = (entry.metric, entry.column)
        if key not in labels or entry.paper is not None:
            labels[key] = label(entry)
    rows = []
    for aggregator in unique(c.aggregator for c in comparisons):
        by_column = {(c.metric, c.column): c for c in comparisons if c.aggregator == aggregator}
        rows += _three_rows([by_column.get(column) for column in labels])
    return Block(heading, tuple(labels.values()), tuple(rows))


def _three_rows(entries: list[Comparison | None]) -> list[Row]:
    label = next(e.label for e in entries if e)
    measured = Row(label, "measured", tuple(_measured(e) for e in entries))
    if all(e is None or e.paper is None for e in entries):
        return [measured]
    return [
        Row(label, "paper", tuple(percent(e and e.paper) for e in entries)),
        measured,
        Row(label, "difference", tuple(_difference(e) for e in entries)),
    ]


def _measured(entry: Comparison | None) -> str:
    if entry is None:
        return _NOTHING
    text = percent(entry.measured)
    if entry.std is not None:
        text += f" ± {percent(entry.std)}"
    if entry.n_done < entry.n_planned:
        counts = f"{entry.n_done}/{entry.n_planned} seeds"
        text += f" ({counts}, {entry.n_diverged} diverged)" if entry.n_diverged else f" ({counts})"
    return text


def _difference(entry: Comparison | None) -> str:
    if entry is None or entry.difference is None:
        return _NOTHING
    mark = (" ▲" if entry.difference > 0 else " ▼") if entry.beyond else ""
    return percent(entry.difference, signed=True) + mark


def _timing_block(cells: Sequence[CellRow]) -> Block:
    rows = [
        Row(
            t.label,
            captions.panel_title(t.task.replace("_", " ")),
            (
                f"{1000 * t.aggregation_per_round:.1f}",
                f"{t.training_per_round:.2f}",
                f"{t.total_per_cell:.1f}",
                str(t.n_clients),
                str(t.n_cells),
                t.device,
            ),
        )
        for t in timing.summarise(cells)
    ]
    columns = (
        "aggregation, ms a round",
        "training, s a round",
        "whole cell, s",
        "clients",
        "cells",
        "device",
    )
    return Block("", columns, tuple(rows))


def _first_subject(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Rows with the subject only where it changes."""
    before = [None, *(r.subject for r in rows)]
    return [(r.subject if r.subject != b else "", r) for r, b in zip(rows, before, strict=False)]


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "→": r"$\to$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "δ": r"$\delta$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
