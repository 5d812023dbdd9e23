"""Models of any form as rows of one (K, N) matrix, which the rules take, and back.

Usage::

    from arfl.aggregators import residual_reweighting
    from arfl.flat import flatten, unflatten

    models, form = flatten([client.state_dict() for client in clients])
    model, weights = residual_reweighting(models, delta=0.01)
    server.load_state_dict(unflatten(model, form))

A model is a mapping of names to tensors or NumPy arrays (a PyTorch state dict), a sequence of
these, or one row of a matrix. Everything in it counts, batch-norm running statistics and counters
too: `Form.buffers` says where they are, for rules that treat them apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Endings of the names of batch-norm statistics."""

Model = Mapping[str, Tensor | np.ndarray] | Sequence[Tensor | np.ndarray]


@dataclass(frozen=True)
class _Entry:
    shape: tuple[int, ...]
    dtype: torch.dtype | np.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Form:
    """What `unflatten` needs: the entries of a model, in the order of the flat vector.

    Attributes:
        entries: name, or place in a sequence, -> shape and type; empty for a matrix's rows.
        kind: "mapping", "sequence" or "row".
        arrays: whether the entries are NumPy arrays.
    """

    entries: Mapping[str | int, _Entry]
    kind: str
    arrays: bool

    @cached_property
    def slices(self) -> dict[str | int, slice]:
        """Name or place -> slice of the flat vector."""
        slices, start = {}, 0
        for name, entry in self.entries.items():
            slices[name] = slice(start, start + entry.size)
            start = slices[name].stop
        return slices

    @property
    def buffers(self) -> tuple[slice, ...]:
        """Slices of what is named like batch-norm statistics; () for models without names."""
        return tuple(
            part
            for name, part in self.slices.items()
            if isinstance(name, str) and name.endswith(BUFFERS)
        )


def _items(model: Model) -> dict:
    return dict(model) if isinstance(model, Mapping) else dict(enumerate(model))


def _form(model: Model) -> Form:
    items = _items(model)
    arrays = {isinstance(value, np.ndarray) for value in items.values()}
    if len(arrays) != 1:
        raise ValueError("a model must hold tensors or NumPy arrays, one kind alone, and not none")
    kind = "mapping" if isinstance(model, Mapping) else "sequence"
    entries = {name: _Entry(tuple(value.shape), value.dtype) for name, value in items.items()}
    return Form(entries, kind, arrays.pop())


def flatten(models: Sequence[Model] | Tensor | np.ndarray) -> tuple[Tensor, Form]:
    """The models as a (K, N) matrix, float64 if any entry is, else float32.

    Args:
        models: K models alike in names, shapes and types; or a (K, N) matrix.

    Returns:
        The matrix, which shares memory with a matrix given, and the form of one model.

    Raises:
        ValueError: if there is no model, or one differs from the first.
    """
    if isinstance(models, Tensor | np.ndarray):
        matrix = torch.as_tensor(models)
        if matrix.ndim != 2:
            raise ValueError(f"a matrix of models must be (K, N), got {tuple(matrix.shape)}")
        return matrix, Form({}, "row", isinstance(models, np.ndarray))
    if not len(models):
        raise ValueError("there is no model to flatten")
    form = _form(models[0])
    rows, double = [], False
    for number, model in enumerate(models):
        items = _items(model)
        found = {name: tuple(value.shape) for name, value in items.items()}
        wanted = {name: entry.shape for name, entry in form.entries.items()}
        if found != wanted:
            differing = sorted(
                str(name) for name in found.keys() | wanted if found.get(name) != wanted.get(name)
            )
            raise ValueError(f"model {number} differs from model 0 in {', '.join(differing)}")
        values = [torch.as_tensor(items[name]).detach().flatten() for name in form.entries]
        double = double or any(value.dtype == torch.float64 for value in values)
        rows.append(values)
    dtype = torch.float64 if double else torch.float32
    matrix = torch.stack([torch.cat([value.to(dtype) for value in values]) for values in rows])
    return matrix, form


def unflatten(vector: Tensor, form: Form) -> Any:
    """One model in the form of those that were flattened; whole-number entries are rounded.

    Args:
        vector: (N,) a rule's model.
        form: from `flatten`.

    Raises:
        ValueError: if the vector has another length than the form's models.
    """
    if form.kind == "row":
        return vector.numpy(force=True) if form.arrays else vector
    size = sum(entry.size for entry in form.entries.values())
    if vector.shape != (size,):
        raise ValueError(f"the form has {size} values, the vector's shape is {tuple(vector.shape)}")
    made = {
        name: _back(vector[form.slices[name]].reshape(entry.shape), entry.dtype)
        for name, entry in form.entries.items()
    }
    return made if form.kind == "mapping" else list(made.values())


def _back(value: Tensor, dtype: torch.dtype | np.dtype) -> Any:
    # In its model's type again, with whole numbers rounded.
    if isinstance(dtype, torch.dtype):
        return (value if dtype.is_floating_point else value.round()).to(dtype, copy=True)
    array = value.numpy(force=True)
    return np.asarray(array.round() if np.issubdtype(dtype, np.integer) else array, dtype=dtype)
