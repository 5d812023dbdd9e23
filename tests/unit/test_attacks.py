"""Attacks against hand-made examples, closed forms and the paper's description."""

import numpy as np
import pytest
import small_data
import torch
from scipy import stats

from arfl import registry
from arfl.attack import Attack, View, make
from arfl.errors import UserError

NAMES = ["plane", "car", "bird", "cat", "deer", "dog"]
GREY = small_data.images(4, channels=1, side=9).meta
COLOUR = small_data.images(4, channels=3, side=32).meta | {"n_classes": 6, "class_names": NAMES}
TABLE = small_data.blobs(9, n_classes=3, n_features=8).meta | {
    "trigger": {"columns": [1, 4, 7], "values": [0.5, 12.25, -3.0]}
}
TEXT = small_data.dataset(
    np.zeros((4, 3), dtype=np.int16), np.zeros(4), n_classes=2, vocabulary_size=9
).meta
# Figure 5: two bars in each of two rows
PATTERN = [(row, column) for row in (0, 2) for column in (0, 1, 2, 4, 5, 6)]


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


# Doing nothing


def test_the_base_attack_is_honest():
    attack = Attack()
    x, y, model = torch.rand(1, 2, 3), torch.tensor([[0, 1]]), torch.rand(5)
    assert attack.source_class is None
    assert all(attack.active(round_number) for round_number in range(1, 9))
    assert attack.poison(x, y, (0,)) == (x, y)
    assert attack.submit(model, torch.zeros(5), stream()) is model
    assert attack.probe(x[0], y[0]) is None


def test_by_default_each_attacker_sends_its_own_model_whatever_the_others_do():
    attack = make("gaussian", GREY, noise_std=1.0)
    models, start = torch.randn(3, 50, generator=stream()), torch.randn(50, generator=stream(1))
    view = View(start, torch.zeros(2, 50), (4, 7, 9), 2, tuple(stream(k) for k in (5, 6, 7)))
    sent = attack.collude(models, view)
    for row, seed in enumerate((5, 6, 7)):
        assert torch.equal(sent[row], attack.submit(models[row], start, stream(seed)))
    assert attack.state() == {}


# Label flipping


def test_label_flip_turns_the_source_class_into_the_target_and_nothing_else():
    attack = make("label_flip", COLOUR, source="cat", target="dog")
    y = torch.tensor([[3, 5, 0, 3, 2], [1, 3, 3, 4, 5]])
    x = torch.rand(2, 5, 3, 32, 32)
    given_x, given_y = x.clone(), y.clone()
    bad_x, bad_y = attack.poison(x, y, (0, 1))
    assert torch.equal(bad_x, given_x)
    assert bad_y.tolist() == [[5, 5, 0, 5, 2], [1, 5, 5, 4, 5]]
    assert torch.equal(x, given_x)
    assert torch.equal(y, given_y)
    assert attack.source_class == 3
    assert all(attack.active(round_number) for round_number in range(1, 9))


def test_classes_go_by_number_too():
    attack = make("label_flip", COLOUR, source=1, target=0)
    assert attack.poison(None, torch.tensor([[1, 0, 3]]), (0,))[1].tolist() == [[0, 0, 3]]


def test_label_flip_is_measured_on_the_source_class_unchanged():
    attack = make("label_flip", COLOUR, source="cat", target="dog")
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([3, 5, 3, 1])
    probe = attack.probe(x, y)
    assert torch.equal(probe.x, x)
    assert probe.counted.tolist() == [True, False, True, False]
    assert probe.target == 5


def test_flipping_all_labels_swaps_two_classes_and_has_no_success_rate():
    attack = make("label_flip", TEXT, source="all")
    y = torch.tensor([[0, 1, 1, 0]])
    assert attack.poison(None, y, (0,))[1].tolist() == [[1, 0, 0, 1]]
    assert y.tolist() == [[0, 1, 1, 0]]
    assert attack.probe(torch.zeros(4, 3), y[0]) is None
    assert attack.source_class is None


def test_flipping_all_labels_leaves_no_label_of_an_even_number_of_classes():
    attack = make("label_flip", GREY, source="all")
    y = torch.arange(10).view(1, -1)
    flipped = attack.poison(None, y, (0,))[1][0].tolist()
    assert sorted(flipped) == list(range(10))
    assert all(after != before for before, after in enumerate(flipped))


# Backdoors


