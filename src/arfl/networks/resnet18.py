"""ResNet-18 (He et al. 2015), the paper's network for CIFAR-10."""

import torch.nn.functional as F

from arfl.layout import Layout
from arfl.network import Network, convolve, linear, sample_shape

_BATCH_NORM_MOMENTUM = 0.1  # PyTorch's default share of the new batch in the running statistics
_BATCH_NORM_EPS = 1e-5


class ResNet18(Network):
    """ResNet-18 (He et al. 2015) for 32x32 colour images: 3x3 stem, no stem pooling.

    11,173,962 trained parameters for 10 classes, and 9,600 batch-norm running statistics that
    are part of the model. Clients are trained one at a time: batch norm ties samples together,
    and one such network alone keeps the device busy.
    """

    joint = False
    _WIDTHS = (64, 128, 256, 512)

    def __init__(self, meta: dict):
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
        shapes["fc.weight"] = (meta["n_classes"], 512)
        shapes["fc.bias"] = (meta["n_classes"],)
        self.layout = Layout(shapes, output_layer_name="fc.weight", buffer_names=frozenset(buffers))

    @staticmethod
    def takes(meta):
        """See `Network.takes`: 32x32 colour images."""
        return sample_shape(meta) == (3, 32, 32)

    @staticmethod
    def _convolve_normalise(x, tensors, name, training, stride=1):
        kernel = tensors[f"{name}.conv.weight"].shape[-1]
        h = convolve(x, tensors, f"{name}.conv", stride=stride, padding=kernel // 2)
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

    def forward(self, tensors, x, training, keep):
        """See `Network.forward`; x is (1, B, 3, 32, 32)."""
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
        return linear(h, tensors, "fc")
