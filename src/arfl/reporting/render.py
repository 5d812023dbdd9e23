"""Every table, figure, the claims and the report again, from collected files alone."""

import os
from pathlib import Path

from arfl.errors import UserError
from arfl.files import read_json
from arfl.reporting import claims, figures, report, tables, targets
from arfl.reporting.frames import MANIFEST


def render(
    run_folder: str | os.PathLike, paper_dir: str | os.PathLike, out: str | os.PathLike
) -> None:
    """Render what has been collected, without records, data or PyTorch.

    Args:
        run_folder: holds ``plan.json`` and ``collected/<target>/``.
        paper_dir: the paper's numbers and claims.
        out: folder for ``tables/``, ``figures/``, ``claims.csv .md .json`` and ``report.html``;
            the ledgers of other runs in the folder above it are set beside this one's.

    Raises:
        UserError: if nothing has been collected there.
    """
    out, collected = Path(out), Path(run_folder) / "collected"
    manifests = sorted(collected.glob(f"*/{MANIFEST}"))
    if not manifests:
        raise UserError(f"{collected} holds nothing; run `collect` or name another run")
    drawn, tabled = [], []
    for target in targets.of_plan(read_json(Path(run_folder) / "plan.json")).values():
        source = collected / target.folder / (target.study or MANIFEST)
        if not source.exists():
            continue
        prefix = out / "figures" / target.name
        figures.draw(source, target, paper_dir, prefix)
        drawn += [f"{prefix}.svg", f"{prefix}.json"]
        if target.by_round:
            figures.draw_rounds(source, target, f"{prefix}.rounds")
            drawn += [f"{prefix}.rounds.svg", f"{prefix}.rounds.json"]
        if target.table:
            tables.write(source, target, paper_dir, out / "tables" / target.name)
            tabled.append(out / "tables" / f"{target.name}.json")
    own = [path for path in manifests if path.parent.name != targets.ALL]
    theory = collected / "theory" / targets.STUDIES["theory"].study
    claims.evaluate(own, paper_dir, out / "claims", theory if theory.exists() else None)
    report.write(
        Path(run_folder) / "plan.json",
        manifests,
        out / "claims.json",
        out / "report.html",
        tabled,
        drawn,
        sorted(set(out.parent.glob("*/claims.json")) - {out / "claims.json"}),
    )
