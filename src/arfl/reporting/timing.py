"""Seconds per aggregator, from the records."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from arfl.reporting.collect import CellRow

RULE = (
    "Medians over the cells of a task, as measured in the job that trained the cell; jobs that ran "
    "beside others on the same machine are slower."
)


@dataclass(frozen=True)
class Timing:
    """Median seconds of one aggregator on one task and device."""

    task: str
    aggregator: str
    label: str
    n_clients: int
    device: str
    n_cells: int
    aggregation_per_round: float
    training_per_round: float
    evaluation_per_round: float
    total_per_cell: float


COLUMNS = [f.name for f in fields(Timing)]


def summarise(cells: Sequence[CellRow]) -> list[Timing]:
    """Median seconds by (task, aggregator, clients, device), in the order of the cells."""
    groups: dict[tuple, list[CellRow]] = {}
    for c in cells:
        if c.done:
            key = (c.task, c.aggregator, c.label, c.n_clients, c.device_name or c.device)
            groups.setdefault(key, []).append(c)
    rows = []
    for (task, aggregator, label, n_clients, device), group in sorted(
        groups.items(), key=lambda item: _order(item[0], cells)
    ):
        rows.append(
            Timing(
                task=task,
                aggregator=aggregator,
                label=label,
                n_clients=n_clients,
                device=device,
                n_cells=len(group),
                aggregation_per_round=_median(c.seconds_aggregation / c.n_rounds for c in group),
                training_per_round=_median(c.seconds_training / c.n_rounds for c in group),
                evaluation_per_round=_median(c.seconds_evaluation / c.n_rounds for c in group),
                total_per_cell=_median(c.seconds_total for c in group),
            )
        )
    return rows


def _order(key: tuple, cells: Sequence[CellRow]) -> tuple[int, int]:
    aggregators = list(dict.fromkeys(c.aggregator for c in cells))
    tasks = list(dict.fromkeys(c.task for c in cells))
    return aggregators.index(key[1]), tasks.index(key[0])


def _median(values) -> float:
    return float(np.median(list(values)))
