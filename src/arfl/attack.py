"""What an attack is: hooks on the attackers' data and models, and how success is measured.

An attack is a file of `arfl.attacks` with a subclass of `Attack`. Its constructor takes the
prepared dataset's metadata and, by keyword, the options of config.yaml.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from arfl import registry
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


@dataclass(frozen=True)
class View:
    """What the A attackers of a round know together.

    Attributes:
        global_model: (N,) the model that the round started from.
        honest_models: (H, N) what the honest clients of the round submit.
        attackers: (A,) the attackers' client numbers.
        round_number: counted from 1.
        generators: (A,) a CPU stream for each attacker in this round (role "noise").
    """

    global_model: Tensor
    honest_models: Tensor
    attackers: tuple[int, ...]
    round_number: int
    generators: tuple[torch.Generator, ...]


class Attack:
    """An attack with no effect; an attack overrides the hooks that it needs.

    Attributes:
        source_class: if not None, attackers are drawn from the clients that hold this class.
    """

    source_class: int | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        registry.register(cls)

    def active(self, round_number: int) -> bool:
        """Whether the attackers attack in this round (the first is 1)."""
        return True

    def poison(self, x: Tensor, y: Tensor, attackers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Hook on the data: the attackers' batches as they train on them.

        Args:
            x: (A, B, ...) inputs of A attackers, normalised; must not be written in place.
            y: (A, B) int64 labels.
            attackers: (A,) whose batches these are: the place of each in the cell's sorted list of
                attackers, from 0.
        """
        return x, y

    def submit(self, model: Tensor, global_model: Tensor, generator: torch.Generator) -> Tensor:
        """Hook on one model: what an attacker sends, (N,), given what it trained, (N,).

        Args:
            model: the attacker's trained model.
            global_model: the model that the round started from.
            generator: CPU stream of this attacker in this round (role "noise").
        """
        return model

    def collude(self, models: Tensor, view: View) -> Tensor:
        """Hook on all attackers' models of a round: what they send, (A, N).

        By default each acts on its own, by `submit`.

        Args:
            models: (A, N) what the attackers trained.
            view: what they know.
        """
        each = zip(models, view.generators, strict=True)
        return torch.stack([self.submit(model, view.global_model, g) for model, g in each])

    def state(self) -> dict[str, Tensor]:
        """What the attackers remember from round to round, as named tensors; see `restore`."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned, on the device that the models are on."""

    def probe(self, x: Tensor, y: Tensor) -> Probe | None:
        """How success is measured on a normalised test batch; None if there is no success rate."""
        return None


def make(name: str, meta: dict, /, **options) -> Attack:
    """The attack ``name`` on a dataset.

    Args:
        name: a file of `arfl.attacks`.
        meta: the prepared dataset's metadata (classes, normalisation, trigger).
        options: the attack's own settings.

    Raises:
        UserError: for an unknown attack or option, or an option that the dataset cannot serve.
    """
    registry.check_options("attacks", name, options, meta["name"])
    return registry.get("attacks", name)(meta, **options)


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
