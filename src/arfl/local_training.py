"""Local training of a round's clients: flat models (K, N) out.

What a client draws in a round (batch order, augmentation, dropout) comes from streams of its own,
drawn on the host: the same numbers whatever trains it, a CPU client by client or a GPU all at once.
On a CPU clients whose network has a compiled training are trained by it, one after another; all
others in blocks by PyTorch (`arfl.torch_training`).
"""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arfl import seeds
from arfl.attack import Attack
from arfl.device_data import DeviceData, draw_crops
from arfl.errors import UserError
from arfl.network import CompiledTraining, Network


@dataclass(frozen=True)
class Client:
    """One client's work in a round.

    Attributes:
        number: the client's identity, also the coordinate of its random streams.
        samples: (n,) int64 indices of its training samples.
        epochs: local epochs.
        lr: learning rate.
        attacker: its place in the cell's list of attackers if it trains on batches that the attack
            has manipulated; None if it trains on its own data.
    """

    number: int
    samples: np.ndarray
    epochs: int
    lr: float
    attacker: int | None = None


@dataclass(frozen=True)
class LocalSettings:
    """What all clients of a task share.

    Attributes:
        optimizer: "sgd" or "adam".
        momentum: of SGD; Adam ignores it.
        batch_size: B; an epoch's last batch may be smaller.
        max_batches_per_epoch: an epoch stops after so many batches; None for all.
        augment: random crop and horizontal flip of training images.
    """

    optimizer: str
    momentum: float
    batch_size: int
    max_batches_per_epoch: int | None = None
    augment: bool = False


@dataclass(frozen=True)
class Epoch:
    """What a client draws for one local epoch of n samples.

    Attributes:
        order: (n,) int64 sample indices, batch after batch.
        batch_sizes: (steps,) int64, which add up to n.
        crops: (n, 3) from `arfl.device_data.draw_crops`; None without augmentation.
        keep: (n, units) uint8, which hidden units dropout keeps; None without dropout.
    """

    order: np.ndarray
    batch_sizes: np.ndarray
    crops: np.ndarray | None
    keep: np.ndarray | None


