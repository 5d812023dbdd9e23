"""Backdoors (Bagdasaryan et al. 2018; Gu et al. 2019): a trigger forces a target class."""

import torch
from torch import Tensor

from arfl.attack import Attack, Probe, class_index
from arfl.errors import UserError

# Two bars in each of two rows of the upper left corner (Figure 5; columns as in the authors' code).
TRIGGER_ROWS = (0, 2)
TRIGGER_COLUMNS = (0, 1, 2, 4, 5, 6)


class Backdoor(Attack):
    """Part of each of the attacker's batches carries a trigger and the target label.

    Images get bright pixels in the upper left corner; tables get the columns and values that the
    dataset's metadata names (LOAN: six features above their maximum).

    Args:
        meta: the prepared dataset's metadata.
        target: the class, by number or name, that triggered samples shall be predicted as.
        poisoned_per_batch: how many samples of each batch are poisoned (all, if it has fewer).
        active_round: the one round of the attack (model replacement); None for every round.
        scale: what the submitted update, model - global model, is multiplied by.
        trigger_value: images only. "white" is white before normalisation; "one" is the number 1
            after it, as in the authors' code.
    """

    def __init__(
        self,
        meta: dict,
        *,
        target: int | str,
        poisoned_per_batch: int = 20,
        active_round: int | None = None,
        scale: float = 1.0,
        trigger_value: str = "white",
    ):
        if trigger_value not in ("white", "one"):
            raise UserError(f"backdoor: trigger_value is {trigger_value!r}; use white or one")
        if meta["trigger"] is None and meta["normalisation"] is None:
            raise UserError(
                f"backdoor: {meta['name']} is neither images nor a table with a trigger; "
                "use this attack on mnist, cifar10, loan or their stand-ins"
            )
        self._features = meta["trigger"]
        self._device = torch.device("cpu")
        if self._features is None:
            mean = torch.tensor(meta["normalisation"]["mean"])
            std = torch.tensor(meta["normalisation"]["std"])
            pixel = (1 - mean) / std if trigger_value == "white" else torch.ones_like(mean)
            rows, columns = torch.tensor(TRIGGER_ROWS).view(-1, 1), torch.tensor(TRIGGER_COLUMNS)
            self._places, self._values = (rows, columns), pixel.view(-1, 1, 1)
        else:
            self._places = (torch.tensor(self._features["columns"]),)
            self._values = torch.tensor(self._features["values"], dtype=torch.float32)
        self._target = class_index(meta, target, "backdoor's target")
        self._poisoned_per_batch = poisoned_per_batch
        self._active_round = active_round
        self._scale = scale

    def active(self, round_number):
        """See `Attack.active`."""
        return self._active_round in (None, round_number)

    def trigger(self, x: Tensor) -> Tensor:
        """A copy of (..., C, H, W) normalised images or (..., F) rows with the trigger set."""
        if x.device != self._device:
            # Moved once: each copy to a GPU would wait for it.
            self._places = tuple(place.to(x.device) for place in self._places)
            self._values, self._device = self._values.to(x.device), x.device
        x = x.clone()
        x[(..., *self._places)] = self._values.to(x.dtype)
        return x

    def poison(self, x, y, attackers):
        """See `Attack.poison`: the first samples of each (already shuffled) batch are poisoned."""
        n = self._poisoned_per_batch
        x = torch.cat([self.trigger(x[:, :n]), x[:, n:]], dim=1)
        y = y.clone()
        y[:, :n] = self._target
        return x, y

    def submit(self, model, global_model, generator):
        """See `Attack.submit`: the update is scaled up."""
        return global_model + self._scale * (model - global_model)

    def probe(self, x, y):
        """See `Attack.probe`: every sample with the trigger."""
        return Probe(self.trigger(x), torch.ones_like(y, dtype=torch.bool), self._target)
