"""Names and shapes of a model's tensors <-> slices of its flat vector of N numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class Layout:
    """Where each tensor of a model lies in the flat vector.

    Attributes:
        shapes: name -> shape, in the order of the flat vector.
        buffer_names: names that hold batch-norm running statistics: sent and aggregated like
            parameters, but not trained by gradient.
        output_layer_name: the weight matrix of the output layer (FoolsGold's features).

    Examples:
        >>> layout = Layout({"fc.weight": (2, 3), "fc.bias": (2,)}, output_layer_name="fc.weight")
        >>> layout.size, layout.output_layer
        (8, slice(0, 6, None))
        >>> {name: tuple(view.shape) for name, view in layout.views(torch.zeros(5, 8)).items()}
        {'fc.weight': (5, 2, 3), 'fc.bias': (5, 2)}
    """

    shapes: Mapping[str, tuple[int, ...]]
    output_layer_name: str
    buffer_names: frozenset[str] = frozenset()

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Name -> slice of the flat vector."""
        slices, start = {}, 0
        for name, shape in self.shapes.items():
            slices[name] = slice(start, start + math.prod(shape))
            start = slices[name].stop
        return slices

    @property
    def size(self) -> int:
        """N, the number of values in the flat vector, buffers included."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def output_layer(self) -> slice:
        """Slice of the output layer's weight matrix."""
        return self.slices[self.output_layer_name]

    @property
    def buffers(self) -> tuple[slice, ...]:
        """Slices of the batch-norm running statistics."""
        return tuple(part for name, part in self.slices.items() if name in self.buffer_names)

    def views(self, models: torch.Tensor) -> dict[str, torch.Tensor]:
        """Split (K, N) models into name -> (K, *shape) views that share their memory."""
        return {
            name: models[:, self.slices[name]].unflatten(1, shape)
            for name, shape in self.shapes.items()
        }