def epochs(
    client: Client, settings: LocalSettings, network: Network, seed: int, round_number: int
) -> Iterator[Epoch]:
    """The client's local epochs of a round, drawn one after another."""
    batch_order, augmentation, dropout = (
        seeds.generator(seed, role, round_number, client.number)
        for role in ("batch_order", "augmentation", "dropout")
    )
    n, size, limit = len(client.samples), settings.batch_size, settings.max_batches_per_epoch
    for _ in range(client.epochs if n else 0):
        order = batch_order.permutation(client.samples)
        order = order if limit is None else order[: limit * size]
        batch_sizes = np.full(-(-len(order) // size), size)
        batch_sizes[-1] = len(order) - size * (len(batch_sizes) - 1)
        keep = None
        if network.dropout:
            draws = dropout.random((len(order), network.dropout_units), dtype=np.float32)
            keep = (draws >= network.dropout).view(np.uint8)
        yield Epoch(
            order,
            batch_sizes,
            draw_crops(len(order), augmentation) if settings.augment else None,
            keep,
        )


def n_batches(client: Client, settings: LocalSettings) -> int:
    """How many batches `epochs` will give the client in all."""
    an_epoch = -(-len(client.samples) // settings.batch_size)
    return client.epochs * min(an_epoch, settings.max_batches_per_epoch or an_epoch)


class LocalTraining:
    """Trains the clients of a round.

    Args:
        network: the network.
        data: the dataset on the device.
        settings: what the clients share.
        attack: manipulates the batches of attacking clients.
        seed: the cell's seed.
        honest_lr: the learning rate of honest clients.

    Attributes:
        backend: what trains, in words for a record.
    """

    def __init__(
        self,
        network: Network,
        data: DeviceData,
        settings: LocalSettings,
        attack: Attack,
        seed: int,
        honest_lr: float,
    ):
        self._network, self._data, self._settings = network, data, settings
        self._attack, self._seed, self._honest_lr = attack, seed, honest_lr
        compiled = network.compiled() if data.device.type == "cpu" else None
        fits = compiled is not None and compiled.optimizer == settings.optimizer
        self._compiled = compiled if fits and not settings.augment else None
        self.backend = "PyTorch" if self._compiled is None else "numba"

    def train(
        self, global_model: Tensor, clients: Sequence[Client], round_number: int, submission: str
    ) -> Tensor:
        """Train every client from the global model.

        Args:
            global_model: (N,) on the device.
            clients: the K clients of the round.
            round_number: counted from 1.
            submission: one of `arfl.aggregation.SUBMISSIONS`.

        Returns:
            (K, N) what the clients would submit, in their order; a client without samples returns
            the global model.

        Raises:
            UserError: for gradients where the optimiser is not SGD.
        """
        if submission == "gradients" and self._settings.optimizer != "sgd":
            raise UserError(
                "sums of gradients are known of SGD alone; set the rule's `update` to models, or "
                "the task's optimizer to sgd"
            )
        if self._compiled is not None:
            models, moments = self._train_compiled(
                self._compiled, global_model, clients, round_number
            )
        else:
            # Imported here: it is built on this module.
            by_torch = importlib.import_module("arfl.torch_training")
            models, moments = by_torch.train_clients(
                self._network,
                self._data,
                global_model,
                [
                    (c, list(epochs(c, self._settings, self._network, self._seed, round_number)))
                    for c in clients
                ],
                self._settings,
                self._attack,
            )
        if submission == "gradients":
            return self._one_step(global_model, models, moments, clients)
        return models

    def _one_step(
        self, start: Tensor, models: Tensor, velocity: Tensor, clients: Sequence[Client]
    ) -> Tensor:
        """Where one step at the honest rate along the sum of a client's gradients leads.

        Of SGD's steps v_t = m v_{t-1} + g_t, x_t = x_{t-1} - lr v_t the sum of the gradients is
        (1 - m) (x_0 - x_T) / lr + m v_T.
        """
        m = self._settings.momentum
        lr = torch.tensor([[client.lr] for client in clients], device=start.device)
        gradients = (1 - m) * (start - models) / lr + m * velocity
        stepped = start - self._honest_lr * gradients
        for columns in self._network.layout.buffers:
            stepped[:, columns] = models[:, columns]
        return stepped

    def _train_compiled(
        self,
        compiled: CompiledTraining,
        global_model: Tensor,
        clients: Sequence[Client],
        round_number: int,
    ) -> tuple[Tensor, Tensor]:
        models = global_model.repeat(len(clients), 1)
        n_moments = 2 if compiled.optimizer == "adam" else 1
        moments = torch.zeros(len(clients), n_moments, models.shape[1])
        for row, client in enumerate(clients):
            steps = 0
            for epoch in epochs(client, self._settings, self._network, self._seed, round_number):
                x, y = self._samples(compiled, client, epoch)
                compiled.train(
                    models[row].numpy(),
                    moments[row].numpy(),
                    steps,
                    x.numpy(),
                    y.numpy(),
                    epoch.batch_sizes,
                    client.lr,
                    self._settings.momentum,
                    epoch.keep,
                )
                steps += len(epoch.batch_sizes)
        return models, moments[:, 0]

    def _samples(
        self, compiled: CompiledTraining, client: Client, epoch: Epoch
    ) -> tuple[Tensor, Tensor]:
        """Inputs and labels of an epoch in training order, manipulated if the client attacks."""
        order = torch.from_numpy(epoch.order)
        x, y = self._data.stored(order), self._data.labels(order)
        if client.attacker is None:
            return (x if compiled.raw_pixels else self._data.inputs(x)), y
        sizes = epoch.batch_sizes.tolist()
        batches = zip(self._data.inputs(x).split(sizes), y.split(sizes), strict=True)
        poisoned = [
            self._attack.poison(bx.unsqueeze(0), by.unsqueeze(0), (client.attacker,))
            for bx, by in batches
        ]
        return (
            torch.cat([bx[0] for bx, _ in poisoned]),
            torch.cat([by[0] for _, by in poisoned]),
        )
