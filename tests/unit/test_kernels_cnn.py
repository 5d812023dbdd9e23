"""The CNN's kernel on the CPU against PyTorch's autograd and optimiser in float64."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_training import BATCHES, assert_close, trained_by_kernel, trained_by_torch
from reference_networks import ReferenceCnn, load_by_order
from torch import nn

from arfl.kernels.cnn_cpu import logits, train_epochs
from arfl.networks.cnn import Cnn

LAYOUT = Cnn({"n_classes": 10}).layout
SCALE, SHIFT = np.float32(1 / (255 * 0.3081)), np.float32(-0.1307 / 0.3081)


def drawn(n_samples, n_classes=10):
    """A model, images and labels."""
    stream = np.random.default_rng(n_samples)
    model = Cnn({"n_classes": n_classes}).initial(torch.Generator().manual_seed(n_samples)).numpy()
    x = stream.normal(size=(n_samples, 1, 28, 28)).astype(np.float32)
    return model, x, stream.integers(0, n_classes, n_samples)


def reference(n_classes=10, dtype=torch.float64, model=None):
    network = ReferenceCnn()
    network.fc2 = nn.Linear(16, n_classes)
    network = network.to(dtype)
    if model is not None:
        with torch.no_grad():
            load_by_order(
                network, Cnn({"n_classes": n_classes}).layout, torch.from_numpy(model).to(dtype)
            )
    return network


def part(name, vector):
    return vector[LAYOUT.slices[name]]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("batch_sizes", BATCHES, ids=str)
def test_training_is_pytorchs(batch_sizes, momentum):
    model, x, y = drawn(sum(batch_sizes))
    given = (model, x, y, batch_sizes, 0.05, momentum)
    assert_close(
        trained_by_kernel(train_epochs, *given), trained_by_torch(reference(), LAYOUT, *given)
    )


def test_more_classes_than_lanes():
    model, x, y = drawn(21, n_classes=20)
    given = (model, x, y, [16, 5], 0.05, 0.5)
    expected = trained_by_torch(reference(20), Cnn({"n_classes": 20}).layout, *given)
    assert_close(trained_by_kernel(train_epochs, *given), expected)
    out = reference(20, model=model)(torch.from_numpy(x).double()).detach().numpy()
    np.testing.assert_allclose(logits(model, x), out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_samples", [1, 15, 16, 33])
def test_logits_are_pytorchs(n_samples):
    model, x, _ = drawn(n_samples)
    expected = reference(model=model)(torch.from_numpy(x).double()).detach().numpy()
    np.testing.assert_allclose(logits(model, x), expected, rtol=1e-5, atol=1e-5)


def test_no_samples_and_no_steps_change_nothing():
    model, x, y = drawn(1)
    assert logits(model, x[:0]).shape == (0, 10)
    assert np.array_equal(trained_by_kernel(train_epochs, model, x[:0], y[:0], [], 1, 0)[0], model)


def test_momentum_goes_on_from_call_to_call():
    model, x, y = drawn(30)
    expected = trained_by_kernel(train_epochs, model, x, y, [16, 14], 0.05, 0.5)
    velocity, total = np.zeros_like(model), np.zeros_like(model)
    for step in (slice(16), slice(16, 30)):
        sizes = np.array([len(y[step])])
        train_epochs(model, velocity, x[step], y[step], sizes, 0.05, 0.5, total)
    for got, other in zip((model, velocity, total), expected, strict=True):
        assert np.array_equal(got, other)


def test_pixels_are_scaled_and_rows_gathered():
    model, _, y = drawn(40)
    stream = np.random.default_rng(0)
    pixels = stream.integers(0, 256, (40, 1, 28, 28), dtype=np.uint8)
    pixels.flags.writeable = False
    rows = stream.permutation(40)[:25]
    inputs = pixels.astype(np.float32) * SCALE + SHIFT
    expected = trained_by_kernel(train_epochs, model, inputs[rows], y[rows], [16, 9], 0.05, 0.5)
    got = trained_by_kernel(
        train_epochs, model, pixels, y, [16, 9], 0.05, 0.5, rows=rows, scale=SCALE, shift=SHIFT
    )
    for one, other in zip(got, expected, strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(logits(model, pixels, SCALE, SHIFT), logits(model, inputs))


def test_of_equal_positions_the_first_takes_the_gradient():
    model, x, y = drawn(20)
    # Small whole numbers: the sums of the convolutions are exact, and blank images tie everywhere.
    for name in ("conv1", "conv2"):
        part(f"{name}.weight", model)[:] = np.round(4 * part(f"{name}.weight", model))
        part(f"{name}.bias", model)[:] = np.round(4 * np.abs(part(f"{name}.bias", model))) + 1
    x[:] = 0
    x[::2, :, 3:5, 4:9] = 1
    x[1::4, :, 10:20, 11:20:2] = 1
    given = (model, x, y, [20], 0.01, 0.0)
    assert_close(
        trained_by_kernel(train_epochs, *given), trained_by_torch(reference(), LAYOUT, *given)
    )


def test_where_relu_is_flat_nothing_flows():
    model, x, y = drawn(20)
    part("conv2.bias", model)[:] = -1e4
    _, _, gradient = trained_by_kernel(train_epochs, model, x, y, [20], 0.05, 0.0)
    assert not any(
        part(f"{name}.{of}", gradient).any()
        for name in ("conv1", "conv2")
        for of in ("weight", "bias")
    )
    assert not part("fc1.weight", gradient).any()
    assert part("fc2.bias", gradient).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["conv1.weight", "conv2.weight", "fc1.bias", "fc2.weight"])
def test_what_is_not_finite_reaches_the_same_logits_as_with_pytorch(name, bad):
    model, x, _ = drawn(20)
    part(name, model)[3] = bad
    x[5, 0, 6, 6] = bad
    expected = reference(dtype=torch.float32, model=model)(torch.from_numpy(x)).detach().numpy()
    assert np.array_equal(np.isfinite(logits(model, x)), np.isfinite(expected))
    assert np.array_equal(np.isnan(logits(model, x)), np.isnan(expected))


def test_an_image_without_numbers_leaves_its_mark_where_pytorch_has_it():
    model, x, y = drawn(20)
    x[5, 0, 6, 6] = np.nan
    given = (model, x, y, [20], 0.05, 0.5)
    ours = trained_by_kernel(train_epochs, *given)
    theirs = trained_by_torch(reference(), LAYOUT, *given)
    for got, expected in zip(ours, theirs, strict=True):
        assert np.isnan(got).any()
        # PyTorch multiplies the zeros of other positions, too, and spreads what is no number.
        assert not (np.isnan(got) & ~np.isnan(expected)).any()
        assert np.isnan(part("fc2.bias", got)).all()


def test_a_model_that_diverges_becomes_nan():
    model, x, y = drawn(64)
    trained, *_ = trained_by_kernel(train_epochs, model, x, y, [16] * 4, 1e20, 0.5)
    assert np.isnan(trained).any()
    assert np.isnan(logits(trained, x)).all()


def test_results_do_not_depend_on_other_threads():
    given = [(*drawn(n), [16] * (n // 16), 0.05, 0.5) for n in (32, 48, 64, 96)]
    expected = [trained_by_kernel(train_epochs, *client) for client in given]
    with ThreadPoolExecutor(4) as pool:
        got = pool.map(lambda client: trained_by_kernel(train_epochs, *client), given * 4)
        for ours, theirs in zip(got, expected * 4, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert np.array_equal(one, other)


def test_the_loss_falls():
    model, x, y = drawn(64)
    before = F.cross_entropy(torch.from_numpy(logits(model, x)), torch.from_numpy(y))
    sizes = np.full(120, 16)
    rows = np.arange(120 * 16) % 64
    train_epochs(model, np.zeros_like(model), x, y, sizes, 0.05, 0.5, rows=rows)
    after = F.cross_entropy(torch.from_numpy(logits(model, x)), torch.from_numpy(y))
    assert after < before / 2


def test_what_does_not_fit_is_refused():
    model, x, y = drawn(20)

    def train(model=model, x=x, y=y, sizes=(20,), **options):
        trained_by_kernel(train_epochs, model, x, y, list(sizes), 0.05, 0.5, **options)

    with pytest.raises(ValueError, match="no CNN"):
        train(model=model[:-1])
    with pytest.raises(ValueError, match="one length"):
        train_epochs(model, model[:-17].copy(), x, y, np.array([20]), 0.05, 0.5)
    with pytest.raises(ValueError, match="one length"):
        train_epochs(np.repeat(model, 2)[::2], model.copy(), x, y, np.array([20]), 0.05, 0.5)
    with pytest.raises(ValueError, match="float64"):
        train(x=x.astype(np.float64))
    with pytest.raises(ValueError, match="28x28"):
        train(x=x[..., :20])
    with pytest.raises(ValueError, match="do not make up 20"):
        train(sizes=(16, 5))
    with pytest.raises(ValueError, match="do not make up 20"):
        train(sizes=(21, -1))
    with pytest.raises(ValueError, match="10 classes"):
        train(y=y + 5)
    with pytest.raises(ValueError, match="rows"):
        train(rows=np.arange(1, 21))
