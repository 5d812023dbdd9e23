"""The paper's printed numbers: long CSV files, one per target, in ``workflow/resources/paper``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arfl.reporting.collect import CellRow, read_csv


@dataclass(frozen=True)
class PaperValue:
    """One printed number, a fraction, with half a unit of its last digit (or reading) as error."""

    value: float
    error: float
    source: str


@dataclass(frozen=True)
class PaperNumbers:
    """The printed numbers of one target by (panel, aggregator, metric, x); x is None if not swept.

    ``n_clients`` is the paper's number of participants, None when nothing is printed.
    """

    values: dict[tuple[str, str, str, float | None], PaperValue]
    n_clients: int | None

    def curve(self, panel: str, aggregator: str, metric: str) -> list[tuple[float, float]]:
        """The printed (x, value) pairs of one aggregator, by x; empty when nothing is printed."""
        return sorted(
            (x, entry.value)
            for (p, a, m, x), entry in self.values.items()
            if (p, a, m) == (panel, aggregator, metric) and x is not None
        )

    def participants(self, cells: Sequence[CellRow]) -> int | None:
        """How many participants these cells of one target have.

        The records say it; before the first one only scale paper is known to have the paper's.
        """
        known = next((c.n_clients for c in cells if c.done), None)
        if known is None and cells and cells[0].scale == "paper":
            return self.n_clients
        return known

    def paper_x(
        self, x_name: str, x: float | str | None, n_clients: int | None
    ) -> float | str | None:
        """The x of the paper that a cell's x stands for.

        Attackers count by their share: 2 of 20 stand for 10 of 100; None if the number of
        participants is unknown. Other sweeps keep their x.
        """
        if x_name != "n_attackers" or x is None or self.n_clients is None:
            return x
        return None if n_clients is None else x * self.n_clients / n_clients


def load(paper_dir: str | Path, target: str) -> PaperNumbers:
    """Read the paper's numbers for a target; a target without a file has none printed."""
    path = Path(paper_dir) / f"{target}.csv"
    if not path.exists():
        return PaperNumbers({}, None)
    values, n_clients = {}, None
    for row in read_csv(path):
        x = float(row["x"]) if row["x"] else None
        key = (row["panel"], row["aggregator"], row["metric"], x)
        values[key] = PaperValue(float(row["value"]), float(row["error"]), row["source"])
        n_clients = int(row["n_clients"])
    return PaperNumbers(values, n_clients)
