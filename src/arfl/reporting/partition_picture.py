"""A picture of a partition: participants x classes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from arfl.files import atomic_path

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize


def heat_map(axes: Axes, class_counts: np.ndarray) -> QuadMesh:
    """Draw (n_clients, n_classes) counts, classes downwards; white is none, colours begin at 0."""
    counts = np.ma.masked_equal(class_counts.T, 0)
    # Participants that differ by orders of magnitude, as states do, need logarithmic colours.
    totals = counts.sum(axis=0)
    logarithmic = totals.max() > 20 * totals.min()
    norm = LogNorm(1, counts.max()) if logarithmic else Normalize(0, counts.max())
    # Viridis (reversed: more is darker) is told apart by colour-blind readers and in grey.
    mesh = axes.pcolormesh(
        counts, cmap="viridis_r", norm=norm, edgecolors="white", linewidth=0.4, rasterized=True
    )
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.7")
    axes.grid(visible=False)
    axes.set_xlabel("participant")
    axes.set_ylabel("class")
    return mesh


def draw(
    class_counts: np.ndarray,
    description: Mapping[str, Any],
    class_names: Sequence[str],
    path: str | os.PathLike,
) -> None:
    """Draw how many samples of each class each participant holds.

    Args:
        class_counts: (n_clients, n_classes) samples of each class at each participant.
        description: of the partition, see `arfl.partition.Partition`.
        class_names: the name of each class, in the order of the labels.
        path: the file to write, its format by its suffix (``.png`` or ``.pdf``).
    """
    n_clients, n_classes = class_counts.shape
    name_width = 0.075 * max(len(name) for name in class_names)
    size = (min(10, 2.2 + 0.3 * n_clients) + name_width, 1.3 + 0.26 * n_classes)
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    try:
        mesh = heat_map(axes, class_counts)
        axes.set_yticks(np.arange(n_classes) + 0.5, class_names)
        names = description.get("client_names")
        step = 1 if n_clients <= 60 else 10
        shown = np.arange(0, n_clients, step)
        axes.set_xticks(
            shown + 0.5,
            [names[client] if names else str(client) for client in shown],
            rotation=90 if n_clients > 20 else 0,
            fontsize="small",
        )
        scheme = {
            key: value
            for key, value in description.items()
            if key not in ("name", "n_clients", "dataset", "dataset_checksum", "client_names")
        }
        details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in scheme.items())
        axes.set_title(
            f"{description['dataset']}: {description['name']} ({details})",
            fontsize="medium",
            loc="left",
        )
        figure.colorbar(mesh, ax=axes, label="samples", pad=0.01, aspect=12)
        # Without the date, equal pictures are equal files.
        undated = {"CreationDate": None} if Path(path).suffix == ".pdf" else {}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200, metadata=undated)
    finally:
        pyplot.close(figure)
