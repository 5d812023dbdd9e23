"""mnist: 70,000 handwritten digits of 28x28 pixels (LeCun et al. 1998), from the IDX files."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from arfl.dataset import Preparation, dataset
from arfl.datasets._sources import fetched, provenance
from arfl.errors import UserError

_PARTS = ("train", "t10k")
_UNSIGNED_BYTES = b"\0\0\x08"


@dataset(embedded=False)
def prepare(raw_dir: Path) -> Preparation:
    """Unpack the training and test images and labels.

    Args:
        raw_dir: a folder with the four IDX files, filled by `arfl.dataset.fetch`.
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
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path} ({error}); fetch mnist again") from None
    header = 4 + 4 * content[3] if content[:3] == _UNSIGNED_BYTES and len(content) > 3 else 0
    shape = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    if not shape or len(content) != header + math.prod(shape):
        raise UserError(f"{path} is not an IDX file of unsigned bytes; fetch mnist again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
