"""Local training on a CPU: the project's kernels beside PyTorch's own operations.

    python benchmarks/training.py

The CNN: 20 clients of 600 random images of MNIST's size for one epoch, in batches of the sizes that
the paper uses (128 and 64) and of a small one. fastText at the paper's sizes: one client, 25,000
words, 100 dimensions, batches of 64 texts of up to 256 tokens drawn by Zipf's law. LoanNet at the
paper's sizes: clients of 2,000 loans in batches of 64 without dropout and with half of the hidden
units dropped. Both versions train the same batches, in turn in one process, on one thread. Prints
samples per second and their ratio, the best of the turns, and how far apart the trained models end.
Beside them what a dense training could reach: PyTorch's count of a sample's floating-point
operations, at the rate at which a large matrix product runs on the same thread. fastText has none,
since its time goes into looking up words and into Adam.
"""

import argparse
import time

import machine
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from arfl import network
from arfl.attack import Attack
from arfl.device_data import DeviceData
from arfl.local_training import Client, LocalSettings, LocalTraining

CLIENTS, IMAGES, TEXTS, WORDS, LENGTH, TURNS = 20, 600, 4_300, 25_000, 256, 3
LOANS, FEATURES, GRADES = 2_000, 91, 9


class RandomSamples:
    """As much of a prepared dataset as training looks at."""

    def __init__(self, x, n_classes, normalisation=None, vocabulary_size=None):
        self.train_x = x
        self.train_y = np.random.default_rng(1).integers(0, n_classes, len(x))
        self.test_x, self.test_y = self.train_x[:1], self.train_y[:1]
        self.meta = {
            "name": "random",
            "n_classes": n_classes,
            "normalisation": normalisation,
            "vocabulary_size": vocabulary_size,
            "arrays": {"train_x": {"shape": list(x.shape)}},
        }


def random_texts(rng, shortest):
    chances = 1 / np.arange(1, WORDS + 1)
    x = rng.choice(WORDS, (TEXTS, LENGTH), p=chances / chances.sum()).astype(np.int16)
    lengths = rng.integers(shortest, LENGTH + 1, (TEXTS, 1))
    return np.where(np.arange(LENGTH) < lengths, x, np.int16(-1))


def product_speed(size=2_048):
    """Floating-point operations a second of a matrix product on one thread."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)


def ready(name, samples, settings, client, dropout=0.0, compiled=True):
    """What trains these samples, and the model to begin with."""
    made = network.make(name, samples.meta, dropout)
    if not compiled:
        made.compiled = lambda: None
    data = DeviceData(samples, torch.device("cpu"))
    training = LocalTraining(made, data, settings, Attack(), 1, client.lr)
    return training, made.initial(torch.Generator().manual_seed(0))


def compare(title, name, samples, clients, settings, dropout=0.0):
    best, ends = {}, {}
    for _ in range(TURNS):
        for version in ("PyTorch", "kernels"):
            compiled = version == "kernels"
            training, start = ready(name, samples, settings, clients[0], dropout, compiled)
            begin = time.perf_counter()
            ends[version] = training.train(start, clients, 1, "models")
            speed = len(samples.train_x) / (time.perf_counter() - begin)
            best[version] = max(best.get(version, 0.0), speed)
    distance = float((ends["PyTorch"] - ends["kernels"]).abs().max())
    print(
        f"{title}: PyTorch {best['PyTorch']:7,.0f}/s, kernels {best['kernels']:7,.0f}/s, "
        f"ratio {best['kernels'] / best['PyTorch']:.1f}; models differ by {distance:.1g} at most"
    )


def dense_bound(name, samples, client, settings):
    """What samples a second would be if PyTorch's operations ran as fast as a matrix product."""
    training, start = ready(name, samples, settings, client, compiled=False)
    with FlopCounterMode(display=False) as counter:
        training.train(start, [client], 1, "models")
    operations, speed = counter.get_total_flops() / len(client.samples), product_speed()
    print(
        f"{name}: {operations:,.0f} operations a sample, products at {speed / 1e9:.0f} GFLOP/s: "
        f"{speed / operations:,.0f}/s"
    )


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    print(machine.describe(1))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (CLIENTS * IMAGES, 1, 28, 28), dtype=np.uint8)
    images = RandomSamples(pixels, 10, {"mean": [0.1307], "std": [0.3081]})
    clients = [
        Client(k, np.arange(k * IMAGES, (k + 1) * IMAGES), epochs=1, lr=0.01)
        for k in range(CLIENTS)
    ]
    for batch_size in (128, 64, 8):
        settings = LocalSettings("sgd", 0.5, batch_size)
        compare(f"CNN, batch {batch_size:3d}, images", "cnn", images, clients, settings)
    dense_bound("cnn", images, clients[0], settings)
    for shortest, what in ((LENGTH, "full texts"), (1, "texts of 1 to 256 tokens")):
        texts = RandomSamples(random_texts(rng, shortest), 2, vocabulary_size=WORDS)
        client = Client(0, np.arange(TEXTS), epochs=1, lr=0.05)
        compare(f"fastText, {what}", "fasttext", texts, [client], LocalSettings("adam", 0.0, 64))
    rows = rng.standard_normal((CLIENTS * LOANS, FEATURES), dtype=np.float32)
    loans = RandomSamples(rows, GRADES)
    clients = [
        Client(k, np.arange(k * LOANS, (k + 1) * LOANS), epochs=1, lr=0.01) for k in range(CLIENTS)
    ]
    for dropout in (0.0, 0.5):
        title = f"LoanNet, dropout {dropout}, loans"
        compare(title, "loannet", loans, clients, LocalSettings("sgd", 0.5, 64), dropout)
    dense_bound("loannet", loans, clients[0], LocalSettings("sgd", 0.5, 64))


if __name__ == "__main__":
    main()
