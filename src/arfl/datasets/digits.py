"""digits: the embedded stand-in for MNIST (and for CIFAR-10 at scale quick).

The 1,797 handwritten digits of 8x8 pixels that scikit-learn carries (E. Alpaydin and C. Kaynak,
Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998), enlarged to
28x28 by bilinear interpolation so that the paper's MNIST network takes them unchanged.
"""

from pathlib import Path

import numpy as np

from arfl.dataset import Preparation, dataset, preparation_stream, stratified_split

_SIDE = 28
_BRIGHTEST = 16


@dataset(embedded=True)
def prepare(raw_dir: Path, *, seed: int = 0) -> Preparation:
    """Enlarge the digits and split them 80/20 within each digit.

    Args:
        raw_dir: not used; nothing has to be fetched.
        seed: decides the split.
    """
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    source = load_digits()
    factor = _SIDE / source.images.shape[1]
    # grid_mode takes pixels as areas, so that the enlarged picture stays centred.
    enlarged = zoom(source.images, (1, factor, factor), order=1, mode="nearest", grid_mode=True)
    images = np.rint(enlarged * (255 / _BRIGHTEST)).astype(np.uint8)[:, None]
    labels = source.target.astype(np.uint8)
    train, test = stratified_split(labels, preparation_stream(seed))
    shares = images[train] / 255
    return Preparation(
        train_x=images[train],
        train_y=labels[train],
        test_x=images[test],
        test_y=labels[test],
        kind="stand-in",
        note="scikit-learn's 1,797 real 8x8 digits enlarged to 28x28, a stand-in",
        class_names=[str(digit) for digit in range(10)],
        normalisation={
            "mean": [round(float(shares.mean()), 4)],
            "std": [round(float(shares.std()), 4)],
        },
        sources=[{"file": "sklearn.datasets.load_digits", "origin": "embedded in scikit-learn"}],
        details={"split_seed": seed},
    )
