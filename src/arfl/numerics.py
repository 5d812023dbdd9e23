"""How a cell computes: device, precision and determinism, set once before anything is trained."""

import os

import torch

from arfl.errors import UserError


def set_up(device: str) -> torch.device:
    """Choose the device and fix what PyTorch would otherwise leave to the machine.

    A cell computes in float32 on one thread of the CPU, so that its numbers do not depend on how
    many cores there are, or on a GPU without TF32, in deterministic forms where CUDA has them.

    Args:
        device: "cpu", "cuda", or "auto": a GPU if there is one.

    Raises:
        UserError: for "cuda" where PyTorch finds no usable GPU.
    """
    # cuBLAS is deterministic only with a workspace of fixed size, which it reads at its start.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device is cuda, but PyTorch finds no usable GPU here; run on a node with one, or set "
            "device to cpu or auto"
        )
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    # The same cell gives the same record; what is filled is overwritten anyway.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    return torch.device("cuda")
