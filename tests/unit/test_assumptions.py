"""Every assumption of the report is a setting of the configuration."""

import csv
from pathlib import Path

import pytest
import yaml

from arfl.grid import Grid

ROOT = Path(__file__).parents[2]
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text())


@pytest.mark.parametrize("scale", SHIPPED["scales"])
@pytest.mark.parametrize("protocol", SHIPPED["protocols"])
def test_each_assumption_names_a_setting_and_a_reason(scale, protocol):
    grid = Grid(SHIPPED | {"scale": scale, "protocol": protocol})
    with (ROOT / "workflow/resources/assumptions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) > 10
    for row in rows:
        assert grid.value(row["key"]) is not None
        assert row["reason"]
