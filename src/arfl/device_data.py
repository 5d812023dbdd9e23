"""A prepared dataset as tensors resident on the training device, and batches out of it."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_CROP_PADDING = 4


def _resident(array: np.ndarray, device: torch.device) -> Tensor:
    # On a CPU the tensor is the memory map itself, so that jobs on one node share the page cache.
    # It is read-only, of which PyTorch warns; nothing here writes to it.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)


class DeviceData:
    """Training and test samples on one device.

    Args:
        dataset: `arfl.datasets.PreparedDataset`.
        device: where the samples live.
        augment: random crop (4 pixels of zero padding) and horizontal flip of training images.
    """

    def __init__(self, dataset, device: torch.device, augment: bool = False):
        self.device = device
        self.meta = dataset.meta
        self.augment = augment
        self._train_x = _resident(dataset.train_x, device)
        self._test_x = _resident(dataset.test_x, device)
        self._train_y = _resident(dataset.train_y, device)
        self._test_y = _resident(dataset.test_y, device)
        normalisation = self.meta["normalisation"]
        if normalisation is not None:
            mean = torch.tensor(normalisation["mean"], device=device).view(-1, 1, 1)
            std = torch.tensor(normalisation["std"], device=device).view(-1, 1, 1)
            # (x / 255 - mean) / std as one multiplication and one addition.
            self._scale, self._shift = 1 / (255 * std), -mean / std

    @property
    def n_test(self) -> int:
        """Number of test samples."""
        return len(self._test_y)

    def _inputs(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            return x.float().mul_(self._scale).add_(self._shift)
        return x

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs (K, B, ...) and int64 labels (K, B) of training samples ``indices`` (K, B)."""
        # Row by row: general indexing takes ten times as long on a CPU.
        x = self._train_x.index_select(0, indices.flatten()).unflatten(0, indices.shape)
        if self.augment:
            x = augment_images(x.flatten(0, 1), generator).unflatten(0, indices.shape)
        return self._inputs(x), self._train_y[indices].long()

    def test_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs (B, ...) and int64 labels (B,) of test samples start to stop - 1."""
        return self._inputs(self._test_x[start:stop]), self._test_y[start:stop].long()


def augment_images(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop after zero padding, and random horizontal flip, drawn for each image.

    Args:
        x: (B, C, H, W) images, any dtype.
        generator: on the images' device.
    """
    n, _, height, width = x.shape
    device = x.device
    top, left = torch.randint(
        2 * _CROP_PADDING + 1, (2, n, 1), generator=generator, device=device
    ).unbind(0)
    flip = torch.rand((n, 1), generator=generator, device=device) < 0.5
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, -1)
    columns = left + torch.where(flip, width - 1 - columns, columns)
    padded = F.pad(x, (_CROP_PADDING,) * 4)
    picked = padded[
        torch.arange(n, device=device).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)
    ]
    # Advanced indices around a slice come first: (B, H, W, C).
    return picked.permute(0, 3, 1, 2)
