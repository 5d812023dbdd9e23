"""Residual reweighting in Flower: ten clients on scikit-learn digits; two of them flip labels.

Needs flwr 1.42 or newer with its simulation, and this package, in an environment of their own; in
this repository's folder::

    pip install ".[flower]" "flwr[simulation]" scikit-learn
    python examples/flower_app.py                          # or fedavg, median, foolsgold, ...
    python examples/flower_app.py residual_reweighting delta=0.01
"""

import sys

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits

from arfl.flower import Strategy

N_CLIENTS, N_ATTACKERS, N_ROUNDS = 10, 2, 5


def network() -> torch.nn.Module:
    """A small network with batch-norm statistics, so that these travel too."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(64, 32),
        torch.nn.BatchNorm1d(32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 10),
    )


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 images of 8 x 8 pixels in [0, 1], and their labels."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Two epochs on the client's part; clients 0 and 1 train on 9 - label."""
    number = context.node_config["partition-id"]
    x, y = (part[:1500][number::N_CLIENTS] for part in digits())
    if number < N_ATTACKERS:
        y = 9 - y
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for rows in torch.randperm(len(x)).split(16):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(x)}),
        }
    )
    return Message(content, reply_to=message)


server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for some rounds and print the accuracy on the last 297 images after each."""
    name, *options = sys.argv[1:] or ["residual_reweighting"]
    options = {key: float(value) for key, value in (option.split("=") for option in options)}
    strategy = Strategy(
        name, n_attackers=N_ATTACKERS, fraction_evaluate=0.0, min_train_nodes=N_CLIENTS, **options
    )

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model = network()
        model.load_state_dict(arrays.to_torch_state_dict())
        x, y = (part[1500:] for part in digits())
        with torch.no_grad():
            accuracy = (model.eval()(x).argmax(1) == y).float().mean().item()
        print(f"round {server_round}: accuracy {accuracy:.3f}", flush=True)
        return MetricRecord({"accuracy": accuracy})

    arrays = ArrayRecord(network().state_dict())
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=N_ROUNDS, evaluate_fn=evaluate)


if __name__ == "__main__":
    run_simulation(server_app, client_app, num_supernodes=N_CLIENTS)
