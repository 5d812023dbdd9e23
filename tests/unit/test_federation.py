"""The round loop: what all aggregators share, who attacks, and what is recorded."""

import copy
import itertools

import numpy as np
import pytest
import small_data
import torch
from reference_networks import ReferenceCnn

from arfl import aggregation, attack, evaluation, federation, registry
from arfl.device_data import DeviceData
from arfl.errors import UserError
from arfl.local_training import Client, LocalSettings, LocalTraining
from arfl.networks.cnn import Cnn
from arfl.networks.loannet import LoanNet

CPU = torch.device("cpu")
BLOBS = small_data.blobs(180)
SIX = small_data.partition(np.array_split(np.random.default_rng(1).permutation(180), 6), BLOBS)


RULES = registry.names("aggregators")


def run(settings, n_attackers=0, seed=1, data=BLOBS, parts=SIX, after_round=lambda state: None):
    scenario = federation.Scenario(settings, n_attackers, seed, data, parts, CPU)
    state = federation.train(scenario, scenario.start(), after_round)
    return {
        "clients": scenario.describe_clients(),
        "rounds": state.rounds,
        "seconds": state.seconds,
        "diverged": state.diverged,
    }


@pytest.fixture
def rounds_seen(monkeypatch):
    """What each round of the runs started from, who took part, and what was submitted."""
    seen = []
    aggregate = aggregation.Aggregator.__call__

    def record(self, submitted, context):
        seen.append((context, submitted.clone()))
        return aggregate(self, submitted, context)

    monkeypatch.setattr(aggregation.Aggregator, "__call__", record)
    return seen


# Attackers


COUNTS = np.zeros((12, 10), dtype=np.int64)
COUNTS[:, 0] = 5
COUNTS[[1, 4, 6, 9, 10], 3] = 2


def test_attackers_hold_the_source_class_and_a_larger_number_adds_to_a_smaller():
    chosen = set()
    for seed in range(30):
        nested = [federation.choose_attackers(COUNTS, n, 3, seed) for n in range(6)]
        for n, attackers in enumerate(nested):
            assert len(set(attackers)) == n
            assert attackers == sorted(attackers)
            assert set(attackers) <= {1, 4, 6, 9, 10}
        for fewer, more in itertools.pairwise(nested):
            assert set(fewer) < set(more)
        chosen.add(tuple(nested[2]))
    assert len(chosen) > 5


def test_without_a_source_class_every_client_with_samples_may_attack():
    counts = COUNTS.copy()
    counts[7] = 0
    assert federation.choose_attackers(counts, 11, None, 1) == [k for k in range(12) if k != 7]


@pytest.mark.parametrize(
    ("n", "source", "message"),
    [
        (6, 3, "6 attackers are asked for, but only 5 clients hold class 3"),
        (13, None, "13 attackers are asked for, but only 12 clients hold samples"),
    ],
)
def test_more_attackers_than_holders_is_one_message(n, source, message):
    with pytest.raises(UserError, match=message):
        federation.choose_attackers(COUNTS, n, source, 1)


def test_a_run_draws_its_attackers_from_the_holders_of_the_source_class():
    labels = np.asarray(BLOBS.train_y)
    others = np.flatnonzero(labels != 2)
    parts = [*np.array_split(others, 4), *np.array_split(np.flatnonzero(labels == 2), 2)]
    parts = small_data.partition(parts, BLOBS)
    flip = small_data.settings(
        attack="label_flip", attack_options={"source": 2, "target": 0}, rounds=1
    )
    assert run(flip, 2, parts=parts)["clients"]["attackers"] == [4, 5]
    with pytest.raises(UserError, match="only 2 clients hold class 2"):
        run(flip, 3, parts=parts)


# Reproducibility and what is shared


