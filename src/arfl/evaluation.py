"""How good a global model is, and how far the attack has come: on the whole test set."""

from collections.abc import Callable

import torch
from torch import Tensor

from arfl import metrics
from arfl.attack import Attack
from arfl.device_data import DeviceData
from arfl.network import Network

_BATCH = 1000


class Evaluation:
    """Evaluates global models of one cell.

    Args:
        network: the network.
        data: the dataset on the device.
        attack: says how its success is measured.
    """

    def __init__(self, network: Network, data: DeviceData, attack: Attack):
        self._network, self._data, self._attack = network, data, attack
        self._compiled = network.compiled() if data.device.type == "cpu" else None

    def _logits(self, global_model: Tensor) -> Callable[[Tensor], Tensor]:
        if self._compiled is not None:
            flat = global_model.numpy()
            return lambda x: torch.from_numpy(self._compiled.logits(flat, x.numpy()))
        tensors = self._network.layout.views(global_model.unsqueeze(0))
        return lambda x: self._network.forward(tensors, x.unsqueeze(0), training=False, keep=None)[
            0
        ]

    @torch.no_grad()
    def __call__(self, global_model: Tensor) -> dict[str, float | None]:
        """Accuracy and success rates of a model (N,), as fractions; None where there is none."""
        logits = self._logits(global_model)
        accuracy, success, success_excluding = (
            metrics.Tally.empty(self._data.device) for _ in range(3)
        )
        for start in range(0, self._data.n_test, _BATCH):
            x, y = self._data.test_batch(start, start + _BATCH)
            predicted = metrics.predictions(logits(x), self._network.binary)
            accuracy.add(predicted == y)
            probe = self._attack.probe(x, y)
            if probe is not None:
                if probe.x is not x:
                    predicted = metrics.predictions(logits(probe.x), self._network.binary)
                hit = predicted == probe.target
                success.add(hit, probe.counted)
                success_excluding.add(hit, probe.counted & (y != probe.target))
        return {
            "accuracy": accuracy.rate(),
            "attack_success_rate": success.rate(),
            "attack_success_rate_excl_target": success_excluding.rate(),
        }
