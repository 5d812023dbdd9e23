"""The paper's four networks, written for many clients at once.

Every network takes its tensors with a leading client axis, name -> (K, *shape), and a batch
(K, B, ...), and returns logits (K, B, classes): client k's batch goes through client k's network.
Convolutions of K clients are one grouped convolution; with K = 1 that is the ordinary one. The
tensors are views of a flat (K, N) matrix (see `arfl.layout`), so no state dictionary is walked.
"""

import functools
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from arfl import fallback
from arfl.errors import UserError
from arfl.layout import Layout

Tensors = Mapping[str, Tensor]

_BATCH_NORM_MOMENTUM = 0.1  # PyTorch's default share of the new batch in the running statistics
_BATCH_NORM_EPS = 1e-5


class Model(ABC):
    """A network as pure functions of its tensors.

    Attributes:
        layout: names, shapes and order of the tensors in the flat vector.
        joint: whether clients of different batch sizes may share one call (padding samples are
            masked in the loss). False where a sample sees its neighbours: batch norm.
        binary: one logit per sample and binary cross-entropy instead of one logit per class.
        samples_at_once_cpu: clients share a call on a CPU up to so many samples in all (on a GPU
            all clients do, if joint). More no longer fit the processor's cache.
    """

    layout: Layout
    joint = True
    binary = False
    samples_at_once_cpu = 128

    @abstractmethod
    def forward(
        self, tensors: Tensors, x: Tensor, training: bool, generator: torch.Generator | None
    ) -> Tensor:
        """Logits (K, B, classes), or (K, B, 1) for a binary model.

        Args:
            tensors: name -> (K, *shape).
            x: (K, B, ...) inputs as `arfl.local_training` prepares them.
            training: batch statistics and dropout on.
            generator: the stream that dropout draws from; only used while training.
        """

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


def _convolve(x: Tensor, tensors: Tensors, name: str, stride: int = 1, padding: int = 0) -> Tensor:
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