def test_two_runs_give_the_same_record():
    settings = small_data.settings(
        "residual_reweighting",
        attack="gaussian",
        attack_options={"noise_std": 1.0},
        dropout=0.5,
        clients_per_round=4,
    )
    given = copy.deepcopy(settings)
    first, second = run(settings, 2), run(settings, 2)
    assert settings == given
    assert set(first.pop("seconds")) == set(second.pop("seconds"))
    assert first == second
    assert run(settings, 2, seed=2)["rounds"] != first["rounds"]


def test_all_aggregators_share_attackers_initial_model_and_first_submissions(rounds_seen):
    flip = {"attack": "label_flip", "attack_options": {"source": 1, "target": 2}}
    records = [
        run(small_data.settings(rule, **flip, clients_per_round=5, rounds=2, dropout=0.3), 2)
        for rule in RULES
    ]
    assert len({str(record["clients"]) for record in records}) == 1
    first_rounds, second_rounds = rounds_seen[::2], rounds_seen[1::2]
    context, submitted = first_rounds[0]
    for other_context, other_submitted in first_rounds[1:]:
        assert torch.equal(other_context.global_model, context.global_model)
        assert other_context.client_ids == context.client_ids
        assert torch.equal(other_submitted, submitted)
    assert len({c.client_ids for c, _ in second_rounds}) == 1
    # from then on, each goes its own way
    assert len({c.global_model.numpy().tobytes() for c, _ in second_rounds}) == len(records)


def test_honest_clients_do_not_notice_the_attackers_in_the_first_round(rounds_seen):
    noise = {"attack": "gaussian", "attack_options": {"noise_std": 2.0}}
    record = run(small_data.settings(rounds=1, **noise), 2)
    run(small_data.settings(rounds=1), 0)
    (_, attacked), (_, clean) = rounds_seen
    same = (attacked == clean).all(1)
    assert [k for k in range(6) if not same[k]] == record["clients"]["attackers"]


def test_each_corrupted_client_has_noise_of_its_own_in_each_round(rounds_seen):
    noise = {"attack": "gaussian", "attack_options": {"noise_std": 0.1}}
    # so small a learning rate leaves the models where they are
    attackers = run(small_data.settings(lr=1e-20, rounds=2, **noise), 2)["clients"]["attackers"]
    factors = [
        submitted[k] / context.global_model for context, submitted in rounds_seen for k in attackers
    ]
    for one, other in itertools.combinations(factors, 2):
        correlation = torch.corrcoef(torch.stack([one, other]))[0, 1]
        assert abs(correlation) < 5 / len(one) ** 0.5


# Federated averaging of one client is local training


def test_one_client_is_local_training_on_the_initial_model(rounds_seen):
    data = small_data.images(60)
    parts = small_data.partition([np.arange(60)], data)
    settings = small_data.settings(model="cnn", rounds=2, epochs=2)
    record = run(settings, data=data, parts=parts)
    model = Cnn(data.meta)
    local = LocalSettings("sgd", 0.5, 16)
    training = LocalTraining(model, DeviceData(data, CPU), local, attack.Attack(), 1, 0.1)
    (first, _), (second, submitted) = rounds_seen
    expected = first.global_model
    for round_number in (1, 2):
        clients = [Client(0, np.arange(60), 2, 0.1)]
        expected = training.train(expected, clients, round_number, "models")[0]
        if round_number == 1:
            assert torch.equal(second.global_model, expected)
    assert torch.equal(submitted[0], expected)
    # and the recorded accuracy is that of the trained network on the test samples
    network = ReferenceCnn()
    tensors = model.layout.views(expected.unsqueeze(0))
    network.load_state_dict({name: tensor[0] for name, tensor in tensors.items()})
    x = torch.from_numpy((data.test_x / 255 - 0.4) / 0.2).float()
    hits = (network(x).argmax(1).numpy() == data.test_y).sum()
    assert record["rounds"][-1]["accuracy"] == hits / 60
    assert record["rounds"][-1]["weights"] == [1.0]


# Metrics


