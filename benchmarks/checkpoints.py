"""What saving and reading a cell's state costs, beside the time between two savings.

    python benchmarks/checkpoints.py

For each of the paper's networks and its number of clients: a state after 200 rounds whose rule is
FoolsGold with its default memory, the rule that remembers most. Prints the file's size and the
best and the worst of the turns, and the best as a share of `checkpoint_minutes` in config.yaml.
"""

import argparse
import tempfile
import time
from pathlib import Path

import machine
import numpy as np
import torch
import yaml
from training import RandomSamples

from arfl import aggregation, checkpoint, network
from arfl.federation import State
from arfl.reporting.frames import RATES

ROUNDS, TURNS = 200, 5
NETWORKS = [
    ("cnn", 100, {"normalisation": {"mean": [0.1307], "std": [0.3081]}}, (1, 28, 28), 10),
    ("loannet", 51, {}, (91,), 9),
    ("fasttext", 10, {"vocabulary_size": 25_000}, (256,), 2),
    ("resnet18", 10, {"normalisation": {"mean": [0.5] * 3, "std": [0.25] * 3}}, (3, 32, 32), 10),
]


def state_of(name, n_clients, meta, shape, n_classes):
    """A state as training with FoolsGold leaves it behind."""
    made = network.make(name, RandomSamples(np.zeros((1, *shape)), n_classes, **meta).meta)
    stream = torch.Generator().manual_seed(0)
    model = made.initial(stream)
    rule = aggregation.make("foolsgold")
    context = aggregation.Context(
        global_model=model,
        client_ids=tuple(range(n_clients)),
        sample_counts=(1,) * n_clients,
        output_layer=made.layout.output_layer,
        buffers=made.layout.buffers,
        n_attackers=1,
        round_number=1,
    )
    noise = torch.randn(n_clients, len(model), generator=stream)
    rule(model + 0.01 * noise, context)
    entry = {
        "round": 1,
        **dict.fromkeys(RATES, 1 / 3),
        "clients": list(range(n_clients)),
        "weights": [1 / (k + 1) for k in range(n_clients)],
        "excluded": [],
    }
    return State(model, rule.state(), {}, [entry] * ROUNDS)


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    print(machine.describe(1))
    config = Path(__file__).parents[1] / "config.yaml"
    between = 60 * yaml.safe_load(config.read_text())["checkpoint_minutes"]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "state.npz"
        for name, n_clients, meta, shape, n_classes in NETWORKS:
            state = state_of(name, n_clients, meta, shape, n_classes)
            saving, reading = [], []
            for _ in range(TURNS):
                begin = time.perf_counter()
                checkpoint.save(path, "key", state, 0)
                saving.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                checkpoint.load(path, "key", torch.device("cpu"))
                reading.append(time.perf_counter() - begin)
            print(
                f"{name:9} K = {n_clients:3}: {path.stat().st_size / 1e6:6.2f} MB, "
                f"saved in {min(saving):6.3f} s ({max(saving):.3f} at most), read in "
                f"{min(reading):6.3f} s; saving is {min(saving) / between:.4%} of {between} s"
            )


if __name__ == "__main__":
    main()
