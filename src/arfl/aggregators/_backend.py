"""Which implementation of the numeric steps runs: plain torch."""

from types import ModuleType

from torch import Tensor

from arfl.aggregators import _dense


def backend(models: Tensor) -> ModuleType:
    """The module that computes on these models."""
    return _dense
