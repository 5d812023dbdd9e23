"""Edges, invariances and bounds of the rules, in both implementations of the numeric steps."""

import importlib
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import references
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arfl import aggregation, registry
from arfl.aggregators import (
    _line,
    fedavg,
    median,
    repeated_median,
    residual_reweighting,
    trimmed_mean,
)
from arfl.aggregators import _steps as _dense
from arfl.kernels import aggregation_cpu as _compiled
from arfl.kernels import backend as _backend
from arfl.kernels import sorting_networks as _networks

VARIANTS = ["paper", "released"]


@pytest.fixture(autouse=True)
def small_matrices_too(monkeypatch):
    monkeypatch.setattr(_backend, "SMALL", 0)


def interpreted_gpu_module(monkeypatch):
    """The GPU's kernels, run on CPU tensors by Triton's interpreter."""
    # Triton looks at it when it is imported, and again when a kernel is made.
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton", reason="PyTorch brings Triton on Linux only")
    module = importlib.import_module("arfl.kernels.aggregation_gpu")
    # The interpreter takes minutes for a sort of tiles: they have a slow test of their own.
    monkeypatch.setattr(module, "TILED", range(0))
    return module


@pytest.fixture(params=["compiled", "gpu", "dense"])
def implementation(request, monkeypatch):
    if request.param == "dense":
        monkeypatch.setattr(_backend, "_compiled_module", lambda: None)
    if request.param == "gpu":
        gpu = interpreted_gpu_module(monkeypatch)
        monkeypatch.setattr(_backend, "_compiled_module", lambda: gpu)
    return request.param


def normal(n_clients, n_parameters, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_clients, n_parameters, dtype=dtype, generator=generator)


def one_outlier(n_clients):
    models = normal(n_clients, 4)
    models[-1] = 1e6
    return models


