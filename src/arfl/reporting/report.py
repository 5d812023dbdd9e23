"""The report: one HTML page that needs nothing else, made from collected CSV.

Claims first, then every target beside the paper's numbers, then what stands behind them:
partitions, settings, provenance and the state of every cell. Pictures are embedded, so the page
opens from a file, in a mail or in print.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from arfl.files import read_json, write_text
from arfl.reporting import captions, claims, figures, style, tables
from arfl.reporting.collect import CellRow, Collected
from arfl.reporting.compare import unique
from arfl.reporting.tables import Table

# In the order of the page; a target of the plan that is not named here comes after these.
ORDER = (
    "figure3",
    "table1",
    "table2",
    "table3",
    "figure4",
    "loan",
    "table4",
    "hyperparameters",
    "figure2",
    "theory",
    "figure5",
    "weights",
    "timing",
)
# Sharp on a phone, and still small: the page of a full grid stays within a few megabytes.
DPI = 110
# A target's own figure is of these already per round.
_PER_ROUND = ("figure4",)
_STATES = {"done": "✓", "missing": "·", "broken": "✗", "diverged": "∞"}


@dataclass(frozen=True)
class Picture:
    """An embedded picture and the words for those who cannot see it."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Section:
    """One target on the page."""

    target: str
    title: str
    caption: str
    pictures: list[Picture]
    table: Table | None


def write(
    run_dir: str | Path, plan_path: str | Path, paper_dir: str | Path, out_html: str | Path
) -> None:
    """Write the report of one run.

    Args:
        run_dir: the run's folder; ``collected/<target>/`` in it holds each target's CSV (and the
            studies' files), as `collect` and the studies wrote them. Targets without that folder
            are listed as not collected.
        plan_path: the run's plan.
        paper_dir: the paper's numbers and claims.
        out_html: the page to write.
    """
    plan = read_json(plan_path)
    folders = {f.name: f for f in sorted(Path(run_dir, "collected").glob("*")) if f.is_dir()}
    data = {t: Collected(f) for t, f in folders.items() if (f / "cells.csv").exists()}
    wanted = unique([*ORDER, *plan["targets"]])
    cells = _unique_cells(data.values())
    page = _template().render(
        plan=plan,
        warning=captions.warning(cells) if cells else "",
        summary=captions.data_sentence(cells),
        mixed=captions.mixed_versions(cells),
        findings=claims.ledger(data, paper_dir),
        sections=[_section(t, folders[t], data.get(t), paper_dir) for t in wanted if t in folders],
        linked=set(wanted) & set(folders),
        not_collected=[captions.title(t) for t in wanted if t not in folders],
        partitions=_partitions(data.values()),
        troubles=[c for c in cells if not c.done],
        state_tables=[_states(t, data[t].cells) for t in plan["targets"] if t in data],
        assumptions=plan.get("assumptions", []),
        settings=_settings(cells),
        options={kind: _options(cells, kind) for kind in ("aggregator", "attack")},
        datasets=_datasets(cells),
        origins=_origins(cells),
        n_done=sum(c.done for c in cells),
        n_cells=len(cells),
        rule=tables.RULE,
    )
    write_text(out_html, page)


def _template():
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["anchor"] = lambda text: text.replace("_", "-")
    # A long identifier may break after its slashes and underscores, and nowhere else.
    environment.filters["breakable"] = lambda text: Markup(
        str(escape(text)).replace("/", "/<wbr>").replace("_", "_<wbr>")
    )
    return environment.get_template("report.html.jinja")


def _section(
    target: str, folder: Path, collected: Collected | None, paper_dir: str | Path
) -> Section:
    title = captions.title(target)
    pictures = []
    if target in figures.TARGETS:
        pictures.append(_picture(figures.make(folder, target, paper_dir), title))
    table, caption = None, ""
    if collected is not None:
        caption = captions.caption(collected.cells)
        if target in tables.TARGETS:
            table = tables.build(collected.cells, target, paper_dir)
        if target not in (*_PER_ROUND, "weights", "timing"):
            pictures += _by_round(collected, target)
    return Section(target, title, caption, pictures, table)


