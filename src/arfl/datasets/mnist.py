"""mnist: 70,000 handwritten digits of 28x28 pixels (LeCun et al. 1998), from the IDX files."""

import gzip
from pathlib import Path

import numpy as np

from arfl.datasets._prepared import Preparation
from arfl.datasets._sources import fetched, provenance
from arfl.errors import UserError

EMBEDDED = False

_PARTS = ("train", "t10k")
_UNSIGNED_BYTE = 8


def prepare(raw_dir: Path) -> Preparation:
    """Unpack the training and test images and labels.

    Args:
        raw_dir: a folder with the four IDX files, filled by `arfl.datasets.fetch`.
    """
    entries = fetched("mnist", raw_dir)
    images = {part: _read_idx(raw_dir / f"{part}-images-idx3-ubyte.gz") for part in _PARTS}
    labels = {part: _read_idx(raw_dir / f"{part}-labels-idx1-ubyte.gz") for part in _PARTS}
    train, test = _PARTS
    return Preparation(
        train_x=images[train][:, None],
        train_y=labels[train],
        test_x=images[test][:, None],
        test_y=labels[test],
        kind="complete",
        note="MNIST, complete",
        class_names=[str(digit) for digit in range(10)],
        normalisation={"mean": [0.1307], "std": [0.3081]},
        sources=provenance(entries),
    )


def _read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes.

    The format: two zero bytes, the type code, the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the values in row-major order.
    """
    try:
        with gzip.open(path) as stream:
            content = stream.read()
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {path} ({error}); fetch mnist again") from None
    n_dimensions = content[3]
    shape = np.frombuffer(content, ">u4", n_dimensions, offset=4)
    if content[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or len(content) != 4 + 4 * n_dimensions + (
        int(np.prod(shape))
    ):
        raise UserError(f"{path} is not an IDX file of unsigned bytes; fetch mnist again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)
