"""A cell's state on disk, so that training that was cut off goes on where it stood.

The file is NumPy's ``.npz`` without pickles: the arrays of the state, and the rest as JSON. It
belongs to one cell with its settings, data, partition and code: the key, without which it is not
used.
"""

import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from arfl.federation import State
from arfl.files import atomic_path

_BROKEN_FILE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError),
    *(zipfile.BadZipFile, zlib.error),
)


def save(path: str | os.PathLike, key: str, state: State, resumed: int) -> None:
    """Write a state atomically.

    Args:
        path: the file.
        key: what the state belongs to.
        state: after a whole round.
        resumed: how often the training has gone on from a checkpoint.
    """
    arrays = {"global_model": state.global_model}
    arrays |= {f"rule.{name}": value for name, value in state.rule.items()}
    arrays |= {f"attack.{name}": value for name, value in state.attack.items()}
    rest = {
        "key": key,
        "rounds": state.rounds,
        "seconds": state.seconds,
        "diverged": state.diverged,
        "resumed": resumed,
    }
    # The stream is opened here because np.savez would add a suffix to a bare name.
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        on_host = {name: value.cpu().numpy() for name, value in arrays.items()}
        np.savez(stream, rest=np.array(json.dumps(rest)), **on_host)


def load(path: str | os.PathLike, key: str, device: torch.device) -> tuple[State, int] | None:
    """Read the state that `save` wrote and how often it was resumed before.

    Args:
        path: the file.
        key: what the state must belong to.
        device: where its tensors shall be.

    Returns:
        None if there is no file, or if it is broken or belongs to something else.
    """
    if not Path(path).exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            rest = json.loads(str(stored["rest"]))
            if rest["key"] != key:
                return None
            tensors = {
                name: torch.from_numpy(stored[name]).to(device)
                for name in stored.files
                if name != "rest"
            }
        state = State(
            global_model=tensors.pop("global_model"),
            rule=_of(tensors, "rule."),
            attack=_of(tensors, "attack."),
            rounds=rest["rounds"],
            seconds=rest["seconds"],
            diverged=rest["diverged"],
        )
        return state, rest["resumed"]
    except _BROKEN_FILE:
        return None


def _of(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
