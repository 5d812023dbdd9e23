"""cifar10: 60,000 colour images of 32x32 pixels in ten classes (Krizhevsky 2009)."""

import pickle
from pathlib import Path

import numpy as np

from arfl.dataset import Preparation, dataset
from arfl.datasets._sources import fetched, provenance

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = ("test_batch",)
_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataset(embedded=False)
def prepare(raw_dir: Path) -> Preparation:
    """Join the python batches.

    Args:
        raw_dir: a folder with the six batches, filled by `arfl.dataset.fetch`.
    """
    # Unpickling runs what the file says: fetched() holds the files to their checksums first.
    entries = fetched("cifar10", raw_dir)
    train_x, train_y = _read_batches(raw_dir, _TRAIN)
    test_x, test_y = _read_batches(raw_dir, _TEST)
    return Preparation(
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        kind="complete",
        note="CIFAR-10, complete",
        class_names=_CLASSES,
        normalisation={"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
        sources=provenance(entries),
    )


def _read_batches(raw_dir: Path, files: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for file in files:
        with open(raw_dir / file, "rb") as stream:
            batch = pickle.load(stream, encoding="latin1")
        images.append(batch["data"].reshape(-1, 3, 32, 32))
        labels.append(np.array(batch["labels"], dtype=np.uint8))
    return np.concatenate(images), np.concatenate(labels)
