"""Which implementation of the numeric steps runs: kernels of the device, or plain torch."""

import functools
import importlib
from collections.abc import Iterable
from types import ModuleType

import torch
from torch import Tensor

from arfl.kernels import fallback


@functools.cache
def _plain_torch() -> ModuleType:
    """`arfl.aggregators._steps`, imported at the first use: its package's rules import this."""
    return importlib.import_module("arfl.aggregators._steps")


@functools.cache
def _compiled_module() -> ModuleType | None:
    """The module of numba kernels, imported at the first use; None, and a warning, if it fails."""
    return fallback.numba_module(
        lambda: importlib.import_module("arfl.kernels.aggregation_cpu"), "aggregation"
    )


@functools.cache
def _gpu_module() -> ModuleType | None:
    """The module of Triton kernels, imported at the first use; None, and a warning, if it fails."""
    try:
        module = importlib.import_module("arfl.kernels.aggregation_gpu")
        module.probe()
        return module
    except ImportError as error:
        fallback.warn("aggregation", f"Triton cannot be imported ({error})")
    except RuntimeError as error:
        fallback.warn(
            "aggregation",
            f"Triton cannot compile for this GPU ({error}); it needs a C compiler, Python's "
            "headers and a folder to write to, TRITON_CACHE_DIR",
        )
    return None


# Measured, see benchmarks/RESULTS.md.
SMALL = 100_000
"""Values (K x N) below which plain torch is as good: numba or Triton and the kernels take most of a
second to load, which is more than all rounds of a short run on a small model take without them."""


def backend(models: Tensor) -> ModuleType:
    """The module that computes on these models: kernels for their device, else dense torch.

    It depends on the models' device and size alone, so that a run can be repeated exactly.
    """
    kernels = {"cpu": _compiled_module, "cuda": _gpu_module}.get(models.device.type)
    if kernels is None or models.numel() < SMALL:
        return _plain_torch()
    return kernels() or _plain_torch()


def describe(models: Tensor) -> str:
    """What `backend` chooses for these models, in words for a record."""
    chosen = backend(models).__name__
    return {"arfl.kernels.aggregation_cpu": "numba", "arfl.kernels.aggregation_gpu": "Triton"}.get(
        chosen, "PyTorch"
    )


def compile_kernels(n_clients: Iterable[int] = (10,), dtype: torch.dtype = torch.float32) -> None:
    """Compile, and keep on disk, what aggregating so many clients' models on the CPU needs.

    Optional: the first aggregation does the same. For a set-up step, so that no run pays for it.
    From 8 to 16 clients each number has a kernel of its own; all others share one.

    Args:
        n_clients: numbers of clients K, each at least 2.
        dtype: type of the models.
    """
    for n in n_clients:
        models = torch.zeros(n, 1, dtype=dtype)
        steps = _compiled_module() or _plain_torch()
        steps.finite_rows(models)
        steps.weighted_sum(models, torch.ones(n))
        steps.trimmed_mean(models, 0)
        steps.repeated_median(models)
        steps.reweight(models, "paper", 2.0, 0.1)
