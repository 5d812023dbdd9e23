"""The paper's convolutional network for MNIST (Table 5)."""

import functools
import importlib
from types import ModuleType

import numpy as np
import torch.nn.functional as F

from arfl.kernels import fallback
from arfl.layout import Layout
from arfl.network import (
    CompiledTraining,
    Network,
    channels_to_clients,
    clients_to_channels,
    convolve,
    linear,
    sample_shape,
)


@functools.cache
def _kernels() -> ModuleType | None:
    """The compiled training, imported at the first use; None, and a warning, if that fails."""
    return fallback.numba_module(
        lambda: importlib.import_module("arfl.kernels.cnn_cpu"), "training of the CNN"
    )


class _Compiled(CompiledTraining):
    optimizer = "sgd"
    raw_pixels = True

    def __init__(self, kernels: ModuleType, normalisation: dict | None):
        self._kernels, self._normalise = kernels, {}
        if normalisation is not None:
            mean, std = (np.float32(normalisation[key][0]) for key in ("mean", "std"))
            self._normalise = {"scale": 1 / (255 * std), "shift": -mean / std}

    def train(self, model, moments, steps_done, x, y, batch_sizes, lr, momentum, keep):
        normalise = self._normalise if x.dtype == np.uint8 else {}
        self._kernels.train_epochs(model, moments[0], x, y, batch_sizes, lr, momentum, **normalise)

    def logits(self, model, x):
        return self._kernels.logits(model, x)


class Cnn(Network):
    """The paper's CNN: 3,146 parameters for 28x28 grey images and 10 classes.

    On a CPU clients train by `arfl.kernels.cnn_cpu`.
    """

    def __init__(self, meta: dict):
        n_classes = meta["n_classes"]
        self._normalisation = meta.get("normalisation")
        self.layout = Layout(
            {
                "conv1.weight": (4, 1, 5, 5),
                "conv1.bias": (4,),
                "conv2.weight": (8, 4, 5, 5),
                "conv2.bias": (8,),
                "fc1.weight": (16, 128),
                "fc1.bias": (16,),
                "fc2.weight": (n_classes, 16),
                "fc2.bias": (n_classes,),
            },
            output_layer_name="fc2.weight",
        )

    @staticmethod
    def takes(meta):
        """See `Network.takes`: 28x28 grey images."""
        return sample_shape(meta) == (1, 28, 28)

    def forward(self, tensors, x, training, keep):
        """See `Network.forward`; x is (K, B, 1, 28, 28)."""
        h = clients_to_channels(x)
        for name in ("conv1", "conv2"):
            # Pooling before ReLU gives the same values (both are monotone), and a quarter of them.
            h = F.relu(F.max_pool2d(convolve(h, tensors, name), 2))
        h = F.relu(linear(channels_to_clients(h, x.shape[0]), tensors, "fc1"))
        return linear(h, tensors, "fc2")

    def compiled(self):
        """See `Network.compiled`."""
        kernels = _kernels()
        return None if kernels is None else _Compiled(kernels, self._normalisation)
