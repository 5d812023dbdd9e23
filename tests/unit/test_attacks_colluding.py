"""Colluding attacks against byzfl's vectors, the papers' searches and the rule they attack."""

import byzfl_library
import numpy as np
import pytest
import small_data
import torch
from scipy import stats

from arfl.aggregators import residual_reweighting
from arfl.attack import View, make
from arfl.attacks.adaptive import reach
from arfl.attacks.alie import largest_z
from arfl.attacks.min_max import farthest
from arfl.errors import UserError

META = small_data.images(4, channels=1, side=9).meta
COLLUDING = ("adaptive", "alie", "ipm", "mimic", "min_max")


def scene(n_honest=7, n_attackers=3, n_parameters=40, seed=0):
    """What the attackers trained, and what they see."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(n_parameters, generator=draw)
    honest = start + 0.3 + torch.randn(n_honest, n_parameters, generator=draw)
    trained = start + torch.randn(n_attackers, n_parameters, generator=draw)
    streams = tuple(torch.Generator().manual_seed(k) for k in range(n_attackers))
    return trained, View(start, honest, tuple(range(n_attackers)), 1, streams)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "options", "theirs", "their_options"),
    [
        ("alie", {"z": 1.5}, "ALittleIsEnough", {"tau": 1.5}),
        ("ipm", {"tau": 0.5}, "InnerProductManipulation", {"tau": 0.5}),
        ("mimic", {"client": 2}, "Mimic", {"epsilon": 2}),
    ],
)
def test_attackers_send_byzfls_vector(name, options, theirs, their_options, seed):
    trained, view = scene(seed=seed)
    vector = getattr(byzfl_library.part("attacks"), theirs)(**their_options)
    expected = view.global_model + vector(view.honest_models - view.global_model)
    sent = make(name, META, **options).collude(trained, view)
    for row in sent:
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", COLLUDING)
def test_models_that_are_not_finite_are_no_part_of_the_crowd(name):
    trained, view = scene()
    honest = torch.cat([view.honest_models[:1] * float("nan"), view.honest_models])
    broken = View(view.global_model, honest, view.attackers, 1, view.generators)
    sent = make(name, META).collude(trained, broken)
    assert sent.shape == trained.shape
    assert sent.isfinite().all()
    alone = View(view.global_model, honest[:1], view.attackers, 1, view.generators)
    assert torch.equal(make(name, META).collude(trained, alone), trained)
    none = View(view.global_model, honest[:0], view.attackers, 1, view.generators)
    assert torch.equal(make(name, META).collude(trained, none), trained)


@pytest.mark.parametrize("name", COLLUDING)
def test_a_single_honest_model_is_enough_to_collude(name):
    trained, view = scene(n_honest=1)
    assert make(name, META).collude(trained, view).isfinite().all()


@pytest.mark.parametrize(("n_clients", "n_attackers"), [(50, 12), (100, 20), (10, 4), (100, 10)])
def test_alies_z_leaves_the_needed_supporters_further_out(n_clients, n_attackers):
    needed = n_clients // 2 + 1 - n_attackers
    further = 1 - stats.norm.cdf(largest_z(n_clients, n_attackers))
    assert further * (n_clients - n_attackers) == pytest.approx(needed)


def test_alies_z_of_a_majority_of_attackers_is_finite():
    assert 0 < largest_z(10, 7) < 2


@pytest.mark.parametrize("direction", ["deviation", "update", "sign"])
def test_min_max_is_the_papers_search(direction):
    trained, view = scene(n_honest=9)
    sent = make("min_max", META, direction=direction).collude(trained, view)[0].double()
    honest = view.honest_models.double()
    mean = honest.mean(0)
    widest = torch.cdist(honest, honest).max()
    update = mean - view.global_model.double()
    p = {
        "deviation": -honest.std(0),
        "update": -update / update.norm(),
        "sign": -update.sign(),
    }[direction]
    # The bisection of the paper's code.
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        inside = (honest - (mean + middle * p)).norm(dim=1).max() <= widest
        low, high = (middle, high) if inside else (low, middle)
    torch.testing.assert_close(sent, mean + low * p, rtol=1e-4, atol=1e-4)


def test_min_max_goes_nowhere_where_all_are_alike():
    crowd = torch.ones(4, 6)
    assert farthest(crowd, crowd[0], torch.zeros(6)) == 0
    assert farthest(crowd, crowd[0], torch.ones(6)) == 0


@pytest.mark.parametrize(("n_clients", "n_attackers"), [(10, 1), (10, 4), (100, 10)])
@pytest.mark.parametrize("delta", [0.01, 0.1])
def test_the_rule_weighs_adaptive_attackers_like_others_and_they_move_it_further_than_outliers(
    n_clients, n_attackers, delta
):
    trained, view = scene(n_clients - n_attackers, n_attackers, 60)
    sent = make("adaptive", META, delta=delta).collude(trained, view)
    honest = view.honest_models
    moved, weights = residual_reweighting(torch.cat([honest, sent]), delta=delta)
    assert weights[-n_attackers:].mean() > weights[:-n_attackers].mean() / 2
    without, _ = residual_reweighting(honest, delta=delta)
    far = torch.cat([honest, torch.full_like(sent, 1e6)])
    discarded, _ = residual_reweighting(far, delta=delta)
    assert (moved - without).norm() > 2 * (discarded - without).norm()


def test_the_reach_is_the_theory_studys_edge():
    from arfl.studies import theory

    honest = np.random.default_rng(0).gamma(30, 1 / 30, (5, 9))
    edge = theory._attack_value(honest, 10, 2.0, 0.1, "edge")[:, 0]
    centre, bound = reach(torch.from_numpy(honest.T), 10, 2.0, 0.1)
    np.testing.assert_allclose(centre + 0.99 * bound, edge, rtol=1e-12)


# The distributed backdoor


def test_each_attacker_of_dba_trains_on_its_bar_and_all_are_measured_with_the_whole_trigger():
    attack = make("dba", META, target=2, poisoned_per_batch=1)
    whole = make("backdoor", META, target=2, poisoned_per_batch=1)
    x, y = torch.zeros(5, 3, 1, 9, 9), torch.full((5, 3), 7)
    poisoned, labels = attack.poison(x, y, (0, 1, 2, 3, 4))
    bars = [
        [(0, 0), (0, 1), (0, 2)],
        [(0, 4), (0, 5), (0, 6)],
        [(2, 0), (2, 1), (2, 2)],
        [(2, 4), (2, 5), (2, 6)],
    ]
    for attacker, bar in enumerate([*bars, bars[0]]):
        changed = (poisoned[attacker, 0, 0] != 0).nonzero().tolist()
        assert [tuple(place) for place in changed] == bar
    assert torch.equal(poisoned[:4, 0].sum(0), whole.trigger(x[0, 0]))
    assert labels.tolist() == [[2, 7, 7]] * 5
    assert (poisoned[:, 1:] == 0).all()
    assert torch.equal(attack.probe(x[0], y[0]).x, whole.probe(x[0], y[0]).x)


def test_dba_cuts_the_columns_of_a_table():
    meta = small_data.blobs(9, n_classes=3, n_features=8).meta
    meta = meta | {"trigger": {"columns": [1, 4, 7], "values": [0.5, 12.25, -3.0]}}
    attack = make("dba", meta, target=1, parts=3)
    poisoned, _ = attack.poison(torch.zeros(1, 2, 8), torch.zeros(1, 2, dtype=torch.int64), (4,))
    assert poisoned[0, 0].tolist() == [0, 0, 0, 0, 12.25, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dba", {"target": 1, "parts": 13}, "parts must be from 1 to 12"),
        ("mimic", {"client": -1}, "client is a place from 0"),
        ("min_max", {"direction": "up"}, "direction must be one of deviation, update, sign"),
    ],
)
def test_a_wrong_option_is_one_message(name, options, message):
    with pytest.raises(UserError, match=message):
        make(name, META, **options)
