"""The paper's network for the loan table (A.2): three fully connected layers."""

import functools
import importlib
from types import ModuleType

import torch.nn.functional as F

from arfl.kernels import fallback
from arfl.layout import Layout
from arfl.network import CompiledTraining, Network, linear, sample_shape

_HIDDEN = (46, 23)


@functools.cache
def _kernels() -> ModuleType | None:
    """The compiled training, imported at the first use; None, and a warning, if that fails."""
    return fallback.numba_module(
        lambda: importlib.import_module("arfl.kernels.loannet_cpu"), "training of LoanNet"
    )


class _Compiled(CompiledTraining):
    optimizer = "sgd"

    def __init__(self, kernels: ModuleType, dropout: float):
        self._kernels, self._factor = kernels, 1 / (1 - dropout)

    def train(self, model, moments, steps_done, x, y, batch_sizes, lr, momentum, keep):
        dropped = {} if keep is None else {"keep": keep, "factor": self._factor}
        self._kernels.train_epochs(model, moments[0], x, y, batch_sizes, lr, momentum, **dropped)

    def logits(self, model, x):
        return self._kernels.logits(model, x)


class LoanNet(Network):
    """91 -> 46 -> 23 -> 9 with ReLU and, after each hidden layer, dropout.

    On a CPU clients train by `arfl.kernels.loannet_cpu`.
    """

    samples_at_once_cpu = 1024  # so small that a call costs more than its arithmetic
    dropout_units = sum(_HIDDEN)

    def __init__(self, meta: dict, *, dropout: float = 0.0):
        self.dropout = dropout
        self._sizes = (*sample_shape(meta), *_HIDDEN, meta["n_classes"])
        shapes: dict[str, tuple[int, ...]] = {}
        for number in (1, 2, 3):
            shapes[f"fc{number}.weight"] = (self._sizes[number], self._sizes[number - 1])
            shapes[f"fc{number}.bias"] = (self._sizes[number],)
        self.layout = Layout(shapes, output_layer_name="fc3.weight")

    @staticmethod
    def takes(meta):
        """See `Network.takes`: rows of a table."""
        return len(sample_shape(meta)) == 1 and not meta["vocabulary_size"]

    def forward(self, tensors, x, training, keep):
        """See `Network.forward`; x is (K, B, features)."""
        kept = (None, None) if keep is None else keep.split(_HIDDEN, dim=-1)
        for number in (1, 2):
            x = F.relu(linear(x, tensors, f"fc{number}"))
            if kept[number - 1] is not None:
                x = x * kept[number - 1] / (1 - self.dropout)
        return linear(x, tensors, "fc3")

    def compiled(self):
        """See `Network.compiled`."""
        kernels = _kernels()
        return None if kernels is None else _Compiled(kernels, self.dropout)
