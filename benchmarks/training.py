"""Local training of the CNN on a CPU: the lane kernels beside PyTorch's convolutions.

    python benchmarks/training.py [--threads 1]

Both versions train the same clients on random images of MNIST's size, in turn in one process: 20
clients of 600 images for one epoch, in batches of the sizes that the paper uses (128 and 64) and
of a small one. Prints images per second and their ratio, the best of five turns, and how far apart
the trained models end. PyTorch's version gets the block of clients that is best for it.
"""

import argparse
import time

import machine
import numpy as np
import torch

from arfl import models
from arfl.attacks import Attack
from arfl.device_data import DeviceData
from arfl.local_training import Client, LocalSettings, train_clients

CLIENTS, SAMPLES, TURNS = 20, 600, 5


class RandomImages:
    """As much of a prepared dataset as training looks at."""

    def __init__(self, rng):
        self.train_x = rng.integers(0, 256, (CLIENTS * SAMPLES, 1, 28, 28), dtype=np.uint8)
        self.train_y = rng.integers(0, 10, CLIENTS * SAMPLES)
        self.test_x, self.test_y = self.train_x[:1], self.train_y[:1]
        self.meta = {"normalisation": {"mean": [0.1307], "std": [0.3081]}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine.describe(arguments.threads))
    data = DeviceData(RandomImages(np.random.default_rng(0)), torch.device("cpu"))
    clients = [
        Client(k, np.arange(k * SAMPLES, (k + 1) * SAMPLES), epochs=1, lr=0.01, poisoned=False)
        for k in range(CLIENTS)
    ]
    start = models.Cnn(10).initial(torch.Generator().manual_seed(0))

    def train(batch_size, lanes, samples_at_once=None):
        model = models.Cnn(10, lanes=lanes)
        if samples_at_once is not None:
            model.samples_at_once_cpu = samples_at_once
        settings = LocalSettings("sgd", 0.5, batch_size, None)
        begin = time.perf_counter()
        trained = train_clients(model, data, start, clients, settings, Attack(), 1, 1)
        return CLIENTS * SAMPLES / (time.perf_counter() - begin), trained

    for batch_size in (128, 64, 8):
        ours, theirs = 0.0, 0.0
        for _ in range(TURNS):
            speed, with_lanes = train(batch_size, lanes=True)
            ours = max(ours, speed)
            for at_once in (batch_size, 128):
                speed, with_torch = train(batch_size, lanes=False, samples_at_once=at_once)
                theirs = max(theirs, speed)
        distance = float((with_lanes - with_torch).abs().max())
        print(
            f"batch {batch_size:3d}: PyTorch {theirs:7,.0f} images/s, lanes {ours:7,.0f} images/s, "
            f"ratio {ours / theirs:.1f}; models differ by {distance:.1g} at most"
        )


if __name__ == "__main__":
    main()