def just_under_half_corrupted(n_clients):
    models = normal(n_clients, 4)
    models[: (n_clients - 1) // 2] = 50 + normal((n_clients - 1) // 2, 4, seed=1)
    return models


def many_magnitudes(n_clients):
    exponents = torch.linspace(-30, 30, n_clients * 4, dtype=torch.float64)
    shuffled = exponents[torch.randperm(len(exponents), generator=torch.Generator().manual_seed(3))]
    return (10**shuffled).reshape(n_clients, 4) * normal(n_clients, 4).sign()


def subnormal_spread(n_clients):
    return normal(n_clients, 4) * 1e-312


def ties(n_clients):
    return normal(n_clients, 4).round()


def mostly_equal(n_clients):
    models = torch.zeros(n_clients, 4, dtype=torch.float64) + 0.3
    models[0] = torch.tensor([0.3, 0.4, -7.0, 1e20])
    return models


def on_a_line(n_clients):
    steps = torch.arange(n_clients, dtype=torch.float64)[:, None]
    return steps * torch.tensor([0.1, 1e-3, 7.7, 1e25]) + torch.tensor([0.7, 3.3, 0.0, -1e24])


CASES = [
    one_outlier, just_under_half_corrupted, many_magnitudes, subnormal_spread, ties, mostly_equal,
    on_a_line,
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("n_clients", [2, 3, 6, 10])
def test_hard_values_against_the_exact_reference(implementation, n_clients, case, variant):
    models = case(n_clients)
    model, weights = residual_reweighting(models, variant=variant)
    expected_model, expected_weights, size = references.residual_reweighting(
        models.numpy(), variant
    )
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-7)
    assert (np.abs(model.numpy() - expected_model) <= 1e-7 * size + 1e-320).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_hundred_clients_against_the_exact_reference(implementation, variant):
    models = normal(100, 3)
    models[:10] += 5
    model, weights = residual_reweighting(models, variant=variant, delta=0.01)
    expected_model, expected_weights, _ = references.residual_reweighting(
        models.numpy(), variant, delta=0.01
    )
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-10)
    np.testing.assert_allclose(model, expected_model, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("n_clients", [2, 3, 10, 100])
def test_repeated_median_of_hard_values_against_the_exact_reference(
    implementation, n_clients, case
):
    models = case(n_clients)
    expected = references.repeated_median(models.numpy())
    for n, centre in enumerate(repeated_median(models)[0].tolist()):
        slope, intercept, _ = references.line(sorted(map(Fraction, models[:, n].tolist())), "paper")
        # Rounding is relative to the two terms whose sum the centre is.
        terms = float(abs(intercept) + n_clients * slope)
        assert abs(centre - expected[n]) <= 1e-14 * terms + 1e-320


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n_clients", [2, 7, 10, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_kernels_and_dense_steps_agree(monkeypatch, device, n_clients, variant, dtype):
    kernels = _compiled if device == "cpu" else interpreted_gpu_module(monkeypatch)
    models = normal(n_clients, 333, dtype=dtype)
    models[:, 100:150] = models[:, 100:150].round()
    rtol = 1e-6 if dtype == torch.float32 else 1e-10
    for step, options in [
        ("weighted_sum", (torch.rand(n_clients, generator=torch.Generator().manual_seed(1)),)),
        ("trimmed_mean", ((n_clients - 1) // 3,)),
        ("repeated_median", ()),
    ]:
        fast, slow = (
            getattr(kernels, step)(models, *options),
            getattr(_dense, step)(models, *options),
        )
        torch.testing.assert_close(fast, slow, rtol=rtol, atol=rtol)
    fast, sums = kernels.reweight(models, variant, 2.0, 0.1)
    slow, expected = _dense.reweight(models, variant, 2.0, 0.1)
    torch.testing.assert_close(fast, slow, rtol=rtol, atol=rtol)
    torch.testing.assert_close(sums, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("column", [0, 40_000, 69_999])
def test_a_single_bad_value_leaves_its_row_out(implementation, dtype, bad, column):
    models = normal(3, 70_000, dtype=dtype)
    # finite, though its sum is not
    models[0] = torch.finfo(dtype).max
    models[1, column] = bad
    assert aggregation.finite_rows(models).kept == (0, 2)
    models = models[1:]
    model, weights = fedavg(models, sample_counts=[5, 2])
    torch.testing.assert_close(model, models[1], rtol=1e-7, atol=0)
    assert weights.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_identical_clients_get_uniform_weights_and_their_own_model(implementation, variant):
    models = normal(1, 70).repeat(10, 1)
    model, weights = residual_reweighting(models, variant=variant)
    torch.testing.assert_close(model, models[0], rtol=1e-15, atol=0)
    assert torch.equal(weights, torch.full((10,), 0.1, dtype=torch.float64))


@pytest.mark.parametrize("name", ["fedavg", "median", "trimmed_mean", "repeated_median"])
def test_a_single_client_is_its_own_aggregate(implementation, name):
    models = normal(1, 70)
    assert torch.equal(registry.get("aggregators", name)(models)[0], models[0])
    model, weights = residual_reweighting(models)
    assert torch.equal(model, models[0])
    assert weights.tolist() == [1.0]


matrices = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(st.integers(3, 12), st.integers(1, 5)).map(
        lambda shape: np.random.default_rng(seed).standard_t(1.5, shape)
    )
)
RULES = [
    fedavg,
    median,
    trimmed_mean,
    repeated_median,
    residual_reweighting,
    lambda models: residual_reweighting(models, variant="released"),
]


@settings(max_examples=40, deadline=None)
@given(matrices, st.randoms(use_true_random=False))
def test_permuting_clients_permutes_weights_and_leaves_the_model(values, random):
    models = torch.from_numpy(values)
    order = random.sample(range(len(models)), len(models))
    for rule in RULES:
        model, weights = rule(models)
        permuted, permuted_weights = rule(models[order])
        torch.testing.assert_close(permuted, model, rtol=1e-10, atol=1e-12)
        if weights is not None:
            torch.testing.assert_close(permuted_weights, weights[order], rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(matrices, st.floats(-100, 100), st.floats(0.01, 100))
def test_rules_are_shift_and_scale_equivariant(values, shift, scale):
    models = torch.from_numpy(values)
    # The released tau has an absolute term, 1e-7, and so no exact scale equivariance.
    for rule in RULES[:-1]:
        model, weights = rule(models)
        moved, moved_weights = rule(models * scale + shift)
        tolerance = 1e-9 * (1 + abs(shift) + scale * models.abs().max().item())
        torch.testing.assert_close(moved, model * scale + shift, rtol=0, atol=tolerance)
        if weights is not None:
            torch.testing.assert_close(moved_weights, weights, rtol=1e-6, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    matrices,
    st.sampled_from([1e2, 1e5, 1e12, 1e30]),
    st.booleans(),
    st.sampled_from([0.01, 0.1, 0.5]),
)
def test_a_corrupted_minority_moves_the_model_no_further_than_delta_allows(
    values, size, one_sided, delta
):
    n_clients, n_parameters = values.shape
    corrupted = (n_clients - 1) // 2
    values[:corrupted] = size * (1 if one_sided else np.sign(values[:corrupted]))
    models = torch.from_numpy(values)
    model, _ = residual_reweighting(models, delta=delta)
    honest = values[corrupted:]
    constants = _line.scheme("paper", n_clients, 2.0)
    for n in range(n_parameters):
        ordered = np.sort(values[:, n])
        slope, intercept = _dense.line(torch.from_numpy(ordered)[:, None], constants)
        fitted = intercept.item() + slope.item() * np.array(constants.ranks)
        # A value that counts has confidence above delta: |r| < Z sqrt(1-h) tau / delta. All others
        # are replaced by the line.
        scale = constants.scale_factor * np.median(np.abs(ordered - fitted))
        reach = constants.clip * max(constants.leverage_root) * scale / delta
        low = min(honest[:, n].min(), fitted.min()) - reach
        high = max(honest[:, n].max(), fitted.max()) + reach
        slack = 1e-9 * (abs(low) + abs(high))
        assert low - slack <= model[n].item() <= high + slack


@pytest.mark.parametrize("variant", VARIANTS)
def test_ninety_honest_clients_hold_the_model_within_their_range(implementation, variant):
    models = normal(100, 20, seed=5)
    models[:10] = 1e9
    model, weights = residual_reweighting(models, variant=variant)
    honest = models[10:]
    assert (model >= honest.amin(0)).all()
    assert (model <= honest.amax(0)).all()
    assert weights[:10].max() < weights[10:].min()


def test_results_do_not_depend_on_threads_or_chunks(monkeypatch):
    models = normal(10, 5000, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(residual_reweighting(models))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for model, weights in results[1:]:
        assert torch.equal(model, results[0][0])
        assert torch.equal(weights, results[0][1])
    monkeypatch.setattr(_compiled, "_chunk_width", lambda n_clients: 128)
    torch.testing.assert_close(residual_reweighting(models)[1], results[0][1], rtol=1e-6, atol=0)
    dense = _dense.reweight(models, "paper", 2.0, 0.1)[1]
    monkeypatch.setitem(_dense._CHUNK_BYTES, "cpu", 2**16)
    torch.testing.assert_close(
        _dense.reweight(models, "paper", 2.0, 0.1)[1], dense, rtol=1e-12, atol=0
    )


def test_networks_bring_the_wanted_ranks_in_place():
    rng = np.random.default_rng(0)
    for n in [1, 2, 3, 5, 9, 10, 31, 64, 99]:
        for wanted in [tuple(range(n)), ((n - 1) // 2,), (0, n - 1)]:
            rows = rng.integers(0, n, (n, 200))
            ordered = np.sort(rows, axis=0)
            for first, second, outcome in _networks.network(n, tuple(sorted(set(wanted)))):
                low, high = (
                    np.minimum(rows[first], rows[second]),
                    np.maximum(rows[first], rows[second]),
                )
                if outcome != 2:
                    rows[first] = low
                if outcome != 1:
                    rows[second] = high
            assert (rows[list(wanted)] == ordered[list(wanted)]).all()


def test_inputs_are_left_alone_and_need_not_be_contiguous():
    models = normal(120, 10).T
    before = models.clone()
    for rule in RULES:
        torch.testing.assert_close(rule(models)[0], rule(models.contiguous())[0])
    assert torch.equal(models, before)


def test_importing_the_rules_is_light():
    code = (
        "import sys, arfl.aggregators\n"
        "heavy = {'numba', 'triton', 'pandas', 'torchvision', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("breakage", "reason"),
    [
        ("sys.modules['numba'] = None", "numba cannot be imported"),
        # What numba does where it may write neither beside the package nor in the user's home.
        ("import numba.core.caching as c; c.CacheImpl._locator_classes = []", "NUMBA_CACHE_DIR"),
    ],
)
def test_without_kernels_the_rules_run_in_plain_torch_and_say_why(breakage, reason):
    code = (
        "import sys, warnings\n"
        f"{breakage}\n"
        "import torch, arfl.aggregators as a\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    model, weights = a.residual_reweighting(torch.arange(1e5).reshape(4, -1) ** 2)\n"
        "said = ' '.join(str(warning.message) for warning in caught)\n"
        f"assert 'plain torch' in said and {reason!r} in said, said\n"
        "assert model.isfinite().all() and abs(weights.sum() - 1) < 1e-6\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("n_clients", [17, 35])
def test_kernels_over_tiles_agree_with_dense_steps(monkeypatch, n_clients):
    tiled = range(17, 129)
    kernels = interpreted_gpu_module(monkeypatch)
    monkeypatch.setattr(kernels, "TILED", tiled)
    models = normal(n_clients, 3)
    models[:, 1] = models[:, 1].round()
    models[:3, 2] = 1e6
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(
        kernels.trimmed_mean(models, n_clients // 5),
        _dense.trimmed_mean(models, n_clients // 5),
        **close,
    )
    torch.testing.assert_close(
        kernels.repeated_median(models), _dense.repeated_median(models), **close
    )
    for variant in VARIANTS:
        corrected, sums = kernels.reweight(models, variant, 2.0, 0.1)
        expected, expected_sums = _dense.reweight(models, variant, 2.0, 0.1)
        torch.testing.assert_close(corrected, expected, **close)
        torch.testing.assert_close(sums, expected_sums, rtol=1e-9, atol=1e-9)
