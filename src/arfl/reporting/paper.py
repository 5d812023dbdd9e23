"""The paper's printed numbers: long CSV files, one per target, in ``workflow/resources/paper``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from arfl.reporting import frames
from arfl.reporting.frames import x_text

COLUMNS = (
    "target", "panel", "aggregator", "x_name", "x", "metric", "value", "error", "n_clients",
    "source",
)  # fmt: skip


@dataclass(frozen=True)
class PaperNumbers:
    """The printed numbers of one target.

    Attributes:
        values: a row per number with `COLUMNS`; ``value`` is a fraction, ``error`` half a unit of
            its last digit or the error of reading it off a plot, ``x`` NaN where nothing is swept.
        n_clients: the paper's number of participants, None when nothing is printed.
    """

    values: pd.DataFrame
    n_clients: int | None

    def participants(self, cells: pd.DataFrame) -> int | None:
        """How many participants these cells of one target have.

        The records say it; before the first one only scale paper is known to have the paper's.
        """
        known = cells.n_clients.dropna()
        if len(known):
            return int(known.iloc[0])
        return self.n_clients if (cells.scale == "paper").all() else None

    def column(self, x_name: str, x: Any, n_clients: int | None) -> str | None:
        """The x of the paper that a cell's x stands for, as text, see `frames.x_text`.

        Attackers count by their share: 2 of 20 stand for 10 of 100; None if the number of
        participants is unknown. Other sweeps keep their x.
        """
        if x_name != "n_attackers" or x is None or self.n_clients is None:
            return x_text(x)
        return None if n_clients is None else x_text(x * self.n_clients / n_clients)


def load(paper_dir: str | Path, target: str) -> PaperNumbers:
    """Read the paper's numbers for a target; a target without a file has none printed."""
    path = Path(paper_dir) / f"{target}.csv"
    if not path.exists():
        return PaperNumbers(pd.DataFrame(columns=[*COLUMNS, "column"]), None)
    values = frames.read_csv(path, COLUMNS)
    text = {name: values[name].astype(object).fillna("") for name in ("panel", "x_name")}
    values = values.assign(**text, x=values.x.astype(float))
    return PaperNumbers(values.assign(column=values.x.map(x_text)), int(values.n_clients.iloc[-1]))
