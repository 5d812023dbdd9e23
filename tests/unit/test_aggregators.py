"""Every rule against an independent oracle, and the properties that the rules promise."""

import numpy as np
import pytest
import references
import torch
from scipy import stats

from arfl import aggregation, registry
from arfl.aggregators import (
    fedavg,
    foolsgold,
    median,
    repeated_median,
    residual_reweighting,
    trimmed_mean,
)
from arfl.errors import UserError


def matrix(n_clients, n_parameters, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_clients, n_parameters, dtype=dtype, generator=generator)


def context(models):
    return aggregation.Context(
        global_model=torch.zeros(models.shape[1], dtype=models.dtype),
        client_ids=tuple(range(len(models))),
        sample_counts=tuple(range(1, len(models) + 1)),
        output_layer=slice(0, models.shape[1]),
        buffers=(),
    )


@pytest.mark.parametrize("n_clients", [1, 2, 3, 4, 7, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mean_median_and_trimmed_mean_against_numpy_and_scipy(n_clients, dtype):
    models = matrix(n_clients, 501, dtype)
    values = models.double().numpy()
    rtol = 1e-6 if dtype == torch.float32 else 1e-13
    np.testing.assert_allclose(fedavg(models)[0], values.mean(0), rtol=rtol, atol=1e-7)
    np.testing.assert_allclose(median(models)[0], np.median(values, 0), rtol=rtol)
    expected = stats.trim_mean(values, 0.2, axis=0)
    np.testing.assert_allclose(trimmed_mean(models)[0], expected, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("n_clients", [2, 3, 6, 11])
def test_repeated_median_against_scipy(n_clients):
    models = matrix(n_clients, 40)
    ranks = np.arange(1, n_clients + 1)
    expected = []
    for column in models.T.numpy():
        slope, intercept = stats.siegelslopes(np.sort(column), ranks, method="separate")
        expected.append(intercept + slope * (n_clients + 1) / 2)
    np.testing.assert_allclose(repeated_median(models)[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("n_clients", [2, 3, 5, 10])
def test_residual_reweighting_against_the_exact_reference(variant, n_clients):
    models = matrix(n_clients, 30)
    models[0] += 3
    model, weights = residual_reweighting(models, variant=variant)
    expected_model, expected_weights, _ = references.residual_reweighting(models.numpy(), variant)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-10)
    np.testing.assert_allclose(model, expected_model, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", registry.names("aggregators"))
def test_rules_leave_out_rows_that_are_not_finite_and_name_them(name):
    models = matrix(6, 50)
    good = [0, 2, 3, 5]
    broken = models.clone()
    broken[1, 7] = float("nan")
    broken[4, 0] = -float("inf")
    whole = context(models)
    expected = aggregation.make(name)(
        models[good],
        aggregation.Context(
            whole.global_model, (0, 2, 3, 5), (1, 3, 4, 6), whole.output_layer, whole.buffers
        ),
    )
    result = aggregation.make(name)(broken, whole)
    assert result.excluded == (1, 4)
    assert torch.equal(result.model, expected.model)
    if expected.weights is None:
        assert result.weights is None
    else:
        assert result.weights[[1, 4]].eq(0).all()
        assert torch.equal(result.weights[good], expected.weights)


def test_finite_rows_whose_sum_overflows_are_kept():
    models = torch.full((3, 50), 3e38)
    models[1] = -3e38
    model, weights = fedavg(models)
    np.testing.assert_allclose(model, 1e38, rtol=1e-6)
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)
    models[2, 4] = float("inf")
    assert aggregation.make("fedavg")(models, context(models)).excluded == (2,)


@pytest.mark.parametrize("name", registry.names("aggregators"))
def test_no_finite_row_leaves_the_global_model(name):
    models = torch.full((3, 4), float("nan"))
    where = context(models)
    result = aggregation.make(name)(models, where)
    assert torch.equal(result.model, where.global_model)
    assert result.excluded == (0, 1, 2)
    plain = registry.get("aggregators", name)
    arguments = (models, where.global_model) if name in ("flame", "foolsgold") else (models,)
    with pytest.raises(UserError, match="none of the 3"):
        plain(*arguments)


def test_make_names_what_is_wrong():
    with pytest.raises(UserError, match=r"krum.*fedavg, flame, foolsgold, median"):
        aggregation.make("krum")
    with pytest.raises(UserError, match=r"no option 'gamma'.*delta, lam, variant"):
        aggregation.make("residual_reweighting", gamma=1)
    with pytest.raises(UserError, match="median has no option 'share'"):
        aggregation.make("median", share=0.1)
    for name, options in [
        ("residual_reweighting", {"delta": 1.0}),
        ("residual_reweighting", {"lam": 0}),
        ("residual_reweighting", {"variant": "new"}),
        ("residual_reweighting", {"lam": "two"}),
        ("repeated_median", {"variant": "new"}),
        ("trimmed_mean", {"share": 0.5}),
        ("foolsgold", {"buffers": "melted"}),
        ("foolsgold", {"update": "losses"}),
    ]:
        with pytest.raises(UserError, match=name):
            aggregation.make(name, **options)


def test_plain_functions_refuse_what_is_no_matrix():
    with pytest.raises(ValueError, match="matrix"):
        median(torch.zeros(3))
    with pytest.raises(ValueError, match="float32 or float64"):
        median(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="2 entries for 3 models"):
        fedavg(torch.zeros(3, 3), sample_counts=[1, 2])


def test_fedavg_weighs_by_sample_count_only_when_asked():
    models = matrix(3, 10)
    counts = np.array([1, 2, 3])
    where = context(models)
    weighted = aggregation.make("fedavg", weighted=True)(models, where)
    np.testing.assert_allclose(weighted.weights, counts / 6)
    np.testing.assert_allclose(
        weighted.model, np.average(models.numpy(), axis=0, weights=counts), atol=1e-15
    )
    assert torch.equal(aggregation.make("fedavg")(models, where).model, fedavg(models)[0])


def test_foolsgold_without_memory_against_the_reference():
    models = matrix(6, 30)
    models[4] = models[5] + 0.1 * matrix(1, 30, seed=1)
    start = matrix(1, 30, seed=2)[0]
    features = slice(5, 25)
    rates = references.foolsgold_rates((models - start)[:, features].numpy())
    model, weights = foolsgold(models, start, output_layer=features)
    np.testing.assert_allclose(weights, rates / rates.sum(), rtol=1e-9)
    expected = start.numpy() + (rates[:, None] * (models - start).numpy()).mean(0)
    np.testing.assert_allclose(model, expected, rtol=1e-9, atol=1e-12)