def constant(self, tensors, x, training, keep):
    """A network's forward that predicts class 1, whatever it sees."""
    logits = torch.zeros(*x.shape[:2], 3)
    logits[..., 1] = 1
    return logits + 0 * tensors["fc1.bias"].sum()


@pytest.mark.parametrize("target", [0, 1])
def test_the_paper_counts_the_target_classs_own_samples_as_successes(monkeypatch, target):
    # 12 samples of class 0, 30 of class 1 and 18 of class 2, all taken for class 1.
    y = np.repeat([0, 1, 2], [12, 30, 18])
    data = small_data.dataset(
        np.zeros((60, 4), dtype=np.float32), y, n_classes=3, trigger={"columns": [0], "values": [9]}
    )
    monkeypatch.setattr(LoanNet, "compiled", lambda self: None)
    monkeypatch.setattr(LoanNet, "forward", constant)
    monkeypatch.setattr(evaluation, "_BATCH", 7)
    settings = small_data.settings(attack="backdoor", attack_options={"target": target}, rounds=1)
    parts = small_data.partition([range(30), range(30, 60)], data)
    entry = run(settings, 1, data=data, parts=parts)["rounds"][0]
    assert entry["accuracy"] == 30 / 60
    # a constant classifier "succeeds" everywhere or nowhere; without the target's own samples too
    assert entry["attack_success_rate"] == (1.0 if target == 1 else 0.0)
    assert entry["attack_success_rate_excl_target"] == (1.0 if target == 1 else 0.0)


def by_feature(self, tensors, x, training, keep):
    """A network's forward that predicts the class that the first feature names."""
    logits = torch.nn.functional.one_hot(x[..., 0].long(), 3).float()
    return logits + 0 * tensors["fc1.bias"].sum()


@pytest.mark.parametrize(
    ("rule", "options", "paper", "excluding"),
    [
        # the trigger writes to another column: nothing but class 2's own samples are taken for 2
        ("backdoor", {"target": 2}, 4 / 10, 1 / 7),
        # of class 0's four samples one is taken for 2, of which none is of class 2
        ("label_flip", {"source": 0, "target": 2}, 1 / 4, 1 / 4),
    ],
)
def test_success_rates_of_a_hand_counted_test_set(monkeypatch, rule, options, paper, excluding):
    y = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    predicted = np.array([0, 2, 0, 1, 1, 1, 0, 2, 2, 2], dtype=np.float32)
    x = np.stack([predicted, np.zeros(10, dtype=np.float32)], axis=1)
    data = small_data.dataset(x, y, n_classes=3, trigger={"columns": [1], "values": [9]})
    monkeypatch.setattr(LoanNet, "compiled", lambda self: None)
    monkeypatch.setattr(LoanNet, "forward", by_feature)
    settings = small_data.settings(attack=rule, attack_options=options, rounds=1)
    parts = small_data.partition([range(0, 10, 2), range(1, 10, 2)], data)
    entry = run(settings, 1, data=data, parts=parts)["rounds"][0]
    assert entry["accuracy"] == 7 / 10
    assert entry["attack_success_rate"] == pytest.approx(paper)
    assert entry["attack_success_rate_excl_target"] == pytest.approx(excluding)


def test_without_an_attack_there_is_no_success_rate():
    for entry in run(small_data.settings())["rounds"]:
        assert entry["attack_success_rate"] is None
        assert entry["attack_success_rate_excl_target"] is None


# Attacks over the rounds


