"""Local training of many clients at once by PyTorch, on any device.

Clients that train together form a block: their networks are rows of one (m, N) matrix, their
batches one (m, B, ...) tensor, and one backward pass gives every client its own gradient, because
no tensor of one row meets a tensor of another.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arfl.attack import Attack
from arfl.device_data import DeviceData, crop
from arfl.local_training import Client, Epoch, LocalSettings
from arfl.network import Network
from arfl.optimizers import Optimizer


class _Batches(NamedTuple):
    """The batches of a block of m clients, on the device; 0 where there is no sample.

    Attributes:
        indices: (steps, m, B) int64.
        counts: (steps, m) int64, how many samples there are.
        crops: (steps, m, B, 3), or None.
        keep: (steps, m, B, units), or None.
        active: how many clients, always the first, have a batch at each step.
        widths: the largest batch of each step.
    """

    indices: Tensor
    counts: Tensor
    crops: Tensor | None
    keep: Tensor | None
    active: list[int]
    widths: list[int]


def train_clients(
    network: Network,
    data: DeviceData,
    global_model: Tensor,
    work: Sequence[tuple[Client, list[Epoch]]],
    settings: LocalSettings,
    attack: Attack,
) -> tuple[Tensor, Tensor]:
    """Train every client from the global model.

    Args:
        network: the network.
        data: the dataset on the device.
        global_model: (N,) on the device.
        work: the K clients of the round and what each draws for its local epochs.
        settings: what they share.
        attack: manipulates the batches of attacking clients.

    Returns:
        (K, N) trained models in the order of ``work``, and the (K, N) first moments (SGD's
        velocity) that their optimisers end with.
    """
    models = global_model.repeat(len(work), 1)
    moments = torch.zeros_like(models)
    if not network.joint:
        block = 1
    elif data.device.type == "cpu":
        block = max(1, network.samples_at_once_cpu // settings.batch_size)
    else:
        block = len(work)
    steps = [sum(len(epoch.batch_sizes) for epoch in drawn) for _, drawn in work]
    # Clients with as many batches as each other share a block; within it, longest first, so that
    # those still at work are always the first rows.
    order = sorted((k for k in range(len(work)) if steps[k]), key=lambda k: -steps[k])
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        models[rows], moments[rows] = _train_block(
            network, data, global_model, [work[k] for k in rows], settings, attack
        )
    return models, moments


def _pack(drawn: list[list[Epoch]], batch_size: int, device: torch.device) -> _Batches:
    steps = max(sum(len(epoch.batch_sizes) for epoch in of_client) for of_client in drawn)
    shape = (steps, len(drawn), batch_size)
    first = drawn[0][0]
    counts = np.zeros(shape[:2], dtype=np.int64)
    packed = {
        name: None if example is None else np.zeros(shape + example.shape[1:], dtype=example.dtype)
        for name, example in (("order", first.order), ("crops", first.crops), ("keep", first.keep))
    }
    for k, of_client in enumerate(drawn):
        step = 0
        for epoch in of_client:
            start = 0
            for size in epoch.batch_sizes.tolist():
                counts[step, k] = size
                for name, into in packed.items():
                    if into is not None:
                        into[step, k, :size] = getattr(epoch, name)[start : start + size]
                start, step = start + size, step + 1
    on_device = {
        name: None if value is None else torch.from_numpy(value).to(device, non_blocking=True)
        for name, value in packed.items()
    }
    return _Batches(
        on_device["order"],
        torch.from_numpy(counts).to(device, non_blocking=True),
        on_device["crops"],
        on_device["keep"],
        (counts > 0).sum(1).tolist(),
        counts.max(1).tolist(),
    )


def _trainable_views(network: Network, models: Tensor, gradients: Tensor) -> dict[str, Tensor]:
    """Leaf tensors over the rows of ``models`` whose gradients add up in ``gradients``."""
    views = network.layout.views(models.detach())
    for name, gradient in network.layout.views(gradients).items():
        if name not in network.layout.buffer_names:
            views[name].requires_grad_()
            views[name].grad = gradient
    return views


def _loss(logits: Tensor, y: Tensor, counts: Tensor, binary: bool) -> Tensor:
    """Sum over clients of the mean loss over each client's real samples."""
    if binary:
        each = F.binary_cross_entropy_with_logits(logits[..., 0], y.float(), reduction="none")
    else:
        each = F.cross_entropy(logits.transpose(1, 2), y, reduction="none")
    real = torch.arange(y.shape[1], device=y.device) < counts.unsqueeze(1)
    return (each * (real / counts.unsqueeze(1))).sum()


def _train_block(
    network: Network,
    data: DeviceData,
    global_model: Tensor,
    work: list[tuple[Client, list[Epoch]]],
    settings: LocalSettings,
    attack: Attack,
) -> tuple[Tensor, Tensor]:
    device = data.device
    models = global_model.repeat(len(work), 1)
    gradients = torch.zeros_like(models)
    clients = [client for client, _ in work]
    lr = torch.tensor([[client.lr] for client in clients], device=device)
    optimizer = Optimizer(settings.optimizer, models, lr, settings.momentum)
    batches = _pack([drawn for _, drawn in work], settings.batch_size, device)
    rows = 0
    for step, width in enumerate(batches.widths):
        if batches.active[step] != rows:
            rows = batches.active[step]
            tensors = _trainable_views(network, models[:rows], gradients[:rows])
            attacking = [k for k in range(rows) if clients[k].attacker is not None]
            # Moved once for all steps: each copy to a GPU would wait for it.
            attacking_rows = torch.tensor(attacking, device=device)
            attackers = tuple(clients[k].attacker for k in attacking)
        indices = batches.indices[step, :rows, :width]
        x, y = data.stored(indices), data.labels(indices)
        if batches.crops is not None:
            crops = batches.crops[step, :rows, :width].flatten(0, 1)
            x = crop(x.flatten(0, 1), crops).unflatten(0, indices.shape)
        x = data.inputs(x)
        if attacking:
            bad_x, bad_y = attack.poison(x[attacking_rows], y[attacking_rows], attackers)
            x, y = x.index_copy(0, attacking_rows, bad_x), y.index_copy(0, attacking_rows, bad_y)
        keep = None if batches.keep is None else batches.keep[step, :rows, :width]
        gradients[:rows].zero_()
        logits = network.forward(tensors, x, training=True, keep=keep)
        loss = _loss(logits, y, batches.counts[step, :rows], network.binary)
        with warnings.catch_warnings():
            # Views of a (K, N) matrix are strided, as meant: the gradients add up in its rows.
            warnings.filterwarnings("ignore", message="grad and param do not obey")
            loss.backward()
        optimizer.step(gradients[:rows])
    return models, optimizer.first
