"""Forward pass of the CNN for many clients on a GPU: the twin there of `arfl.networks.cnn`.

Each client's convolution is a product of its weights with the images' patches laid out (unfold and
batched products). A rule, not yet a measurement: a group of one or four channels gives a grouped
convolution on a GPU too little to do, and its deterministic gradients least of all, while patches
cost memory traffic alone, 0.7 GB a step for 100 clients of 128 images. ``benchmarks/on_gpu.py``
measures both.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from arfl.network import linear


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each client's convolution of its own images, without padding.

    Args:
        x: (K, B, C, H, W) images.
        weight: (K, D, C, k, k).
        bias: (K, D).

    Returns:
        (K, B, D, H - k + 1, W - k + 1).
    """
    kernel = weight.shape[-1]
    height, width = (side - kernel + 1 for side in x.shape[-2:])
    patches = F.unfold(x.flatten(0, 1), kernel).unflatten(0, x.shape[:2])
    products = weight.flatten(2).unsqueeze(1) @ patches
    return (products + bias[:, None, :, None]).unflatten(3, (height, width))


def forward(
    tensors: Mapping[str, Tensor], x: Tensor, training: bool, keep: Tensor | None
) -> Tensor:
    """See `arfl.network.Network.forward`; x is (K, B, 1, 28, 28)."""
    for name in ("conv1", "conv2"):
        h = convolve(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        x = F.relu(F.max_pool2d(h.flatten(0, 1), 2)).unflatten(0, h.shape[:2])
    h = F.relu(linear(x.flatten(2), tensors, "fc1"))
    return linear(h, tensors, "fc2")