def test_attackers_train_longer_and_faster_only_when_they_attack(monkeypatch):
    seen = []

    train = LocalTraining.train

    def spy(self, global_model, clients, *arguments):
        seen.append(clients)
        return train(self, global_model, clients, *arguments)

    monkeypatch.setattr(LocalTraining, "train", spy)
    data = small_data.blobs(60)
    data.meta["trigger"] = {"columns": [0], "values": [9.0]}
    settings = small_data.settings(
        attack="backdoor",
        attack_options={"target": 0, "active_round": 2, "scale": 10},
        training={"epoch_factor": 2, "lr_factor": 5},
        epochs=3,
        lr=0.01,
    )
    parts = small_data.partition(np.array_split(np.arange(60), 4), data)
    attackers = run(settings, 1, data=data, parts=parts)["clients"]["attackers"]
    assert len(seen) == 3
    for round_number, clients in enumerate(seen, start=1):
        for client in clients:
            attacking = round_number == 2 and client.number in attackers
            assert client.attacker == (0 if attacking else None)
            assert client.epochs == (6 if attacking else 3)
            assert client.lr == pytest.approx(0.05 if attacking else 0.01)


def test_model_replacement_scales_the_update_of_its_round_alone(rounds_seen):
    data = small_data.blobs(60)
    data.meta["trigger"] = {"columns": [0], "values": [9.0]}
    parts = small_data.partition(np.array_split(np.arange(60), 4), data)
    for scale in (1, 100):
        options = {"target": 0, "active_round": 2, "scale": scale}
        settings = small_data.settings(attack="backdoor", attack_options=options, rounds=2)
        attackers = run(settings, 1, data=data, parts=parts)["clients"]["attackers"]
    (_, one), (context, two), (_, one_scaled), (_, two_scaled) = rounds_seen
    assert torch.equal(one, one_scaled)
    start, row = context.global_model, attackers[0]
    honest = [k for k in range(4) if k != row]
    assert torch.equal(two[honest], two_scaled[honest])
    torch.testing.assert_close(
        two_scaled[row] - start, 100 * (two[row] - start), rtol=1e-3, atol=1e-4
    )


# Clients of a round


@pytest.mark.parametrize("always", [True, False])
def test_sampled_rounds_have_their_number_of_clients_and_the_attackers_if_asked(always):
    noise = {"attack": "gaussian", "attack_options": {"noise_std": 0.1}}
    settings = small_data.settings(
        clients_per_round=3, attackers_every_round=always, rounds=12, **noise
    )
    record = run(settings, 2)
    attackers = set(record["clients"]["attackers"])
    drawn = [entry["clients"] for entry in record["rounds"]]
    assert all(clients == sorted(set(clients)) and len(clients) == 3 for clients in drawn)
    assert all(attackers <= set(clients) for clients in drawn) == always
    assert len({tuple(clients) for clients in drawn}) > 2
    assert set().union(*drawn) == set(range(6))
    assert all(len(entry["weights"]) == 3 for entry in record["rounds"])


def test_the_sampled_clients_do_not_depend_on_the_number_of_attackers():
    noise = {"attack": "gaussian", "attack_options": {"noise_std": 0.1}}
    sampled = small_data.settings(
        clients_per_round=3, attackers_every_round=False, rounds=6, **noise
    )
    drawn = [[entry["clients"] for entry in run(sampled, n)["rounds"]] for n in (0, 1, 2)]
    assert drawn[0] == drawn[1] == drawn[2]


def test_attackers_that_do_not_fit_into_a_round_are_one_message():
    noise = {"attack": "gaussian", "attack_options": {"noise_std": 0.1}}
    settings = small_data.settings(clients_per_round=3, rounds=1, **noise)
    assert run(settings, 3)["rounds"][0]["clients"] == run(settings, 3)["clients"]["attackers"]
    with pytest.raises(UserError, match=r"4 attackers.*clients_per_round is 3"):
        run(settings, 4)
    by_chance = small_data.settings(
        clients_per_round=3, attackers_every_round=False, rounds=1, **noise
    )
    assert len(run(by_chance, 4)["rounds"][0]["clients"]) == 3


@pytest.mark.parametrize("per_round", [None, 6, 60])
def test_otherwise_all_clients_take_part(per_round):
    record = run(small_data.settings(clients_per_round=per_round, rounds=1))
    assert record["rounds"][0]["clients"] == list(range(6))
    assert record["clients"]["n"] == 6
    assert record["clients"]["class_counts"] == SIX.class_counts.tolist()


