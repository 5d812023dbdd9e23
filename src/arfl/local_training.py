"""Local training of a round's clients, many at once: flat models (K, N) out.

Clients that train together form a block: their networks are rows of one (m, N) matrix, their
batches one (m, B, ...) tensor, and one backward pass gives every client its own gradient, because
no tensor of one row meets a tensor of another.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arfl import seeds
from arfl.attacks import Attack
from arfl.device_data import DeviceData
from arfl.models import Model
from arfl.optimizers import Optimizer


@dataclass(frozen=True)
class Client:
    """One client's work in a round.

    Attributes:
        number: the client's identity, also the coordinate of its random streams.
        samples: (n,) int64 indices of its training samples.
        epochs: local epochs.
        lr: learning rate.
        poisoned: whether it trains on batches that the attack has manipulated.
    """

    number: int
    samples: np.ndarray
    epochs: int
    lr: float
    poisoned: bool


@dataclass(frozen=True)
class LocalSettings:
    """What all clients of a task share.

    Attributes:
        optimizer: "sgd" or "adam".
        momentum: of SGD; Adam ignores it.
        batch_size: B; an epoch's last batch may be smaller.
        max_batches_per_epoch: an epoch stops after so many batches; None for all.
    """

    optimizer: str
    momentum: float
    batch_size: int
    max_batches_per_epoch: int | None


def batch_order(client: Client, settings: LocalSettings, seed: int, round_number: int) -> list:
    """The client's batches of a round: a list of int64 sample index arrays, epoch after epoch."""
    generator = seeds.generator(seed, "batch_order", round_number, client.number)
    batches = []
    for _ in range(client.epochs):
        shuffled = generator.permutation(client.samples)
        starts = range(0, len(shuffled), settings.batch_size)
        epoch = [shuffled[start : start + settings.batch_size] for start in starts]
        batches += epoch[: settings.max_batches_per_epoch]
    return batches


def train_clients(
    model: Model,
    data: DeviceData,
    global_model: Tensor,
    clients: Sequence[Client],
    settings: LocalSettings,
    attack: Attack,
    seed: int,
    round_number: int,
) -> Tensor:
    """Train every client from the global model.

    Args:
        model: the network.
        data: the dataset on the device.
        global_model: (N,) on the device.
        clients: the K clients of the round.
        settings: what they share.
        attack: manipulates the batches of poisoned clients.
        seed: the cell's seed.
        round_number: counted from 1.

    Returns:
        (K, N) trained models in the order of ``clients``; a client without samples returns the
        global model.
    """
    models = global_model.repeat(len(clients), 1)
    if not model.joint:
        block = 1
    elif data.device.type == "cpu":
        block = max(1, model.samples_at_once_cpu // settings.batch_size)
    else:
        block = len(clients)
    batches = [batch_order(client, settings, seed, round_number) for client in clients]
    # Clients with as many batches as each other share a block; within it, longest first, so that
    # those still at work are always the first rows.
    order = sorted(range(len(clients)), key=lambda k: -len(batches[k]))
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        models[rows] = _train_block(
            model,
            data,
            global_model,
            [clients[k] for k in rows],
            [batches[k] for k in rows],
            settings,
            attack,
            seed,
            round_number,
        )
    return models


def _pack(batches: list[list[np.ndarray]], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (steps, m, B), 0 where there is no sample, and how many there are, (steps, m)."""
    steps = len(batches[0])
    indices = np.zeros((steps, len(batches), batch_size), dtype=np.int64)
    counts = np.zeros((steps, len(batches)), dtype=np.int64)
    for k, of_client in enumerate(batches):
        for step, batch in enumerate(of_client):
            indices[step, k, : len(batch)] = batch
            counts[step, k] = len(batch)
    return indices, counts


def _trainable_views(model: Model, models: Tensor, gradients: Tensor) -> dict[str, Tensor]:
    """Leaf tensors over the rows of ``models`` whose gradients add up in ``gradients``."""
    views = model.layout.views(models.detach())
    for name, gradient in model.layout.views(gradients).items():
        if name not in model.layout.buffer_names:
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
    model, data, global_model, clients, batches, settings, attack, seed, round_number
) -> Tensor:
    device = data.device
    models = global_model.repeat(len(clients), 1)
    if not batches[0]:
        return models
    gradients = torch.zeros_like(models)
    lr = torch.tensor([[client.lr] for client in clients], device=device)
    optimizer = Optimizer(settings.optimizer, models, lr, settings.momentum)
    indices, counts = _pack(batches, settings.batch_size)
    active = (counts > 0).sum(1)
    indices_on_device = torch.from_numpy(indices).to(device, non_blocking=True)
    counts_on_device = torch.from_numpy(counts).to(device, non_blocking=True)
    poisoned = [k for k, client in enumerate(clients) if client.poisoned]
    streams = {}
    for role in ("augmentation", "dropout"):
        stream_seed = seeds.integer(seed, role, round_number, clients[0].number)
        streams[role] = torch.Generator(device).manual_seed(stream_seed)

    rows = 0
    for step in range(len(indices)):
        if active[step] != rows:
            rows = int(active[step])
            tensors = _trainable_views(model, models[:rows], gradients[:rows])
        width = counts[step].max()
        x, y = data.train_batch(indices_on_device[step, :rows, :width], streams["augmentation"])
        at_work = [k for k in poisoned if k < rows]
        if at_work:
            bad_x, bad_y = attack.poison(x[at_work], y[at_work])
            x, y = x.clone(), y.clone()
            x[at_work], y[at_work] = bad_x, bad_y
        gradients[:rows].zero_()
        logits = model.forward(tensors, x, training=True, generator=streams["dropout"])
        loss = _loss(logits, y, counts_on_device[step, :rows], model.binary)
        with warnings.catch_warnings():
            # Views of a (K, N) matrix are strided, as meant: the gradients add up in its rows.
            warnings.filterwarnings("ignore", message="grad and param do not obey")
            loss.backward()
        optimizer.step(gradients[:rows])
    return models