def _linear(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    """(K, B, in) -> (K, B, out)."""
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def _clients_to_channels(x: Tensor) -> Tensor:
    """(K, B, C, H, W) -> (B, K*C, H, W)."""
    return x.transpose(0, 1).flatten(1, 2)


def _channels_to_clients(x: Tensor, n_clients: int) -> Tensor:
    """(B, K*C, ...) -> (K, B, C*...), flattened per sample."""
    return x.unflatten(1, (n_clients, -1)).transpose(0, 1).flatten(2)


@functools.cache
def _lane_convolution() -> ModuleType | None:
    """`arfl.lane_convolution`, imported at the first use; None, and a warning, if it fails."""
    return fallback.numba_module(
        lambda: importlib.import_module("arfl.lane_convolution"), "convolution"
    )


class Cnn(Model):
    """The paper's CNN for MNIST (Table 5): 3,146 parameters for 28x28 grey images, 10 classes.

    Args:
        n_classes: outputs.
        lanes: whether the convolutions run on a CPU by `arfl.lane_convolution`.
    """

    def __init__(self, n_classes: int, lanes: bool = True):
        self._lanes = lanes
        if lanes:
            self.samples_at_once_cpu = 384
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

    def forward(self, tensors, x, training, generator):
        """See `Model.forward`; x is (K, B, 1, 28, 28)."""
        lanes = _lane_convolution() if self._lanes and x.device.type == "cpu" else None
        if lanes is not None:
            h = lanes.to_lanes(x)
            for name in ("conv1", "conv2"):
                h = lanes.convolve_pool(h, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
            h = lanes.from_lanes(h, x.shape[1])
        else:
            h = _clients_to_channels(x)
            for name in ("conv1", "conv2"):
                # Pooling before ReLU gives the same values (both are monotone), a quarter of them.
                h = F.relu(F.max_pool2d(_convolve(h, tensors, name), 2))
            h = _channels_to_clients(h, x.shape[0])
        h = F.relu(_linear(h, tensors, "fc1"))
        return _linear(h, tensors, "fc2")


def compile_kernels() -> None:
    """Compile, and keep on disk, what training the CNN on the CPU needs.

    Optional, like `arfl.aggregators.compile_kernels`: the first training does the same.
    """
    model = Cnn(10)
    flat = model.initial(torch.Generator()).unsqueeze(0).requires_grad_()
    x = torch.zeros(1, 1, 1, 28, 28)
    model.forward(model.layout.views(flat), x, training=True, generator=None).sum().backward()


class ResNet18(Model):
    """ResNet-18 (He et al. 2015) for 32x32 colour images: 3x3 stem, no stem pooling.

    11,173,962 trained parameters for 10 classes, and 9,600 batch-norm running statistics that
    are part of the model. Clients are trained one at a time: batch norm ties samples together,
    and one such network alone keeps the device busy.
    """

    joint = False
    _WIDTHS = (64, 128, 256, 512)

    def __init__(self, n_classes: int):
        shapes: dict[str, tuple[int, ...]] = {}
        buffers = set()

        def convolution(name: str, c_in: int, c_out: int, kernel: int) -> None:
            shapes[f"{name}.conv.weight"] = (c_out, c_in, kernel, kernel)
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{name}.norm.{part}"] = (c_out,)
                if part.startswith("running"):
                    buffers.add(f"{name}.norm.{part}")

        convolution("stem", 3, 64, 3)
        self._blocks = []
        c_in = 64
        for stage, width in enumerate(self._WIDTHS, start=1):
            for block in (1, 2):
                name = f"stage{stage}.block{block}"
                convolution(f"{name}.first", c_in, width, 3)
                convolution(f"{name}.second", width, width, 3)
                if c_in != width:
                    convolution(f"{name}.shortcut", c_in, width, 1)
                self._blocks.append((name, 2 if c_in != width else 1, c_in != width))
                c_in = width
        shapes["fc.weight"] = (n_classes, 512)
        shapes["fc.bias"] = (n_classes,)
        self.layout = Layout(shapes, output_layer_name="fc.weight", buffer_names=frozenset(buffers))

    @staticmethod
    def _convolve_normalise(x, tensors, name, training, stride=1):
        kernel = tensors[f"{name}.conv.weight"].shape[-1]
        h = _convolve(x, tensors, f"{name}.conv", stride=stride, padding=kernel // 2)
        # The running statistics are one client's slices of the flat model, written in place.
        return F.batch_norm(
            h,
            tensors[f"{name}.norm.running_mean"][0].detach(),
            tensors[f"{name}.norm.running_var"][0].detach(),
            tensors[f"{name}.norm.weight"][0],
            tensors[f"{name}.norm.bias"][0],
            training=training,
            momentum=_BATCH_NORM_MOMENTUM,
            eps=_BATCH_NORM_EPS,
        )

    def forward(self, tensors, x, training, generator):
        """See `Model.forward`; x is (1, B, 3, 32, 32)."""
        if x.shape[0] != 1:
            raise ValueError("batch norm: one client a call")
        h = F.relu(self._convolve_normalise(x[0], tensors, "stem", training))
        for name, stride, has_shortcut in self._blocks:
            y = F.relu(self._convolve_normalise(h, tensors, f"{name}.first", training, stride))
            y = self._convolve_normalise(y, tensors, f"{name}.second", training)
            if has_shortcut:
                h = self._convolve_normalise(h, tensors, f"{name}.shortcut", training, stride)
            h = F.relu(y + h)
        h = h.mean((2, 3)).unsqueeze(0)
        return _linear(h, tensors, "fc")


class FastText(Model):
    """fastText (Joulin et al. 2016): word embeddings, their mean, one linear logit."""

    binary = True
    DIMENSION = 100

    def __init__(self, vocabulary_size: int):
        self.layout = Layout(
            {
                "embedding.weight": (vocabulary_size, self.DIMENSION),
                "fc.weight": (1, self.DIMENSION),
                "fc.bias": (1,),
            },
            output_layer_name="fc.weight",
        )

    def forward(self, tensors, x, training, generator):
        """See `Model.forward`; x is (K, B, L) token ids, -1 where a text is shorter than L."""
        embedding = tensors["embedding.weight"]
        n_clients, vocabulary_size, dimension = embedding.shape
        present = x >= 0
        # One bag look-up over the K tables laid end to end. Absent tokens point at row 0 of the
        # client's table with weight zero; a text without any token has the zero vector.
        base = torch.arange(n_clients, device=x.device).view(-1, 1, 1) * vocabulary_size
        rows = (x.clamp(min=0).long() + base).flatten(0, 1)
        weights = (present / present.sum(-1, keepdim=True).clamp(min=1)).flatten(0, 1)
        mean = F.embedding_bag(
            rows,
            embedding.reshape(-1, dimension),
            mode="sum",
            per_sample_weights=weights.to(embedding.dtype),
        )
        return _linear(mean.unflatten(0, (n_clients, -1)), tensors, "fc")


class LoanNet(Model):
    """Three fully connected layers for the loan table: 91 -> 46 -> 23 -> 9 (A.2).

    Dropout with probability ``dropout`` follows each hidden layer's ReLU.
    """

    samples_at_once_cpu = 1024  # so small that a call costs more than its arithmetic

    def __init__(self, n_features: int, n_classes: int, dropout: float):
        self._dropout = dropout
        self.layout = Layout(
            {
                "fc1.weight": (46, n_features),
                "fc1.bias": (46,),
                "fc2.weight": (23, 46),
                "fc2.bias": (23,),
                "fc3.weight": (n_classes, 23),
                "fc3.bias": (n_classes,),
            },
            output_layer_name="fc3.weight",
        )

    def forward(self, tensors, x, training, generator):
        """See `Model.forward`; x is (K, B, features)."""
        h = self._drop(F.relu(_linear(x, tensors, "fc1")), training, generator)
        h = self._drop(F.relu(_linear(h, tensors, "fc2")), training, generator)
        return _linear(h, tensors, "fc3")

    def _drop(self, h: Tensor, training: bool, generator: torch.Generator | None) -> Tensor:
        # F.dropout takes no generator, and the global one would tie the clients' streams together.
        if not training or not self._dropout:
            return h
        keep = torch.rand(h.shape, generator=generator, device=h.device) >= self._dropout
        return h * keep / (1 - self._dropout)


NAMES = ("cnn", "resnet18", "fasttext", "loannet")

_SHORT = 100_000
"""Samples trained on in all below which the CNN runs by PyTorch's operations on a CPU too: loading
numba and the kernels takes most of a second, which is more than so few samples save."""


def build(name: str, meta: dict, dropout: float, training_samples: int) -> Model:
    """The network ``name`` sized for a dataset.

    Args:
        name: one of `NAMES`.
        meta: the prepared dataset's metadata (``n_classes``, ``vocabulary_size``, array shapes).
        dropout: probability; only loannet has any.
        training_samples: how many all clients train on in all rounds and epochs, about.

    Raises:
        UserError: for an unknown name, or data that the network does not take.
    """
    if name not in NAMES:
        raise UserError(f"unknown model {name!r}; choose one of {', '.join(NAMES)}")
    if dropout and name != "loannet":
        raise UserError(f"model {name} has no dropout; set dropout to 0")
    shape = tuple(meta["arrays"]["train_x"]["shape"][1:])
    # Texts and table rows are as long as the data makes them.
    takes = {"cnn": (1, 28, 28), "resnet18": (3, 32, 32)}.get(name, shape[:1])
    if shape != takes or (name == "fasttext") != bool(meta["vocabulary_size"]):
        raise UserError(
            f"model {name} does not take the data {meta['name']} (samples of shape {shape}); "
            "change the task's model or data"
        )
    if name == "cnn":
        return Cnn(meta["n_classes"], lanes=training_samples >= _SHORT)
    if name == "resnet18":
        return ResNet18(meta["n_classes"])
    if name == "fasttext":
        return FastText(meta["vocabulary_size"])
    return LoanNet(*shape, meta["n_classes"], dropout)
