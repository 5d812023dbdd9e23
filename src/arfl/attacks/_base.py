"""What an attack is: two optional hooks, and how its success is measured."""

from typing import NamedTuple

import torch
from torch import Tensor

from arfl.errors import UserError


class Probe(NamedTuple):
    """A test batch as the attack's success is measured on it.

    Attributes:
        x: (B, ...) inputs, manipulated as the attacker would.
        counted: (B,) which samples count.
        target: the class that the attacker wants predicted.
    """

    x: Tensor
    counted: Tensor
    target: int


class Attack:
    """An attack with no effect; rules override the hooks that they need.

    Attributes:
        source_class: if not None, attackers are drawn from the clients that hold this class.
    """

    source_class: int | None = None

    def active(self, round_number: int) -> bool:
        """Whether the attackers attack in this round (the first is 1); else they are honest."""
        return True

    def poison(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Hook on the data: the attackers' batches as they train on them.

        Args:
            x: (A, B, ...) inputs of A attackers, normalised; must not be written in place.
            y: (A, B) int64 labels.
        """
        return x, y

    def submit(self, model: Tensor, global_model: Tensor, generator: torch.Generator) -> Tensor:
        """Hook on the model: what an attacker sends, (N,), given what it trained, (N,).

        Args:
            model: the attacker's trained model.
            global_model: the model that the round started from.
            generator: CPU stream of this attacker in this round (role "noise").
        """
        return model

    def probe(self, x: Tensor, y: Tensor) -> Probe | None:
        """How success is measured on a normalised test batch; None if there is no success rate."""
        return None


def class_index(meta: dict, value: int | str, option: str) -> int:
    """The label of a class given by number or by name.

    Raises:
        UserError: naming ``option`` and the dataset's classes, if it has no such class.
    """
    names = meta["class_names"]
    if isinstance(value, str) and value in names:
        return names.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return value
    raise UserError(
        f"{option} is {value!r}, but {meta['name']} has the classes 0 to {len(names) - 1}: "
        + ", ".join(names)
    )
