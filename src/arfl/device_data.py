"""A prepared dataset as tensors resident on the training device, and batches out of it."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CROP_PADDING = 4
"""Pixels of zero padding before a random crop, as in the authors' code."""


def _resident(array: np.ndarray, device: torch.device) -> Tensor:
    # On a CPU the tensor is the memory map itself, so that jobs on one node share the page cache.
    # It is read-only, of which PyTorch warns; nothing here writes to it.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)


class DeviceData:
    """Training and test samples on one device.

    Args:
        dataset: `arfl.dataset.PreparedDataset`.
        device: where the samples live.
    """

    def __init__(self, dataset, device: torch.device):
        self.device = device
        self.meta = dataset.meta
        self._train_x = _resident(dataset.train_x, device)
        self._train_y = _resident(dataset.train_y, device)
        self._test_y = _resident(dataset.test_y, device)
        normalisation = self.meta["normalisation"]
        if normalisation is not None:
            mean = torch.tensor(normalisation["mean"], device=device).view(-1, 1, 1)
            std = torch.tensor(normalisation["std"], device=device).view(-1, 1, 1)
            # (x / 255 - mean) / std as one multiplication and one addition.
            self._scale, self._shift = 1 / (255 * std), -mean / std
        # Once, since every round looks at all of them.
        self._test_inputs = self.inputs(_resident(dataset.test_x, device))

    @property
    def n_test(self) -> int:
        """Number of test samples."""
        return len(self._test_y)

    def stored(self, indices: Tensor) -> Tensor:
        """Training samples (*indices.shape, ...) as they are stored."""
        # Row by row: general indexing takes ten times as long on a CPU.
        return self._train_x.index_select(0, indices.flatten()).unflatten(0, indices.shape)

    def labels(self, indices: Tensor) -> Tensor:
        """Int64 labels of training samples."""
        return self._train_y[indices].long()

    def inputs(self, stored: Tensor) -> Tensor:
        """Stored samples as networks take them: images normalised, all else as it is."""
        if stored.dtype == torch.uint8:
            return stored.float().mul_(self._scale).add_(self._shift)
        return stored

    def test_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs (B, ...) and int64 labels (B,) of test samples start to stop - 1."""
        return self._test_inputs[start:stop], self._test_y[start:stop].long()


def draw_crops(n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw (n, 3) int64 crops for `crop`: the top and left corner, and whether to flip."""
    corners = generator.integers(2 * CROP_PADDING + 1, size=(n, 2))
    return np.concatenate([corners, generator.integers(2, size=(n, 1))], axis=1)


def crop(x: Tensor, crops: Tensor) -> Tensor:
    """Random crops after zero padding, some of them flipped from left to right.

    Args:
        x: (B, C, H, W) images, any dtype.
        crops: (B, 3) int64 from `draw_crops`.
    """
    n, _, height, width = x.shape
    device = x.device
    top, left, flip = crops.unsqueeze(2).unbind(1)
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, -1)
    columns = left + torch.where(flip > 0, width - 1 - columns, columns)
    padded = F.pad(x, (CROP_PADDING,) * 4)
    picked = padded[
        torch.arange(n, device=device).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)
    ]
    # Advanced indices around a slice come first: (B, H, W, C).
    return picked.permute(0, 3, 1, 2)
