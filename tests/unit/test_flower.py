"""Strategies on messages as Flower builds them; skipped where flwr is not installed."""

import numpy as np
import pytest
import torch

flwr = pytest.importorskip("flwr", reason="flwr is not installed: pip install 'flwr>=1.42'")

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict  # noqa: E402

from arfl import aggregators, registry  # noqa: E402
from arfl.errors import UserError  # noqa: E402
from arfl.flat import flatten  # noqa: E402
from arfl.flower import Strategy  # noqa: E402


def network(seed):
    torch.manual_seed(seed)
    made = torch.nn.Sequential(
        torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3)
    )
    made(torch.randn(20, 6))
    return made.state_dict()


@pytest.fixture(autouse=True)
def run(monkeypatch):
    """Messages belong to a run and a node, which a server sets when it starts an app."""
    identity = pytest.importorskip("flwr.supercore.task_identity").TaskIdentity
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(identity, name, 1)


def reply(node, state, n_examples=10):
    """A client's reply as the server receives it."""
    content = RecordDict(
        {"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": n_examples})}
    )
    asked = Message(RecordDict(), dst_node_id=node, message_type="train")
    return Message(content, reply_to=asked)


def started(rule, start, **options):
    strategy = Strategy(rule, **options)
    strategy._start = ArrayRecord(start)
    return strategy


def states(arrays):
    return arrays.to_torch_state_dict()


@pytest.mark.parametrize(
    "rule", ["fedavg", "median", "trimmed_mean", "repeated_median", "residual_reweighting"]
)
def test_a_strategy_equals_the_plain_function_bit_for_bit(rule):
    clients = [network(seed) for seed in range(5)]
    strategy = started(rule, network(9))
    replies = [reply(node, clients[node]) for node in (3, 0, 4, 1, 2)]
    arrays, _ = strategy.aggregate_train(1, replies)
    models, form = flatten(clients)
    expected, weights = getattr(aggregators, rule)(models)
    for name, value in states(arrays).items():
        wanted = expected[form.slices[name]].reshape(value.shape)
        if value.dtype == torch.int64:
            wanted = wanted.round().long()
        assert torch.equal(value, wanted), name
        assert value.dtype == clients[0][name].dtype
    if weights is None:
        assert strategy.weights is None
    else:
        assert strategy.weights == dict(enumerate(weights.tolist()))


def test_foolsgold_remembers_nodes_whatever_the_order_of_their_replies():
    start, ids = network(9), (7, 3, 5)
    rounds = [[network(10 * n + k) for k in range(3)] for n in range(2)]
    strategy, memory = started("foolsgold", start), {}
    for number, clients in enumerate(rounds, start=1):
        order = (0, 1, 2) if number == 1 else (2, 0, 1)
        replies = [reply(ids[k], clients[k]) for k in order]
        arrays, _ = strategy.aggregate_train(number, replies)
        by_id = sorted(range(3), key=lambda k: ids[k])
        models, form = flatten([start, *(clients[k] for k in by_id)])
        expected, _ = aggregators.foolsgold(
            models[1:],
            models[0],
            client_ids=[ids[k] for k in by_id],
            output_layer=form.slices["2.weight"],
            buffer_slices=form.buffers,
            memory=memory,
        )
    for name in ("0.weight", "1.running_var", "2.bias"):
        value = states(arrays)[name]
        assert torch.equal(value, expected[form.slices[name]].reshape(value.shape))


@pytest.mark.parametrize("rule", registry.names("aggregators"))
def test_every_rule_is_a_strategy_and_leaves_out_what_is_not_finite(rule):
    clients = [network(seed) for seed in range(6)]
    clients[2]["0.weight"][0, 0] = float("nan")
    strategy = started(rule, network(9), n_attackers=1)
    arrays, _ = strategy.aggregate_train(1, [reply(k, state) for k, state in enumerate(clients)])
    assert all(np.isfinite(array.numpy()).all() for array in arrays.values())
    if strategy.weights is not None:
        assert strategy.weights[2] == 0


def test_no_reply_leaves_the_model_as_it_is():
    assert started("median", network(0)).aggregate_train(1, []) == (None, None)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="no option 'delte'"):
        Strategy("residual_reweighting", delte=0.1)
    with pytest.raises(UserError, match="Flower's clients send models"):
        Strategy("foolsgold", update="gradients")
    other = {name: value for name, value in network(1).items() if name != "2.bias"}
    with pytest.raises(UserError, match=r"do not fit the global one: model 1 differs.*2\.bias"):
        started("median", network(0)).aggregate_train(1, [reply(0, other), reply(1, other)])
    with pytest.raises(UserError, match="output_layer is 'head'"):
        started("median", network(0), output_layer="head").aggregate_train(
            1, [reply(0, network(1))]
        )