def _by_round(collected: Collected, target: str) -> list[Picture]:
    pictures = []
    for metric in ("accuracy", "attack_success_rate"):
        figure = figures.by_round(collected, metric, target)
        if figure is not None:
            alt = f"{captions.title(target)}: {captions.METRICS[metric]} by round"
            pictures.append(_picture(figure, alt))
    return pictures


def _partitions(collected: Iterable[Collected]) -> Picture | None:
    collected = list(collected)
    rows = {(r.task, r.seed, r.client): r for c in collected for r in c.partitions}
    if not rows:
        return None
    figure = figures.partitions(list(rows.values()), _unique_cells(collected))
    return _picture(figure, "Training samples of each class at each client")


def _picture(figure: Figure, alt: str) -> Picture:
    encoded = base64.b64encode(style.png(figure, DPI)).decode("ascii")
    return Picture(f"data:image/png;base64,{encoded}", alt)


def _unique_cells(collected: Iterable[Collected]) -> list[CellRow]:
    cells: dict[str, CellRow] = {}
    for c in collected:
        for cell in c.cells:
            cells.setdefault(cell.cell_id, cell)
    return list(cells.values())


def _states(target: str, cells: Sequence[CellRow]) -> dict:
    """One line per scenario and rule, one column per seed."""
    seeds = sorted({c.seed for c in cells})
    lines: dict[tuple, dict[int, str]] = {}
    for c in cells:
        where = ", ".join(filter(None, [captions.panel_title(c.panel), _place(c)]))
        lines.setdefault((where, c.label), {})[c.seed] = c.state
    return {
        "title": captions.title(target),
        "done": sum(c.done for c in cells),
        "planned": len(cells),
        "seeds": seeds,
        "lines": [
            (where, label, [(s.get(seed, ""), _STATES.get(s.get(seed, ""), "")) for seed in seeds])
            for (where, label), s in lines.items()
        ],
    }


def _place(cell: CellRow) -> str:
    if cell.x is None:
        return ""
    name = captions.X_LABELS.get(cell.x_name, cell.x_name)
    return f"{name} {captions.x_text(cell.x)}"


def _settings(cells: Sequence[CellRow]) -> dict[str, list[tuple[str, str]]]:
    """What each task was really trained with, from the first record of each, as flat pairs."""
    result: dict[str, list[tuple[str, str]]] = {}
    for c in cells:
        if c.done and c.task not in result:
            result[c.task] = list(_flat(c.settings["task"]))
    return result


def _options(cells: Sequence[CellRow], kind: str) -> list[tuple[str, str, str]]:
    """(name, settings, tasks) of every aggregator or attack that the records were made with."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for c in cells:
        if c.done and c.settings[kind]:
            text = ", ".join(
                f"{k.removeprefix('options.')} {v}" for k, v in _flat(c.settings[kind])
            )
            places = tasks.setdefault((getattr(c, kind), text), [])
            if c.task not in places:
                places.append(c.task)
    return [(name, text, ", ".join(places)) for (name, text), places in sorted(tasks.items())]


def _flat(value: Mapping, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield from _flat(entry, f"{prefix}{key}.")
        elif entry is not None:
            yield f"{prefix}{key}", str(entry)


def _datasets(cells: Sequence[CellRow]) -> list[CellRow]:
    """The first cell of each dataset really used."""
    return list({c.data_checksum: c for c in reversed(cells) if c.done}.values())[::-1]


def _origins(cells: Sequence[CellRow]) -> list[dict]:
    """The distinct origins of the records, with how many cells come from each."""
    origins: dict[tuple, dict] = {}
    for c in cells:
        if not c.done:
            continue
        libraries = ", ".join(f"{k} {v}" for k, v in c.libraries.items() if v)
        key = (c.commit, c.dirty, c.device, c.device_name, libraries)
        origin = origins.setdefault(
            key,
            {
                "commit": (c.commit[:12] or "unknown") + (" with local changes" if c.dirty else ""),
                "device": f"{c.device_name} ({c.device})",
                "libraries": libraries,
                "fingerprints": set(),
                "cells": 0,
            },
        )
        origin["fingerprints"].add(c.fingerprint[:8])
        origin["cells"] += 1
    return list(origins.values())
