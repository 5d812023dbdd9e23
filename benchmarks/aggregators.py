"""Time and memory of the aggregation rules beside a straightforward dense PyTorch version.

    python benchmarks/aggregators.py [--device cpu] [--threads 2] [--quick]

Prints, for the sizes that matter, the seconds of both versions, run in turn in one process on the
same device and threads, and their ratio; then the peak memory of the largest case; then draws how
time grows with K and N to benchmarks/out/aggregators-cpu.png (or -cuda) and writes it to a CSV file
beside it.

The dense version is what one writes from Eq. 1-11 with tensors alone: all K x K slopes by
broadcasting, medians by sorting, the hat matrix by a batched inverse, 2,000 parameters at a time.
Where all of N would take minutes it is timed on a part of the columns and scaled (marked ~). The
mean, median and trimmed mean stand beside torch's own mean, sort and sorted mean.
"""

import argparse
import csv
import math
import subprocess
import sys
import time
from pathlib import Path

import machine
import torch

from arfl.aggregators import (
    fedavg,
    median,
    repeated_median,
    residual_reweighting,
    trimmed_mean,
)

OUT = Path(__file__).parent / "out"
SHARD = 2000
RESNET18 = 11_173_962


def middle(values):
    values = values.sort(dim=-1).values
    n = values.shape[-1]
    return values[..., n // 2] if n % 2 else (values[..., n // 2 - 1] + values[..., n // 2]) / 2


def middle_of_others(values):
    """Median along the last axis of (.., K, K) without the diagonal, which is infinite."""
    values = values.sort(dim=-1).values[..., :-1]
    n = values.shape[-1]
    return values[..., n // 2] if n % 2 else (values[..., n // 2 - 1] + values[..., n // 2]) / 2


def dense_line(y):
    """Slope and intercept (P,) of y (P, K)."""
    n = y.shape[1]
    y = y.sort(dim=1).values
    x = torch.arange(1, n + 1, dtype=y.dtype, device=y.device)
    infinite = torch.diag(torch.full((n,), math.inf, device=y.device))
    dx = x[None, :] - x[:, None] + infinite
    slopes = (y[:, None, :] - y[:, :, None]) / dx + infinite
    crossings = (x[None, :] * y[:, :, None] - x[:, None] * y[:, None, :]) / dx + infinite
    return middle(middle_of_others(slopes)), middle(middle_of_others(crossings))


def dense_repeated_median(models):
    n = len(models)
    parts = []
    for shard in models.split(SHARD, dim=1):
        slope, intercept = dense_line(shard.T)
        parts.append(intercept + slope * (n + 1) / 2)
    return torch.cat(parts)


def dense_residual_reweighting(models, lam=2.0, delta=0.1):
    n = len(models)
    corrected, total = torch.empty_like(models), torch.zeros(n, device=models.device)
    clip = lam * math.sqrt(2 / n)
    for start in range(0, models.shape[1], SHARD):
        y = models[:, start : start + SHARD].T
        slope, intercept = dense_line(y)
        x = y.argsort(dim=1).argsort(dim=1).to(y.dtype) + 1
        fitted = intercept[:, None] + slope[:, None] * x
        residual = y - fitted
        e = residual / (1.48 * middle(residual.abs()) * (1 + 5 / (n - 1)))[:, None]
        design = x[:, :, None]
        hat = design @ torch.linalg.inv(design.mT @ design) @ design.mT
        root = (1 - torch.diagonal(hat, dim1=1, dim2=2)).sqrt()
        weight = root / e * (e / root).clamp(-clip, clip)
        weight[weight.isnan()] = 1
        weight = weight * (weight > delta)
        corrected[:, start : start + SHARD] = torch.where(weight > 0, y, fitted).T
        total += (weight * weight.std(dim=1, correction=0, keepdim=True)).sum(dim=0)
    return total / total.sum() @ corrected


def dense_mean(models):
    return models.mean(dim=0)


def dense_median(models):
    return middle(models.T)


def dense_trimmed_mean(models):
    cut = int(0.2 * len(models))
    return models.sort(dim=0).values[cut : len(models) - cut].mean(dim=0)


def seconds(function, models, repeats):
    """Least of ``repeats`` timings, after one untimed call of the same kernels."""
    wait = torch.cuda.synchronize if models.is_cuda else lambda: None
    function(models[:, : 100_000 // len(models) + 1])
    best = math.inf
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        function(models)
        wait()
        best = min(best, time.perf_counter() - start)
    return best


def compare(name, fast, dense, n_clients, n_parameters, dense_parameters, device):
    models = torch.randn(n_clients, n_parameters, device=device)
    part = models[:, :dense_parameters]
    # In turn, so that a change of the machine's load meets both.
    pairs = [(seconds(dense, part, 1), seconds(fast, models, 5)) for _ in range(2)]
    slow = min(pair[0] for pair in pairs) * n_parameters / dense_parameters
    quick = min(pair[1] for pair in pairs)
    mark = "~" if dense_parameters < n_parameters else " "
    print(
        f"{name:22} K={n_clients:<4} N={n_parameters:<11,} dense {mark}{slow:9.4f} s   "
        f"arfl {quick:9.5f} s   ratio {slow / quick:6.1f}",
        flush=True,
    )


MEMORY = """
import torch
from pathlib import Path
from arfl.aggregators import residual_reweighting

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

torch.set_num_threads({threads})
models = torch.randn(10, {n})
residual_reweighting(models[:, :10_001])
before = peak()
residual_reweighting(models)
print((peak() - before) / (models.numel() * 4))
"""


def extra_memory(device, threads):
    """Peak memory of the largest case, beyond the input, as a multiple of it."""
    if device == "cuda":
        models = torch.randn(10, RESNET18, device=device)
        residual_reweighting(models)
        torch.cuda.reset_peak_memory_stats()
        residual_reweighting(models)
        return torch.cuda.max_memory_allocated() / (models.numel() * 4) - 1
    code = MEMORY.format(threads=threads, n=RESNET18)
    return float(subprocess.check_output([sys.executable, "-c", code], text=True))


def cost_model(path, largest, device):
    """Time against K at one N and against N at one K, as CSV and as a plot."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sweeps = {
        "K": [(k, 20_000) for k in (2, 3, 5, 7, 8, 10, 12, 16, 17, 24, 32, 48, 64, 100)],
        "N": [(10, n) for n in (100, 1000, 10_000, 100_000, 1_000_000) if n <= largest],
    }
    rows = []
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, (swept, sizes) in zip(axes, sweeps.items(), strict=True):
        for rule in (residual_reweighting, repeated_median):
            times = [seconds(rule, torch.randn(k, n, device=device), 3) for k, n in sizes]
            values = [k if swept == "K" else n for k, n in sizes]
            axis.loglog(values, times, "o-", label=rule.__name__)
            rows += [
                {"rule": rule.__name__, "K": k, "N": n, "seconds": t}
                for (k, n), t in zip(sizes, times, strict=True)
            ]
        axis.set(xlabel=swept, ylabel="seconds")
        axis.set_title("N = 20,000" if swept == "K" else "K = 10")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path.with_suffix(".png"), dpi=150)
    with open(path.with_suffix(".csv"), "w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="leave out the largest case")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(machine.describe(arguments.threads))
    if device == "cuda":
        import triton

        print(f"{torch.cuda.get_device_name()}, triton {triton.__version__}")
    rules = [
        ("residual_reweighting", residual_reweighting, dense_residual_reweighting),
        ("repeated_median", repeated_median, dense_repeated_median),
    ]
    simple = [
        ("fedavg", fedavg, dense_mean),
        ("median", median, dense_median),
        ("trimmed_mean", trimmed_mean, dense_trimmed_mean),
    ]
    for name, fast, dense in rules:
        compare(name, fast, dense, 10, 1_000_000, 100_000, device)
        compare(name, fast, dense, 100, 3146, 3146, device)
    for name, fast, dense in simple:
        compare(name, fast, dense, 10, 1_000_000, 1_000_000, device)
    if not arguments.quick:
        compare(*rules[0], 10, RESNET18, 100_000, device)
        extra = extra_memory(device, arguments.threads)
        print(f"peak extra memory at K=10 N={RESNET18:,}: {extra:.2f} x the input")
    OUT.mkdir(exist_ok=True)
    path = OUT / f"aggregators-{device}"
    cost_model(path, 100_000 if arguments.quick else 1_000_000, device)
    print(f"cost model: {path}.png, {path}.csv")


if __name__ == "__main__":
    main()