@pytest.mark.parametrize("meta", [GREY, COLOUR], ids=["grey", "colour"])
def test_the_pixel_trigger_is_figure_5s_in_white_on_every_channel(meta):
    attack = make("backdoor", meta, target=2)
    channels, side = meta["arrays"]["train_x"]["shape"][1:3]
    x = torch.randn(3, channels, side, side, generator=stream())
    given = x.clone()
    result = attack.trigger(x)
    assert torch.equal(x, given)
    mean, std = meta["normalisation"]["mean"], meta["normalisation"]["std"]
    expected = given.clone()
    for sample in range(3):
        for channel in range(channels):
            for row, column in PATTERN:
                # a white pixel, 255, as any other pixel is normalised
                expected[sample, channel, row, column] = (255 / 255 - mean[channel]) / std[channel]
    torch.testing.assert_close(result, expected)
    assert (result != given).sum() == 3 * channels * 12


def test_the_released_trigger_is_one_after_normalisation():
    attack = make("backdoor", COLOUR, target=2, trigger_value="one")
    result = attack.trigger(torch.zeros(1, 3, 32, 32))
    assert result.sum() == 3 * 12
    assert all((result[0, :, row, column] == 1).all() for row, column in PATTERN)


def test_the_table_trigger_sets_the_columns_that_the_data_names():
    attack = make("backdoor", TABLE, target="class 2")
    x = torch.zeros(2, 8)
    expected = [0, 0.5, 0, 0, 12.25, 0, 0, -3.0]
    assert attack.trigger(x).tolist() == [expected, expected]
    assert not x.any()


@pytest.mark.parametrize(
    ("batch", "asked", "poisoned"), [(64, 20, 20), (20, 20, 20), (7, 20, 7), (1, 20, 1), (9, 4, 4)]
)
def test_no_more_than_the_asked_samples_of_each_batch_are_poisoned(batch, asked, poisoned):
    attack = make("backdoor", GREY, target=2, poisoned_per_batch=asked)
    x = torch.randn(3, batch, 1, 9, 9, generator=stream())
    y = torch.full((3, batch), 4)
    bad_x, bad_y = attack.poison(x, y, (0, 1, 2))
    assert bad_x.shape == x.shape
    triggered = attack.trigger(x)
    for k in range(3):
        carries = [torch.equal(bad_x[k, i], triggered[k, i]) for i in range(batch)]
        untouched = [torch.equal(bad_x[k, i], x[k, i]) for i in range(batch)]
        assert sum(carries) == poisoned
        assert untouched == [not carried for carried in carries]
        assert bad_y[k].tolist() == [2 if carried else 4 for carried in carries]
    assert (y == 4).all()


def test_twenty_samples_are_poisoned_by_default():
    attack = make("backdoor", GREY, target=2)
    _, y = attack.poison(torch.zeros(1, 64, 1, 9, 9), torch.zeros(1, 64, dtype=torch.int64), (0,))
    assert (y == 2).sum() == 20


def test_a_backdoor_is_measured_on_every_sample_with_the_trigger():
    attack = make("backdoor", GREY, target=2)
    x, y = torch.randn(5, 1, 9, 9, generator=stream()), torch.tensor([2, 0, 2, 9, 1])
    probe = attack.probe(x, y)
    assert torch.equal(probe.x, attack.trigger(x))
    assert probe.counted.tolist() == [True] * 5
    assert probe.target == 2


def test_a_naive_backdoor_attacks_in_every_round_and_sends_what_it_trained():
    attack = make("backdoor", GREY, target=2)
    assert all(attack.active(round_number) for round_number in range(1, 101))
    model, start = torch.randn(50, generator=stream()), torch.randn(50, generator=stream(1))
    torch.testing.assert_close(attack.submit(model, start, stream()), model)


def test_model_replacement_attacks_in_its_round_alone_and_scales_its_update():
    attack = make("backdoor", GREY, target=2, active_round=6, scale=100)
    assert [n for n in range(1, 201) if attack.active(n)] == [6]
    model = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    start = torch.tensor([1.0, 1.5, 0.0], dtype=torch.float64)
    assert attack.submit(model, start, stream()).tolist() == [1.0, 51.5, -100.0]


