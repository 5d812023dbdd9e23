"""What holds on a GPU: its kernels agree with plain torch, training with the CPU's, nothing waits.

    python tests/unit/gpu_checks.py cuda

A program and no test, since it runs where there is no pytest too (`benchmarks/on_gpu.py`). With
``cpu`` and TRITON_INTERPRET=1 it does the same on a CPU, at small sizes.
"""

import contextlib
import sys
import warnings

import numpy as np
import small_data
import torch

from arfl import aggregators, numerics, torch_training
from arfl import attack as attacks
from arfl.aggregators import _steps
from arfl.device_data import DeviceData
from arfl.kernels import aggregation_gpu, backend
from arfl.local_training import Client, LocalSettings, epochs
from arfl.networks.cnn import Cnn
from arfl.networks.fasttext import FastText
from arfl.networks.loannet import LoanNet
from arfl.networks.resnet18 import ResNet18

CPU = torch.device("cpu")


@contextlib.contextmanager
def waiting(device, mode):
    """What CUDA does about a step that waits for it: "error" or "warn"."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def check_steps(device, n_clients, n_parameters, dtype):
    models = torch.randn(n_clients, n_parameters, dtype=dtype)
    models[:, 100:150] = models[:, 100:150].round()
    there = models.to(device)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-10
    close = {"rtol": tolerance, "atol": tolerance}
    weights = torch.rand(n_clients)
    cut = (n_clients - 1) // 3
    for step, here, options in (
        ("weighted_sum", (weights,), (weights.to(device),)),
        ("trimmed_mean", (cut,), (cut,)),
        ("repeated_median", (), ()),
    ):
        fast = getattr(aggregation_gpu, step)(there, *options)
        torch.testing.assert_close(fast.cpu(), getattr(_steps, step)(models, *here), **close)
    for variant in ("paper", "released") if n_clients > 1 else ():
        aggregation_gpu.reweight(there, variant, 2.0, 0.1)
        with waiting(device, "error"):
            corrected, sums = aggregation_gpu.reweight(there, variant, 2.0, 0.1)
        expected, expected_sums = _steps.reweight(models, variant, 2.0, 0.1)
        torch.testing.assert_close(corrected.cpu(), expected, **close)
        torch.testing.assert_close(sums.cpu(), expected_sums, rtol=1e-9, atol=1e-9)


def check_rules(device):
    models = torch.randn(10, 20_011, device=device)
    if device.type == "cuda":
        assert backend.backend(models) is aggregation_gpu
    models[3, 7] = float("nan")
    for name in ("fedavg", "median", "trimmed_mean", "repeated_median", "residual_reweighting"):
        fast, fast_weights = getattr(aggregators, name)(models)
        slow, slow_weights = getattr(aggregators, name)(models.cpu())
        torch.testing.assert_close(fast.cpu(), slow, rtol=1e-5, atol=1e-6)
        if slow_weights is not None:
            torch.testing.assert_close(fast_weights.cpu(), slow_weights, rtol=1e-5, atol=1e-7)
            assert fast_weights[3] == 0


def texts(n):
    generator = np.random.default_rng(3)
    x = generator.integers(0, 40, (n, 15)).astype(np.int16)
    return small_data.dataset(x, generator.integers(0, 2, n), n_classes=2, vocabulary_size=40)


CASES = {
    "cnn": (Cnn, lambda: small_data.images(120), "sgd", False, 2e-5),
    "loannet": (LoanNet, lambda: small_data.blobs(120, 9, 91), "sgd", False, 2e-5),
    "fasttext": (FastText, lambda: texts(120), "adam", False, 2e-4),
    "resnet18": (ResNet18, lambda: small_data.images(24, 3, 32), "sgd", True, 1e-3),
}


def check_training(device, name):
    """Clients of different lengths, one of them an attacker: (K, N) models as on the CPU."""
    make, samples, optimizer, augment, tolerance = CASES[name]
    source = samples()
    network = make(source.meta)
    n = len(source.train_x)
    parts = np.split(np.random.default_rng(7).permutation(n), [n // 2, n // 2, 3 * n // 4])
    clients = [Client(k, np.sort(part), 1, 0.01) for k, part in enumerate(parts)]
    clients[2] = Client(2, clients[2].samples, 2, 0.02, attacker=0)
    settings = LocalSettings(optimizer, 0.5, 8, None, augment)
    attack = attacks.make("label_flip", source.meta, source="all")
    start = network.initial(torch.Generator().manual_seed(1))
    work = [(client, list(epochs(client, settings, network, 5, 3))) for client in clients]
    ends, waits = [], []
    for where in (CPU, device):
        data = DeviceData(source, where)
        for timed in (False, True):
            with warnings.catch_warnings(record=True) as caught, waiting(where, "warn"):
                warnings.simplefilter("always")
                models, _ = torch_training.train_clients(
                    network, data, start.to(where), work, settings, attack
                )
            if timed:
                ends.append(models.cpu())
                waits.append(sum("synchroniz" in str(one.message).lower() for one in caught))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-3, atol=tolerance)
    print(f"{name}: CPU and {device} agree; {waits[1]} waits for the device")
    # A block may wait a few times at its start and end, but never in a step.
    assert waits[1] <= 4 * len(clients)


def main():
    device = numerics.set_up(sys.argv[1])
    assert device.type == sys.argv[1]
    n_clients, n_parameters = (1, 2, 7, 10, 16, 17, 40, 100), 20_011
    if device.type == "cpu":
        n_clients, n_parameters = (1, 2, 7), 200
    for n in n_clients:
        for dtype in (torch.float32, torch.float64):
            check_steps(device, n, n_parameters, dtype)
    print("kernels agree with plain torch")
    check_rules(device)
    for name in CASES:
        check_training(device, name)


if __name__ == "__main__":
    main()
