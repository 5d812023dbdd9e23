"""Label flipping (Biggio et al. 2012): the attacker trains on wrong labels."""

import torch

from arfl.attack import Attack, Probe, class_index
from arfl.errors import UserError


class LabelFlip(Attack):
    """Every sample of class ``source`` is trained on as ``target``; with "all", all are flipped.

    With ``source="all"`` class c becomes n_classes - 1 - c, which for two classes is the other
    one; there is no success rate then, since accuracy says it all.
    """

    def __init__(self, meta: dict, *, source: int | str, target: int | str | None = None):
        self._last_class = meta["n_classes"] - 1
        if source != "all":
            self.source_class = class_index(meta, source, "label_flip's source")
            self._target = class_index(meta, target, "label_flip's target")
        elif target is not None:
            raise UserError("label_flip: `source: all` takes no target; remove `target`")

    def poison(self, x, y, attackers):
        """See `Attack.poison`: labels are flipped, inputs are left alone."""
        if self.source_class is None:
            return x, self._last_class - y
        return x, torch.where(y == self.source_class, self._target, y)

    def probe(self, x, y):
        """See `Attack.probe`: the source class's samples, unchanged."""
        if self.source_class is None:
            return None
        return Probe(x, y == self.source_class, self._target)
