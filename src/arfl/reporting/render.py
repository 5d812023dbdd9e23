"""Every table, figure, the claims and the report again, from what is kept of runs."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from arfl import batches
from arfl.errors import UserError
from arfl.files import read_json
from arfl.reporting import claims, collect, figures, paper, readings, report, style, tables, targets
from arfl.reporting.frames import MANIFEST


def render(
    runs: Iterable[str | os.PathLike], paper_dir: str | os.PathLike, out: str | os.PathLike
) -> None:
    """Render runs without data or PyTorch, and without training anything.

    Args:
        runs: folders of ``plan.json`` with packed records (`arfl.batches`), with what has been
            collected from them (``collected/<target>/``), or with both: then packed records count.
        paper_dir: the paper's numbers and claims.
        out: folder; a run's ``tables/``, ``figures/``, ``claims.csv .md .json`` and ``report.html``
            go to a folder of its name in it, and ``index.html`` beside these, with the ``tables/``
            and ``figures/`` of the target ``readings`` over all runs at the paper's scale.

    Raises:
        UserError: if nothing is kept of a run.
    """
    out, paper_dir, folders = Path(out), Path(paper_dir), list(map(Path, runs))
    studies = _studies(folders)
    drawn = [_draw(run, studies, paper_dir, out / run.name) for run in folders]
    # Each page shows the ledgers of all runs beside each other.
    ledgers = [out / run.name / "claims.json" for run in folders]
    for (plan, manifests, tabled, pictures), ledger in zip(drawn, ledgers, strict=True):
        others = [path for path in ledgers if path != ledger]
        page = ledger.with_name("report.html")
        report.write(plan, manifests, ledger, page, tabled, pictures, others)
    pages = _over_runs([manifests for _, manifests, _, _ in drawn], paper_dir, out)
    report.index(ledgers, out / "index.html", *pages)


def _over_runs(
    manifests: list[list[Path]], paper_dir: Path, out: Path
) -> tuple[list[Path], list[Path]]:
    """What runs at the paper's scale make together: laid-out tables and figures."""
    every = sorted(path for of_run in manifests for path in of_run)
    found = [path for path in every if path.parent.name == readings.TARGET]
    cells = readings.together(found, paper_dir) if found else None
    if cells is None or (cells := cells[cells.scale == "paper"]).empty:
        return [], []
    numbers = paper.load(paper_dir, readings.PRINTED)
    tables.save(*readings.table(cells, numbers), out / "tables" / readings.TARGET)
    target, prefix = targets.KNOWN[readings.TARGET], out / "figures" / readings.TARGET
    drawing = figures.readings(cells, numbers, target)
    style.save(drawing or style.empty(target.title, readings.sources(cells)), prefix)
    tabled = out / "tables" / f"{readings.TARGET}.json"
    return [tabled], [Path(f"{prefix}.svg"), Path(f"{prefix}.json")]


def _studies(runs: list[Path]) -> dict[str, Path]:
    """The files of studies that depend on no run's data: one serves all."""
    found: dict[str, Path] = {}
    for name in ("figure2", "theory"):
        for run in runs:
            path = run / "collected" / name / targets.STUDIES[name].study
            if path.exists():
                found.setdefault(name, path)
    return found


def _draw(
    run: Path, studies: dict[str, Path], paper_dir: Path, out: Path
) -> tuple[Path, list[Path], list[Path], list[str]]:
    """The plan, manifests, laid-out tables and figures of a run, for its report."""
    plan_path = run / "plan.json"
    plan = read_json(plan_path)
    kept = run / "collected"
    collected = kept
    if batches.paths(run):
        collected = out / "collected"
        packed = batches.read(run)
        for target in (*plan["targets"], targets.ALL):
            collect.collect(plan_path, target, collected / target / MANIFEST, packed)
    manifests = sorted(collected.glob(f"*/{MANIFEST}"))
    if not manifests:
        raise UserError(
            f"{run} holds neither records ({batches.SUFFIX}) nor collected files; name another run"
        )
    tabled, drawn = [], []
    for target in targets.of_plan(plan).values():
        folder = kept if target.study else collected
        source = folder / target.folder / (target.study or MANIFEST)
        source = studies.get(target.name, source)
        if not source.exists():
            continue
        logging.info("%s: %s", run.name, target.title)
        prefix = out / "figures" / target.name
        figures.draw(source, target, paper_dir, prefix)
        drawn += [f"{prefix}.svg", f"{prefix}.json"]
        if target.by_round:
            figures.draw_rounds(source, target, paper_dir, f"{prefix}.rounds")
            drawn += [f"{prefix}.rounds.svg", f"{prefix}.rounds.json"]
        if target.table:
            tables.write(source, target, paper_dir, out / "tables" / target.name)
            tabled.append(out / "tables" / f"{target.name}.json")
    own = [path for path in manifests if path.parent.name != targets.ALL]
    claims.evaluate(own, paper_dir, out / "claims", studies.get("theory"))
    return plan_path, manifests, tabled, drawn
