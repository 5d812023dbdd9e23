"""Distributed backdoor (Xie et al. 2020): each attacker trains on a part of the trigger."""

import torch

from arfl.attacks.backdoor import Backdoor
from arfl.errors import UserError


class DistributedBackdoor(Backdoor):
    """A backdoor whose trigger is cut into parts; its success is measured with the whole one.

    The attacker at place p among the cell's attackers trains on part ``p % parts``. The four parts
    of an image's trigger are its four bars, as in the paper.

    Args:
        meta: the prepared dataset's metadata.
        target: see `arfl.attacks.backdoor.Backdoor`.
        poisoned_per_batch: likewise.
        trigger_value: likewise.
        scale: likewise.
        parts: into how many parts the trigger is cut.

    Raises:
        UserError: if the trigger has fewer pixels or columns than parts.

    References:
        Xie, Huang, Chen, Li, "DBA: distributed backdoor attacks against federated learning", ICLR
        2020.
    """

    def __init__(
        self,
        meta: dict,
        *,
        target: int | str,
        poisoned_per_batch: int = 20,
        trigger_value: str = "white",
        scale: float = 1.0,
        parts: int = 4,
    ):
        super().__init__(
            meta,
            target=target,
            poisoned_per_batch=poisoned_per_batch,
            trigger_value=trigger_value,
            scale=scale,
        )
        coordinates = [axis.flatten() for axis in torch.broadcast_tensors(*self._places)]
        n = len(coordinates[0])
        if not 1 <= parts <= n:
            raise UserError(f"dba: parts must be from 1 to {n}, the trigger's size, got {parts}")
        chunks = [axis.tensor_split(parts) for axis in coordinates]
        self._parts = list(zip(*chunks, strict=True))

    def poison(self, x, y, attackers):
        """See `Attack.poison`: of the whole trigger only the attacker's part is kept."""
        poisoned, labels = super().poison(x, y, attackers)
        for row, place in enumerate(attackers):
            part = self._parts[place % len(self._parts)]
            kept = torch.zeros(x.shape[-len(part) :], dtype=torch.bool)
            kept[part] = True
            poisoned[row] = torch.where(kept.to(x.device), poisoned[row], x[row])
        return poisoned, labels