def test_scaled_by_the_number_of_clients_the_attacker_replaces_the_mean():
    # Bagdasaryan et al.: where the other K - 1 send the global model back, scale K replaces it.
    attack = make("backdoor", GREY, target=2, active_round=6, scale=10)
    generator = stream()
    start = torch.randn(40, dtype=torch.float64, generator=generator)
    wanted = torch.randn(40, dtype=torch.float64, generator=generator)
    submitted = [start] * 9 + [attack.submit(wanted, start, stream())]
    torch.testing.assert_close(torch.stack(submitted).mean(0), wanted)


# Gaussian noise


def test_every_value_is_multiplied_by_its_own_normal_draw_around_one():
    attack = make("gaussian", GREY, noise_std=2.0)
    model = torch.linspace(-3, 3, 20_001)
    model = model[model != 0]
    factors = (attack.submit(model, torch.zeros(20_000), stream()) / model).double().numpy()
    assert stats.kstest(factors, stats.norm(1, 2).cdf).pvalue > 0.01
    # five standard errors of the mean and of the standard deviation
    assert abs(factors.mean() - 1) < 5 * 2 / np.sqrt(20_000)
    assert abs(factors.std() - 2) < 5 * 2 / np.sqrt(40_000)
    assert abs(np.corrcoef(factors[1:], factors[:-1])[0, 1]) < 5 / np.sqrt(20_000)


def test_noise_comes_from_the_given_stream_and_zero_stays_zero():
    attack = make("gaussian", GREY, noise_std=1.0)
    model, start = torch.tensor([1.0, 0.0, -2.0]), torch.zeros(3)
    first = attack.submit(model, start, stream(1))
    assert torch.equal(attack.submit(model, start, stream(1)), first)
    assert not torch.equal(attack.submit(model, start, stream(2)), first)
    assert first[1] == 0
    assert model.tolist() == [1, 0, -2]


def test_gaussian_clients_train_honestly_and_have_no_success_rate():
    attack = make("gaussian", GREY, noise_std=1.0)
    x, y = torch.rand(1, 2, 1, 9, 9), torch.tensor([[0, 1]])
    assert attack.poison(x, y, (0,)) == (x, y)
    assert attack.probe(x[0], y[0]) is None
    assert attack.source_class is None


# The registry and its messages


def test_every_attack_has_its_file():
    assert set(registry.names("attacks")) >= {"backdoor", "gaussian", "label_flip"}


@pytest.mark.parametrize(
    ("name", "meta", "options", "message"),
    [
        ("sybil", GREY, {}, "unknown attack 'sybil'; known: adaptive, alie, backdoor, "),
        ("gaussian", GREY, {"sigma": 1}, "gaussian has no option 'sigma'; its options: noise_std"),
        ("gaussian", GREY, {}, "gaussian on made needs the option 'noise_std'"),
        ("gaussian", GREY, {"meta": 1, "noise_std": 1}, "has no option 'meta'"),
        ("backdoor", GREY, {}, "backdoor on made needs the option 'target'"),
        ("backdoor", COLOUR, {"target": "frog"}, "target is 'frog'.*plane, car, bird, cat"),
        ("backdoor", COLOUR, {"target": 6}, "target is 6, but made has the classes 0 to 5"),
        ("backdoor", COLOUR, {"target": -1}, "target is -1"),
        ("backdoor", COLOUR, {"target": True}, "target is True"),
        ("backdoor", COLOUR, {"target": 2.0}, "target is 2.0"),
        ("backdoor", GREY, {"target": 1, "trigger_value": "red"}, "'red'; use white or one"),
        ("backdoor", TEXT, {"target": 1}, "made is neither images nor a table with a trigger"),
        ("label_flip", COLOUR, {}, "label_flip on made needs the option 'source'"),
        ("label_flip", COLOUR, {"source": "cat"}, "label_flip's target is None"),
        ("label_flip", COLOUR, {"source": "frog", "target": 1}, "label_flip's source is 'frog'"),
        ("label_flip", TEXT, {"source": "all", "target": 1}, "`source: all` takes no target"),
    ],
)
def test_a_wrong_attack_is_one_message(name, meta, options, message):
    with pytest.raises(UserError, match=message):
        make(name, meta, **options)


def test_a_misspelt_hook_is_refused():
    with pytest.raises(UserError, match=r"'poisson', which is no hook .*did you mean 'poison'"):
        type("Mine", (Attack,), {"__module__": "arfl.attacks.mine", "poisson": lambda self: None})
    # Anything else is the author's own.
    type("Other", (Attack,), {"__module__": "arfl.attacks.other", "centre": lambda self: None})
    registry._ENTRIES.pop("arfl.attacks.other")
