"""SGD and Adam on flat models (K, N), one learning rate per client.

The rules are those of `torch.optim`, against which the tests check them. They are written out
because on a flat matrix each is a few lines, because clients that have finished drop out of the
matrix row by row, and because the first use of `torch.optim` imports PyTorch's compiler, which
takes longer than a short cell trains.
"""

import torch
from torch import Tensor

from arfl.errors import UserError

NAMES = ("sgd", "adam")
_ADAM_BETAS = (0.9, 0.999)
_ADAM_EPS = 1e-8


class Optimizer:
    """The state of one optimiser for each row of a block of models.

    Args:
        name: one of `NAMES`.
        models: (K, N) models, changed in place by `step`.
        lr: (K, 1) learning rates.
        momentum: of SGD; Adam has none.

    Attributes:
        first: (K, N) SGD's velocity, or Adam's first moments.

    Raises:
        UserError: for an unknown name.
    """

    def __init__(self, name: str, models: Tensor, lr: Tensor, momentum: float):
        if name not in NAMES:
            raise UserError(f"unknown optimizer {name!r}; choose one of {', '.join(NAMES)}")
        self._models = models
        self._lr = lr
        self._momentum = momentum
        self._steps = 0
        self.first = torch.zeros_like(models)
        self._second = torch.zeros_like(models) if name == "adam" else None

    @torch.no_grad()
    def step(self, gradients: Tensor) -> None:
        """One step of the first ``len(gradients)`` rows; the others rest.

        Args:
            gradients: (R, N) with R at most K and never larger than at the step before.
        """
        rows = len(gradients)
        self._steps += 1
        models, lr, first = self._models[:rows], self._lr[:rows], self.first[:rows]
        if self._second is None:
            first.mul_(self._momentum).add_(gradients)
            models.addcmul_(first, lr, value=-1)
            return
        second = self._second[:rows]
        beta1, beta2 = _ADAM_BETAS
        first.lerp_(gradients, 1 - beta1)
        second.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        denominator = (second / (1 - beta2**self._steps)).sqrt_().add_(_ADAM_EPS)
        models.addcdiv_(first * (lr / (1 - beta1**self._steps)), denominator, value=-1)
