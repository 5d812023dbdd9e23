"""What a network is: pure functions of its tensors, written for many clients at once.

A network is a file of `arfl.networks` with a subclass of `Network`. It takes its tensors with a
leading client axis, name -> (K, *shape), and a batch (K, B, ...), and returns logits (K, B,
classes): client k's batch goes through client k's network. The tensors are views of a flat (K, N)
matrix (see `arfl.layout`), so no state dictionary is walked.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arfl import registry
from arfl.errors import UserError
from arfl.layout import Layout

Tensors = Mapping[str, Tensor]


class CompiledTraining(ABC):
    """One client's local training on a CPU as one compiled call, where a network has one.

    Attributes:
        optimizer: the optimiser that it implements, "sgd" or "adam".
        raw_pixels: whether images are taken as the bytes that they are stored as.
    """

    optimizer: str
    raw_pixels = False

    @abstractmethod
    def train(
        self,
        model: np.ndarray,
        moments: np.ndarray,
        steps_done: int,
        x: np.ndarray,
        y: np.ndarray,
        batch_sizes: np.ndarray,
        lr: float,
        momentum: float,
        keep: np.ndarray | None,
    ) -> None:
        """Train one model on batches laid end to end.

        Args:
            model: (N,) float32, changed in place.
            moments: (1, N) float32 the optimiser's state, velocity of SGD, or (2, N) first and
                second moments of Adam; changed in place.
            steps_done: steps of this local training before this call.
            x: (n, ...) inputs in training order.
            y: (n,) int64 labels.
            batch_sizes: (steps,) int64, which add up to n.
            lr: learning rate.
            momentum: of SGD.
            keep: (n, units) uint8, which hidden units dropout keeps; None without dropout.
        """

    @abstractmethod
    def logits(self, model: np.ndarray, x: np.ndarray) -> np.ndarray:
        """(n, classes) float32 logits of (n, ...) inputs, or (n, 1) of a binary network."""


class Network(ABC):
    """A network as pure functions of its tensors; its constructor takes the dataset's metadata.

    Attributes:
        layout: names, shapes and order of the tensors in the flat vector.
        joint: whether clients of different batch sizes may share one call (padding samples are
            masked in the loss). False where a sample sees its neighbours: batch norm.
        binary: one logit per sample and binary cross-entropy instead of one logit per class.
        samples_at_once_cpu: clients share a call on a CPU up to so many samples in all (on a GPU
            all clients do, if joint). More no longer fit the processor's cache.
        dropout: probability with which a hidden unit is dropped while training; 0 for none.
        dropout_units: how many hidden units it concerns.
    """

    layout: Layout
    joint = True
    binary = False
    samples_at_once_cpu = 128
    dropout = 0.0
    dropout_units = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        registry.register(cls)

    @staticmethod
    @abstractmethod
    def takes(meta: dict) -> bool:
        """Whether the network fits a dataset, given its metadata; see `sample_shape`."""

    @abstractmethod
    def forward(self, tensors: Tensors, x: Tensor, training: bool, keep: Tensor | None) -> Tensor:
        """Logits (K, B, classes), or (K, B, 1) for a binary network.

        Args:
            tensors: name -> (K, *shape).
            x: (K, B, ...) inputs as `arfl.local_training` prepares them.
            training: batch statistics on.
            keep: (K, B, dropout_units) which hidden units dropout keeps; None for all.
        """

    def compiled(self) -> CompiledTraining | None:
        """Compiled training on a CPU; None if there is none or it cannot be loaded."""
        return None

    def initial(self, generator: torch.Generator) -> Tensor:
        """Draw an initial flat model (N,) on the CPU, float32.

        PyTorch's default scheme: uniform in +-1/sqrt(fan_in) for weights and biases, a standard
        normal for embeddings, ones and zeros for batch norm.
        """
        flat = torch.empty(self.layout.size)
        views = self.layout.views(flat.unsqueeze(0))
        for name, view in views.items():
            if name.endswith(("norm.weight", "norm.running_var")):
                view.fill_(1.0)
            elif name.endswith(("norm.bias", "norm.running_mean")):
                view.zero_()
            elif name.startswith("embedding"):
                view.normal_(generator=generator)
            else:
                weight_shape = self.layout.shapes[name.rsplit(".", 1)[0] + ".weight"]
                bound = 1 / math.sqrt(math.prod(weight_shape[1:]))
                view.uniform_(-bound, bound, generator=generator)
        return flat


def sample_shape(meta: dict) -> tuple[int, ...]:
    """The shape of one prepared sample."""
    return tuple(meta["arrays"]["train_x"]["shape"][1:])


def make(name: str, meta: dict, dropout: float = 0.0) -> Network:
    """The network ``name`` sized for a dataset.

    Args:
        name: a file of `arfl.networks`.
        meta: the prepared dataset's metadata (``n_classes``, ``vocabulary_size``, array shapes).
        dropout: probability; only for networks with this option.

    Raises:
        UserError: for an unknown network, or data that it does not take.
    """
    network = registry.get("networks", name)
    has_dropout = "dropout" in registry.options(network)
    if dropout and not has_dropout:
        raise UserError(f"network {name} has no dropout; set dropout to 0")
    if not network.takes(meta):
        raise UserError(
            f"network {name} does not take the data {meta['name']} (samples of shape "
            f"{sample_shape(meta)}); change the task's model or data"
        )
    return network(meta, dropout=dropout) if has_dropout else network(meta)


def convolve(x: Tensor, tensors: Tensors, name: str, stride: int = 1, padding: int = 0) -> Tensor:
    """(B, K*C, H, W) -> (B, K*C', H', W'), one group per client."""
    weight = tensors[f"{name}.weight"]
    bias = tensors.get(f"{name}.bias")
    return F.conv2d(
        x,
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride=stride,
        padding=padding,
        groups=weight.shape[0],
    )


def linear(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    """(K, B, in) -> (K, B, out)."""
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def clients_to_channels(x: Tensor) -> Tensor:
    """(K, B, C, H, W) -> (B, K*C, H, W)."""
    return x.transpose(0, 1).flatten(1, 2)


def channels_to_clients(x: Tensor, n_clients: int) -> Tensor:
    """(B, K*C, ...) -> (K, B, C*...), flattened per sample."""
    return x.unflatten(1, (n_clients, -1)).transpose(0, 1).flatten(2)
