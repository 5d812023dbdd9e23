"""Import kernels at their first use, or say why PyTorch's own operations run instead."""

import warnings
from collections.abc import Callable
from types import ModuleType


def warn(what: str, reason: str) -> None:
    """Say that ``what`` goes without kernels, and why."""
    warnings.warn(
        f"{what} runs in plain torch, correct but many times slower: {reason}", stacklevel=3
    )


def numba_module(load: Callable[[], ModuleType], what: str) -> ModuleType | None:
    """The module of numba kernels that ``load`` imports; None, and a warning, if it cannot."""
    try:
        return load()
    except ImportError as error:
        warn(what, f"numba cannot be imported ({error})")
    except RuntimeError as error:
        # Numba finds no folder to keep compiled kernels in.
        warn(what, f"{error}; set NUMBA_CACHE_DIR to a folder that you may write to")
    return None
