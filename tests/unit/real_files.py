"""Files of the real datasets, where a mirror is at hand; elsewhere tests skip with the reason."""

import os
from pathlib import Path

import pytest

from arfl import dataset as datasets

SOURCES = Path(__file__).parents[2] / "workflow/resources/datasets.csv"
MIRROR = os.environ.get("ARFL_DATA_MIRROR")

needs_mirror = pytest.mark.skipif(
    not MIRROR, reason="set ARFL_DATA_MIRROR to a mirror of the real files (docs/data.md)"
)


def prepare(name, folder, **options):
    """The mirror's dataset, fetched and prepared below ``folder``, where it is not yet."""
    if not (Path(MIRROR) / name).is_dir():
        pytest.skip(f"the mirror has no {name}")
    if not (folder / name).exists():
        datasets.fetch(name, folder / "raw" / name, SOURCES, MIRROR)
        datasets.prepare(name, folder / "raw" / name, folder / name, **options)
    return datasets.load(folder / name)
