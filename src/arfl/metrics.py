"""Accuracy and attack success rate, in both definitions, as fractions."""

from dataclasses import dataclass

import torch
from torch import Tensor


def predictions(logits: Tensor, binary: bool) -> Tensor:
    """Predicted classes (B,) from (B, C) logits, or from (B, 1) ones of a binary model.

    Examples:
        >>> predictions(torch.tensor([[0.1, 2.0], [1.0, -1.0]]), binary=False).tolist()
        [1, 0]
        >>> predictions(torch.tensor([[0.3], [-0.2]]), binary=True).tolist()
        [1, 0]
    """
    return (logits[:, 0] > 0).long() if binary else logits.argmax(dim=1)


@dataclass
class Tally:
    """Counts that stay on the device until the round is over: `add`, then `rate`."""

    hits: Tensor
    total: Tensor

    @classmethod
    def empty(cls, device: torch.device) -> "Tally":
        """A tally of nothing."""
        return cls(*torch.zeros(2, dtype=torch.int64, device=device))

    def add(self, hit: Tensor, counted: Tensor | None = None) -> None:
        """Count (B,) booleans: hits among the samples that are ``counted`` (default: all)."""
        counted = torch.ones_like(hit) if counted is None else counted
        self.hits = self.hits + (hit & counted).sum()
        self.total = self.total + counted.sum()

    def rate(self) -> float | None:
        """Hits / counted as a fraction; None if nothing was counted."""
        total = self.total.item()
        return self.hits.item() / total if total else None
