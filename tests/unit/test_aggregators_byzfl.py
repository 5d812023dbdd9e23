"""Rules of byzfl by name: agreement with ours, and what their names may be."""

import byzfl_library
import pytest
import torch

from arfl import aggregation, aggregators, fingerprint, libraries, registry
from arfl.aggregation import Context, make
from arfl.errors import UserError

EVERY = (
    "Average", "Median", "TrMean", "GeometricMedian", "Krum", "MultiKrum", "CenteredClipping",
    "MDA", "MoNNA", "Meamed", "CAF", "SMEA", "NNM+TrMean", "Bucketing+Krum", "Clipping+Average",
    "ARC+Median",
)  # fmt: skip


def scene(n_attackers=2, n_clients=10, seed=0):
    draw = torch.Generator().manual_seed(seed)
    models = torch.randn(n_clients, 60, generator=draw)
    start = torch.randn(60, generator=draw)
    ids = tuple(range(n_clients))
    return models, Context(start, ids, (1,) * n_clients, slice(0, 5), (), n_attackers)


@pytest.fixture
def byzfl():
    return byzfl_library.part("aggregators")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_clients", [5, 10, 21])
def test_rules_that_both_have_agree_to_rounding(byzfl, seed, n_clients):
    models, context = scene(n_clients // 5, n_clients, seed)
    for theirs, ours in (
        ("Average", aggregators.fedavg(models)),
        ("Median", aggregators.median(models)),
        ("TrMean", aggregators.trimmed_mean(models, share=0.2)),
    ):
        made = make(f"byzfl/{theirs}")(models.clone(), context)
        torch.testing.assert_close(made.model, ours[0], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", EVERY)
def test_a_name_is_byzfls_own_result_on_updates_and_the_same_each_time(byzfl, name):
    models, context = scene()
    first = make(f"byzfl/{name}")(models, context)
    assert torch.equal(first.model, make(f"byzfl/{name}")(models, context).model)
    assert first.weights is None
    if name in ("MultiKrum", "NNM+TrMean", "GeometricMedian"):
        vectors = models - context.global_model
        for part in name.split("+"):
            options = {} if part == "GeometricMedian" else {"f": 2}
            vectors = getattr(byzfl, part)(**options)(vectors)
        assert torch.equal(first.model, context.global_model + vectors)


def test_f_is_the_true_number_of_attackers_unless_it_is_given(byzfl):
    models, context = scene(n_attackers=3)
    told = make("byzfl/TrMean", f=3)(models, context).model
    assert torch.equal(make("byzfl/TrMean")(models, context).model, told)
    assert not torch.equal(make("byzfl/TrMean", f=1)(models, context).model, told)


def test_centered_clipping_goes_on_from_its_state(byzfl):
    models, context = scene()
    rule = make("byzfl/CenteredClipping", tau=1)
    rule(models, context)
    state = rule.state()
    second = rule(models, context).model
    other = make("byzfl/CenteredClipping", tau=1)
    other.restore(state)
    assert torch.equal(other(models, context).model, second)
    assert not torch.equal(make("byzfl/CenteredClipping", tau=1)(models, context).model, second)


def test_rows_that_are_not_finite_are_left_out(byzfl):
    models, context = scene(n_attackers=1)
    models[4, 3] = float("nan")
    made = make("byzfl/Median")(models, context)
    assert made.excluded == (4,)
    assert made.model.isfinite().all()


def test_mistakes_are_one_message(byzfl):
    models, context = scene()
    for name, options, message in (
        ("byzfl/Krumm", {}, "has no aggregator 'Krumm'; it has ARC, Average"),
        ("byzfl/Krum", {"g": 1}, "no option 'g'; its options: f"),
        ("byzfl/Krum", {"f": 5}, "byzfl/Krum: Cannot tolerate"),
        ("byzfl/NNM", {}, "the last class must be an aggregator"),
    ):
        with pytest.raises(UserError, match=message):
            make(name, **options)(models, context)


@pytest.mark.parametrize("name", ["other/Krum", "byzfl/", "byzfl/Krum+", "byzfl/a b"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(UserError, match="does not read library/Class"):
        registry.get("aggregators", name)


def test_without_byzfl_the_name_is_known_and_training_says_what_lacks(monkeypatch):
    monkeypatch.setattr(libraries, "folder_of", lambda library: None)
    libraries.classes.cache_clear()
    libraries.check("aggregators", "byzfl/MultiKrum")
    with pytest.raises(UserError, match="byzfl is not installed: pip install byzfl"):
        libraries.classes("byzfl")
    libraries.classes.cache_clear()


def test_the_fingerprint_names_the_classes_and_the_version(monkeypatch):
    def code(name):
        return fingerprint.of_cell("cnn", None, name, "cpu")

    krum = code("byzfl/Krum")
    assert len({krum, code("byzfl/MultiKrum"), code("median")}) == 3
    monkeypatch.setattr(libraries, "version", lambda library: "99")
    assert code("byzfl/Krum") != krum


def test_no_name_of_ours_has_a_slash():
    assert not any("/" in name for name in registry.names("aggregators"))
    assert aggregation.make("median")
