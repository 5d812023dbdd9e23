"""Every table, figure, the claims and the report again, from collected CSV alone."""

import os
from pathlib import Path

from arfl.errors import UserError
from arfl.reporting import claims, figures, report, tables


def render(
    run_folder: str | os.PathLike, paper_dir: str | os.PathLike, out: str | os.PathLike
) -> None:
    """Render what has been collected, without records, data or PyTorch.

    Args:
        run_folder: holds ``plan.json`` and ``collected/<target>/``.
        paper_dir: the paper's numbers and claims.
        out: folder for ``tables/``, ``figures/``, ``claims.csv``, ``claims.md``, ``report.html``.

    Raises:
        UserError: if nothing has been collected there.
    """
    run_folder, out = Path(run_folder), Path(out)
    collected = sorted(folder for folder in run_folder.glob("collected/*") if folder.is_dir())
    if not collected:
        raise UserError(f"{run_folder}/collected holds nothing; run `collect` or name another run")
    for folder in collected:
        if folder.name in tables.TARGETS:
            tables.write(folder, folder.name, paper_dir, out / "tables" / folder.name)
        if folder.name in figures.TARGETS:
            figures.draw(folder, folder.name, paper_dir, out / "figures" / folder.name)
    with_cells = [folder for folder in collected if (folder / "cells.csv").exists()]
    claims.evaluate(with_cells, paper_dir, out / "claims")
    report.write(run_folder, run_folder / "plan.json", paper_dir, out / "report.html")
