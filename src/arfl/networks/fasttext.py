"""fastText (Joulin et al. 2016), the paper's network for the Amazon reviews."""

import functools
import importlib
from types import ModuleType

import torch
import torch.nn.functional as F

from arfl.kernels import fallback
from arfl.layout import Layout
from arfl.network import CompiledTraining, Network, linear, sample_shape


@functools.cache
def _kernels() -> ModuleType | None:
    """The compiled training, imported at the first use; None, and a warning, if that fails."""
    return fallback.numba_module(
        lambda: importlib.import_module("arfl.kernels.fasttext_cpu"), "training of fastText"
    )


class _Compiled(CompiledTraining):
    optimizer = "adam"

    def __init__(self, kernels: ModuleType):
        self._kernels = kernels

    def train(self, model, moments, steps_done, x, y, batch_sizes, lr, momentum, keep):
        self._kernels.train_epochs(model, moments[0], moments[1], steps_done, x, y, batch_sizes, lr)

    def logits(self, model, x):
        return self._kernels.logits(model, x)


class FastText(Network):
    """Word embeddings, their mean, one linear logit.

    On a CPU clients train by `arfl.kernels.fasttext_cpu`.
    """

    binary = True
    DIMENSION = 100

    def __init__(self, meta: dict):
        self._vocabulary_size = meta["vocabulary_size"]
        self.layout = Layout(
            {
                "embedding.weight": (self._vocabulary_size, self.DIMENSION),
                "fc.weight": (1, self.DIMENSION),
                "fc.bias": (1,),
            },
            output_layer_name="fc.weight",
        )

    @staticmethod
    def takes(meta):
        """See `Network.takes`: token ids of texts."""
        return len(sample_shape(meta)) == 1 and bool(meta["vocabulary_size"])

    def forward(self, tensors, x, training, keep):
        """See `Network.forward`; x is (K, B, L) token ids, -1 where a text is shorter than L."""
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
        return linear(mean.unflatten(0, (n_clients, -1)), tensors, "fc")

    def compiled(self):
        """See `Network.compiled`."""
        kernels = _kernels()
        return None if kernels is None else _Compiled(kernels)
