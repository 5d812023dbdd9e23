"""Tables beside the paper's numbers, as CSV (tidy, fractions), Markdown and LaTeX (percent).

The laid-out table is also written as JSON, for the report to embed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import yaml

from arfl.errors import UserError
from arfl.files import write_json, write_text
from arfl.reporting import captions, compare, evidence, frames, paper
from arfl.reporting.compare import AVERAGE
from arfl.reporting.frames import BROKEN
from arfl.reporting.targets import Target

NOTHING = "–"
# From this on a difference is explained by a reading of the text, if one is known.
LARGE = 0.05


@dataclass(frozen=True)
class Row:
    """One line: the aggregator (or other subject), what the line holds, and the entries."""

    subject: str
    kind: str
    entries: list[str]


@dataclass(frozen=True)
class Block:
    """A table for people: a heading, column labels and rows, all of them final text."""

    heading: str
    columns: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Table:
    """A titled sequence of blocks.

    ``caption`` says how to read it, ``source`` from which records it is, ``notes`` are lines below,
    under ``notes_heading`` where there are headings.
    """

    target: str
    title: str
    caption: str
    source: str
    blocks: list[Block]
    notes: list[str]
    notes_heading: str = "Where the paper's numbers and ours differ, and what is broken"


def write(
    manifest: str | Path, target: Target, paper_dir: str | Path, out_prefix: str | Path
) -> None:
    """Write ``<out_prefix>.csv``, ``.md``, ``.tex`` and ``.json`` for one target.

    Args:
        manifest: the ``collected.json`` of what it is made of.
        target: its entry in the table of targets.
        paper_dir: the paper's numbers.
        out_prefix: output path without suffix.

    Raises:
        UserError: the target has no table, or what was collected cannot be read.
    """
    if not target.table:
        raise UserError(f"{target.name} has no table: it is a picture only")
    if target.plot == "readings":
        # It lays its table out by what is here.
        from arfl.reporting import readings

        readings.write([manifest], paper_dir, out_prefix)
        return
    cells = evidence.collected(manifest, paper_dir).cells
    save(*laid_out(cells, target, paper_dir), out_prefix)


def laid_out(
    cells: pd.DataFrame, target: Target, paper_dir: str | Path
) -> tuple[pd.DataFrame, Table]:
    """The tidy entries of a target's collected cells, and its table."""
    if target.plot == "timing":
        entries, blocks, rule = compare.timing(cells), [_timing_block(cells)], compare.TIMING
    else:
        numbers = paper.load(paper_dir, target.name)
        entries = compare.compare(cells, numbers, target.averaged)
        blocks, rule = _blocks(entries, cells), _rule(entries, cells)
    notes = _differ(entries, cells, paper_dir) + broken(cells)
    return entries, Table(target.name, target.title, rule, captions.caption(cells), blocks, notes)


def save(entries: pd.DataFrame, table: Table, out_prefix: str | Path) -> None:
    """Write tidy entries as ``.csv`` and their table as ``.md``, ``.tex`` and ``.json``."""
    frames.write_csv(f"{out_prefix}.csv", entries)
    write_text(f"{out_prefix}.md", markdown(table))
    write_text(f"{out_prefix}.tex", latex(table))
    write_json(f"{out_prefix}.json", asdict(table))


def markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown."""
    lines = [f"# {table.title}", "", f"{table.source} {table.caption}", ""]
    for block in table.blocks:
        lines += [f"## {block.heading}", ""] if block.heading else []
        lines += [*markdown_block(block), ""]
    lines += [f"- {note}" for note in table.notes]
    return "\n".join(lines) + "\n"


def markdown_block(block: Block) -> list[str]:
    """The lines of a block as GitHub-flavoured Markdown, without its heading."""
    lines = ["| | | " + " | ".join(block.columns) + " |"]
    lines.append("|---|---|" + "--:|" * len(block.columns))
    for subject, row in _first_subject(block.rows):
        lines.append(f"| {subject} | {row.kind} | " + " | ".join(row.entries) + " |")
    return lines


def latex(table: Table) -> str:
    """One LaTeX float per block; the document must load booktabs, graphicx and amssymb."""
    lines = [r"% needs \usepackage{booktabs,graphicx,amssymb}"]
    for number, block in enumerate(table.blocks, start=1):
        title = f"{table.title}. {block.heading}." if block.heading else f"{table.title}."
        lines += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(title)} {_tex(table.source)} {_tex(table.caption)}}}",
            rf"\label{{tab:{table.target.replace('_', '-')}-{number}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{ll{'r' * len(block.columns)}}}",
            r"\toprule",
            " & ".join(["", "", *map(_tex, block.columns)]) + r" \\",
            r"\midrule",
        ]
        for position, (subject, row) in enumerate(_first_subject(block.rows)):
            if subject and position:
                lines.append(r"\addlinespace")
            lines.append(" & ".join(map(_tex, [subject, row.kind, *row.entries])) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""]
    return "\n".join(lines) + "\n"


def percent(value: float | None, digits: int = 2, signed: bool = False) -> str:
    """A fraction as percent, with a true minus sign; a dash for none."""
    if pd.isna(value):
        return NOTHING
    text = f"{100 * value:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "−")


def _rule(entries: pd.DataFrame, cells: pd.DataFrame) -> str:
    """What the entries are; of spreads and marks only where there are any."""
    sentences = ["Percent."]
    if (entries.n_done == 0).any():
        sentences.append(f"{NOTHING}: no record yet, or no such number.")
    if (entries.n_done > 1).any():
        sentences.append("Measured: mean ± standard deviation over the seeds.")
    elif entries.n_done.any():
        sentences.append("Measured: one seed, so without a spread, and no difference is marked.")
    window = entries.late_rounds.max()
    if window > 1:
        sentences.append(
            f"Last {window:.0f} rounds: the mean over them, beside the last round alone."
        )
    if entries.beyond.notna().any():
        sentences.append(
            "▲ or ▼: above or below the paper by more than the seeds' spread explains (95 % "
            "prediction interval for the mean of the paper's three runs, widened by the precision "
            "of the printed number)."
        )
    elif not captions.comparable(cells) and entries.paper.notna().any():
        given = "given" if captions.on_stand_ins(cells) else "marked"
        sentences.append(f"The paper's numbers are for orientation: differences are not {given}.")
    return " ".join(sentences)


def broken(cells: pd.DataFrame) -> list[str]:
    """One line per broken record."""
    broken = cells[cells.state == BROKEN].drop_duplicates("record")
    return [f"Broken: `{r.record}`: {r.reason}" for r in broken.itertuples()]


def _differ(entries: pd.DataFrame, cells: pd.DataFrame, paper_dir: str | Path) -> list[str]:
    """The reading likely to blame, for each rule that differs much from the paper on real data.

    Where none is known, a difference that the seeds' spread does not explain is called open.
    """
    path = Path(paper_dir) / "differences.yaml"
    if "difference" not in entries or not path.exists():
        return []
    done = captions.trained(cells)
    if done.empty or (done.data_kind != "complete").any():
        return []
    target, protocol = cells.target.iloc[0], cells.protocol.iloc[0]
    likely = {
        known["aggregator"]: known["likely"]
        for known in yaml.safe_load(path.read_text(encoding="utf-8"))
        if known["target"] == target and known.get("protocol", protocol) == protocol
    }
    notes = []
    far = entries[entries.difference.abs() > LARGE]
    for rule, here in far.groupby("aggregator", sort=False):
        if rule in likely or here.beyond.eq(True).any():
            worst = here.loc[here.difference.abs().idxmax()]
            size = percent(worst.difference, 1, signed=True)
            blamed = likely.get(rule, "Open: no reading is known to explain it.")
            notes.append(f"{worst.label} differs by up to {size} points. {blamed}")
    return notes


def _blocks(entries: pd.DataFrame, cells: pd.DataFrame) -> list[Block]:
    """Swept panels: one block per metric, a column per x. Others: a column per metric."""
    participants = cells.groupby("panel").n_clients.max()
    # A difference from the paper's number says nothing where the data are others.
    stand_ins = captions.on_stand_ins(cells)
    blocks = []
    for panel, in_panel in entries.groupby("panel", sort=False):
        name, x_name = captions.panel_title(panel), in_panel.x_name.iloc[0]
        n_clients = participants[panel]
        if not x_name:
            labels = in_panel.metric.map(captions.COLUMN_METRICS)
            blocks.append(_block(name, in_panel.assign(shown=labels), stand_ins))
            continue
        for metric, of_metric in in_panel.groupby("metric", sort=False):
            if _repeats(of_metric, in_panel):
                continue
            heading = f"{captions.METRICS[metric]}, by {captions.x_label(x_name)}"
            if x_name == "n_attackers" and n_clients > 0:
                heading += f" (of {n_clients:.0f})"
            heading = f"{name}: {heading}" if name else heading
            shown = of_metric.assign(shown=_column_labels(of_metric))
            blocks.append(_block(heading, shown, stand_ins))
    return blocks


def _repeats(entries: pd.DataFrame, in_panel: pd.DataFrame) -> bool:
    """Whether a success rate without the target class is the other one again, as in label flips."""
    if entries.metric.iloc[0] != "attack_success_rate_excl_target":
        return False
    other = in_panel[in_panel.metric == "attack_success_rate"]
    return list(other.measured.fillna(-1)) == list(entries.measured.fillna(-1))


def _column_labels(entries: pd.DataFrame) -> pd.Series:
    # A column's label comes from any row that has a paper's number for it.
    beside = entries.groupby("column").paper_column.transform("max")
    differs = (beside != "") & (beside != entries.column)
    labels = entries.column.where(~differs, entries.column + " (paper's " + beside + ")")
    return labels.where(entries.column != AVERAGE, "Average")


def _block(heading: str, entries: pd.DataFrame, stand_ins: bool) -> Block:
    columns = list(dict.fromkeys(entries.shown))
    rows = []
    for label, of_rule in entries.groupby("label", sort=False):
        by_column = {entry.shown: entry for entry in of_rule.itertuples()}
        rows += _rows(label, [by_column.get(column) for column in columns], stand_ins)
    return Block(heading, columns, rows)


def _rows(label: str, entries: Sequence, stand_ins: bool) -> list[Row]:
    rows = [Row(label, "measured", [_measured(e) for e in entries])]
    if any(e and e.late_rounds > 1 for e in entries):
        window = max(e.late_rounds for e in entries if e and e.late_rounds > 1)
        late = [percent(e and e.late) for e in entries]
        rows.append(Row(label, f"last {window:.0f} rounds", late))
    if any(e and pd.notna(e.paper) for e in entries):
        rows.insert(0, Row(label, "paper", [percent(e and e.paper) for e in entries]))
        if any(e and pd.notna(e.difference) for e in entries) and not stand_ins:
            rows.append(Row(label, "difference", [_difference(e) for e in entries]))
    return rows


def _measured(entry) -> str:
    if entry is None or not entry.n_planned:
        return NOTHING
    if entry.n_diverged:
        text = f"diverged ({entry.n_diverged} of {captions.counted(entry.n_planned, 'seed')})"
        return text if pd.isna(entry.measured) else f"{percent(entry.measured)}, {text}"
    text = percent(entry.measured)
    if pd.notna(entry.std):
        text += f" ± {percent(entry.std)}"
    # A dash says that there is none.
    if 0 < entry.n_done < entry.n_planned:
        text += f" ({entry.n_done}/{entry.n_planned} seeds)"
    return text


def _difference(entry) -> str:
    if entry is None or pd.isna(entry.difference):
        return NOTHING
    mark = (" ▲" if entry.difference > 0 else " ▼") if entry.beyond else ""
    return percent(entry.difference, signed=True) + mark


def _timing_block(cells: pd.DataFrame) -> Block:
    columns = {
        "aggregation, ms a round": lambda t: f"{1000 * t.aggregation_per_round:.1f}",
        "training, ms a round": lambda t: f"{1000 * t.training_per_round:.0f}",
        "whole cell, ms": lambda t: f"{1000 * t.total_per_cell:.0f}",
        "clients": lambda t: str(t.n_clients),
        "cells": lambda t: str(t.n_cells),
        "device": lambda t: t.device,
    }
    rows = [
        Row(t.label, captions.task_name(t.task), [text(t) for text in columns.values()])
        for t in compare.timing(cells).itertuples()
    ]
    return Block("", list(columns), rows)


def _first_subject(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Rows with the subject only where it changes."""
    before = [None, *(r.subject for r in rows)]
    return [(r.subject if r.subject != b else "", r) for r, b in zip(rows, before, strict=False)]


_TEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "$": r"\$", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "±": r"$\pm$", "−": "$-$", "–": "--", "→": r"$\to$", "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$", "δ": r"$\delta$", "λ": r"$\lambda$", "σ": r"$\sigma$",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