def test_the_training_share_keeps_the_first_samples_of_each_client(rounds_seen):
    run(small_data.settings(train_share=0.7, rounds=1))
    ((context, _),) = rounds_seen
    assert context.sample_counts == (21,) * 6
    assert context.client_ids == tuple(range(6))


# Models that are not finite


class Broken(attack.Attack):
    """Attackers send a model that is not a number, from some round on."""

    def __init__(self, since=1):
        self._since = since

    def active(self, round_number):
        return round_number >= self._since

    def submit(self, model, global_model, generator):
        return torch.full_like(model, torch.nan)


@pytest.mark.parametrize("rule", RULES)
def test_a_model_that_is_not_finite_is_left_out_and_reported(monkeypatch, rule):
    monkeypatch.setattr(attack, "make", lambda *_, **__: Broken())
    settings = small_data.settings(rule, attack="broken", clients_per_round=5, rounds=4)
    record = run(settings, 2)
    attackers = record["clients"]["attackers"]
    assert all(entry["excluded"] == attackers for entry in record["rounds"])
    for entry in record["rounds"]:
        if entry["weights"] is not None:
            weights = dict(zip(entry["clients"], entry["weights"], strict=True))
            assert all(weights[k] == 0 for k in attackers)
            assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
    # the blobs lie apart: what the honest clients send is enough to tell them
    assert record["rounds"][-1]["accuracy"] > 0.6


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("since", [1, 2])
def test_when_no_model_is_finite_the_training_ends_with_its_finished_rounds(
    monkeypatch, rounds_seen, rule, since
):
    monkeypatch.setattr(attack, "make", lambda *_, **__: Broken(since))
    states = []
    settings = small_data.settings(rule, attack="broken", rounds=3)
    record = run(settings, 6, after_round=states.append)
    cause = "every submitted model holds a NaN or an infinity"
    assert record["diverged"] == {"round": since, "cause": cause}
    assert [entry["round"] for entry in record["rounds"]] == list(range(1, since))
    assert len(rounds_seen) == len(states) == since
    # the global model stays
    assert torch.equal(states[-1].global_model, rounds_seen[-1][0].global_model)


def test_a_global_model_that_is_not_finite_ends_the_training(monkeypatch):
    def overflow(self, submitted, context):
        model = submitted[0].clone()
        model[3] = torch.inf if context.round_number == 2 else 0
        return aggregation.Aggregation(model, None, ())

    monkeypatch.setattr(aggregation.Aggregator, "__call__", overflow)
    record = run(small_data.settings(rounds=3))
    cause = "the global model holds a NaN or an infinity"
    assert record["diverged"] == {"round": 2, "cause": cause}
    assert [entry["round"] for entry in record["rounds"]] == [1]


def test_a_diverged_state_is_not_trained_on(monkeypatch):
    monkeypatch.setattr(attack, "make", lambda *_, **__: Broken(2))
    settings = small_data.settings(attack="broken", rounds=3)
    scenario = federation.Scenario(settings, 6, 1, BLOBS, SIX, CPU)
    diverged = federation.train(scenario, scenario.start())
    calls = []
    assert federation.train(scenario, diverged, calls.append) == diverged
    assert calls == []


# What a run leaves


def test_a_run_counts_its_rounds_and_its_seconds():
    states = []
    record = run(small_data.settings(rounds=3), after_round=states.append)
    assert [state.rounds[-1] for state in states] == record["rounds"]
    assert [len(state.rounds) for state in states] == [1, 2, 3]
    assert [entry["round"] for entry in record["rounds"]] == [1, 2, 3]
    assert record["diverged"] is None
    assert set(record["seconds"]) == {"training", "aggregation", "evaluation"}
    assert all(part > 0 for part in record["seconds"].values())
    for phase in record["seconds"]:
        spent = [state.seconds[phase] for state in states]
        assert spent == sorted(spent)
        assert spent[-1] == record["seconds"][phase]
