"""FoolsGold: memory by client, sybils, degenerate similarities, and batch-norm's buffers."""

import numpy as np
import pytest
import references
import torch
from torch import nn

from arfl import aggregation
from arfl.aggregators import foolsgold


def updates(n_clients, n_parameters=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_clients, n_parameters, dtype=torch.float64, generator=generator)


def related(n_clients, seed=0):
    """Updates of which the later ones share more and more of a direction."""
    direction = updates(1, seed=9)
    return updates(n_clients, seed=seed) + torch.arange(n_clients)[:, None] * 0.4 * direction


def context(start, client_ids, buffers=()):
    return aggregation.Context(
        start, tuple(client_ids), (1,) * len(client_ids), slice(0, 20), buffers
    )


def test_memory_follows_the_client_not_its_row():
    start = torch.zeros(40, dtype=torch.float64)
    first, second = related(5), related(5, seed=1)
    aggregate = aggregation.make("foolsgold")
    aggregate(first, context(start, [10, 11, 12, 13, 14]))
    order = [3, 0, 4, 2, 1]
    result = aggregate(second, context(start, [10 + i for i in order]))
    history = first[order, :20] + second[:, :20]
    rates = references.foolsgold_rates(history.numpy())
    np.testing.assert_allclose(result.weights, rates / rates.sum(), rtol=1e-9)
    again = aggregation.make("foolsgold")(second, context(start, range(5)))
    assert not torch.allclose(again.weights, result.weights)


def test_client_absent_for_a_round_keeps_its_history():
    start = torch.zeros(40, dtype=torch.float64)
    first, second, third = related(5), related(4, seed=1), related(5, seed=2)
    aggregate = aggregation.make("foolsgold")
    aggregate(first, context(start, range(5)))
    aggregate(second, context(start, range(4)))
    result = aggregate(third, context(start, range(5)))
    history = (first + third)[:, :20]
    history[:4] += second[:, :20]
    rates = references.foolsgold_rates(history.numpy())
    np.testing.assert_allclose(result.weights, rates / rates.sum(), rtol=1e-9)


def test_excluded_client_leaves_no_trace_in_its_history():
    start = torch.zeros(40, dtype=torch.float64)
    first, second = related(5), related(5, seed=1)
    broken = first.clone()
    broken[2, 0] = float("nan")
    aggregate = aggregation.make("foolsgold")
    aggregate(broken, context(start, range(5)))
    result = aggregate(second, context(start, range(5)))
    history = (first + second)[:, :20]
    history[2] = second[2, :20]
    rates = references.foolsgold_rates(history.numpy())
    np.testing.assert_allclose(result.weights, rates / rates.sum(), rtol=1e-9)


def test_sybils_lose_their_weight():
    models = updates(8)
    models[5:] = models[5] + 1e-3 * updates(3, seed=1)
    _, weights = foolsgold(models, torch.zeros(40, dtype=torch.float64))
    assert weights[5:].max() == 0
    assert weights[:5].min() > 0.1


@pytest.mark.parametrize("n_clients", [1, 2, 10])
def test_identical_clients_share_their_step(n_clients):
    start = updates(1, seed=4)[0]
    models = updates(1).repeat(n_clients, 1)
    model, weights = foolsgold(models, start)
    torch.testing.assert_close(model, models[0])
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / n_clients))


def test_two_identical_clients_among_others_lose_their_weight():
    models = updates(5)
    models[1] = models[0]
    model, weights = foolsgold(models, torch.zeros(40, dtype=torch.float64))
    assert model.isfinite().all()
    assert weights[:2].tolist() == [0, 0]
    assert weights.sum().item() == pytest.approx(1)


def test_clients_that_did_not_move_are_no_sybils():
    models = updates(4)
    models[:2] = 0
    model, weights = foolsgold(models, torch.zeros(40, dtype=torch.float64))
    assert model.isfinite().all()
    assert weights.isfinite().all()


def test_buffers_are_frozen_or_averaged():
    start, models = updates(1, seed=3)[0], updates(4)
    buffers = (slice(30, 35), slice(38, 40))
    frozen = foolsgold(models, start, buffer_slices=buffers, buffers="frozen")[0]
    averaged, weights = foolsgold(models, start, buffer_slices=buffers, buffers="averaged")
    for columns in buffers:
        assert torch.equal(frozen[columns], start[columns])
        torch.testing.assert_close(averaged[columns], weights @ models[:, columns])
    assert torch.equal(frozen[:30], averaged[:30])


def test_a_client_twice_in_a_round_is_refused():
    with pytest.raises(ValueError, match="twice"):
        foolsgold(updates(2), torch.zeros(40, dtype=torch.float64), client_ids=[1, 1])


def federated_accuracy(rule, **options):
    """Accuracy of a small batch-norm network after a few rounds, evaluated with its statistics."""
    torch.manual_seed(0)
    n_classes, n_clients = 4, 4
    network = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, n_classes),
    )  # fmt: skip
    tensors = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    ends = np.cumsum([v.numel() for v in tensors.values()]).tolist()
    places = {
        k: slice(end - v.numel(), end) for (k, v), end in zip(tensors.items(), ends, strict=True)
    }

    def load(flat):
        state = {k: flat[places[k]].reshape(v.shape) for k, v in tensors.items()}
        network.load_state_dict(state, strict=False)

    def flat():
        state = network.state_dict()
        return torch.cat([state[k].flatten() for k in tensors])

    centres = 3 * torch.randn(n_classes, 8)

    def draw(n, own):
        labels = torch.where(torch.rand(n) < 0.5, own, torch.randint(n_classes, (n,)))
        # Features far from mean 0 and variance 1, as no untrained running statistic expects them.
        return 20 + 5 * (centres[labels] + torch.randn(n, 8)), labels

    data = [draw(192, client) for client in range(n_clients)]
    test_x, test_y = draw(1000, torch.randint(n_classes, (1000,)))
    start = flat()
    aggregate = aggregation.make(rule, **options)
    where = aggregation.Context(
        start,
        tuple(range(n_clients)),
        (192,) * n_clients,
        places["9.weight"],
        tuple(columns for name, columns in places.items() if "running" in name),
    )
    for _ in range(6):
        models = []
        for x, y in data:
            load(where.global_model)
            network.train()
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
            for batch in torch.randperm(len(x)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
                optimizer.step()
            models.append(flat())
        model = aggregate(torch.stack(models), where).model
        where = aggregation.Context(
            model, where.client_ids, where.sample_counts, where.output_layer, where.buffers
        )
    load(where.global_model)
    network.eval()
    with torch.no_grad():
        return (network(test_x).argmax(1) == test_y).float().mean().item()


def test_frozen_batch_norm_statistics_ruin_a_network_that_averaged_ones_do_not():
    averaged = federated_accuracy("foolsgold", buffers="averaged")
    frozen = federated_accuracy("foolsgold", buffers="frozen")
    assert federated_accuracy("fedavg") > 0.9
    assert averaged > 0.9
    assert frozen < averaged - 0.3
