"""Figure 5: a test image with and without the backdoor's trigger."""

import os

import numpy as np
import torch

from arfl import attack as attacks
from arfl import dataset as datasets
from arfl.device_data import DeviceData
from arfl.files import atomic_path


def write(data: str | os.PathLike, options: dict, out: str | os.PathLike) -> None:
    """Write one triggered image beside the clean one.

    The image is the first test image that is not of the target class; the trigger is set by the
    attack itself, on the normalised image, and normalisation is undone for the eye.

    Args:
        data: prepared folder of an image dataset.
        options: of the attack ``backdoor``.
        out: ``.npz`` file with ``clean`` and ``triggered``, (H, W) or (H, W, 3) uint8, and a
            ``note`` that says which data it is.

    Raises:
        UserError: if the data are not images.
    """
    dataset = datasets.load(data)
    attack = attacks.make("backdoor", dataset.meta, **options)
    x, y = DeviceData(dataset, torch.device("cpu")).test_batch(0, len(dataset.test_y))
    probe = attack.probe(x, y)
    first = int((y != probe.target).nonzero()[0, 0])
    normalisation = dataset.meta["normalisation"]
    mean = torch.tensor(normalisation["mean"]).view(-1, 1, 1)
    std = torch.tensor(normalisation["std"]).view(-1, 1, 1)

    def visible(image: torch.Tensor) -> np.ndarray:
        pixels = ((image * std + mean) * 255).round().clamp(0, 255).byte().numpy()
        return np.moveaxis(pixels, 0, -1).squeeze()

    note = (
        f"{dataset.name}, {dataset.meta['note']}: a test image of class "
        f"{dataset.class_names[int(y[first])]}; target: {dataset.class_names[probe.target]}."
    )
    with atomic_path(out) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(
            stream, clean=visible(x[first]), triggered=visible(probe.x[first]), note=note
        )
