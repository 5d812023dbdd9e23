"""LoanNet's kernel on the CPU against PyTorch's autograd and optimiser in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_training import BATCHES, assert_close, trained_by_kernel, trained_by_torch
from reference_networks import ReferenceLoanNet, load_by_order
from torch import nn

from arfl.kernels.loannet_cpu import logits, train_epochs
from arfl.networks.loannet import LoanNet

SIZES = [(91, 9), (5, 20)]


def network(n_features, n_classes):
    reference = ReferenceLoanNet()
    reference.fc1, reference.fc3 = nn.Linear(n_features, 46), nn.Linear(23, n_classes)
    return reference.double()


def sized(n_features, n_classes):
    arrays = {"train_x": {"shape": [1, n_features]}}
    return LoanNet({"arrays": arrays, "n_classes": n_classes}, dropout=0.5)


def layout(n_features, n_classes):
    return sized(n_features, n_classes).layout


def drawn(n_samples, n_features=91, n_classes=9):
    """A model, a table and labels."""
    stream = np.random.default_rng(n_samples)
    generator = torch.Generator().manual_seed(n_samples)
    model = sized(n_features, n_classes).initial(generator).numpy()
    x = stream.normal(size=(n_samples, n_features)).astype(np.float32)
    return model, x, stream.integers(0, n_classes, n_samples)


def masks(n_samples):
    return (np.random.default_rng(1).random((n_samples, 46 + 23)) < 0.5).astype(np.uint8)


def dropping(keep, factor):
    """The logits with these masks."""

    def forward(network, x, batch):
        first, second = (torch.from_numpy(part[batch]) for part in (keep[:, :46], keep[:, 46:]))
        h = F.relu(network.fc1(x)) * first * factor
        h = F.relu(network.fc2(h)) * second * factor
        return network.fc3(h)

    return forward


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("batch_sizes", BATCHES, ids=str)
def test_training_is_pytorchs(batch_sizes, momentum):
    n = sum(batch_sizes)
    given = (*drawn(n), batch_sizes, 0.05, momentum)
    keep = masks(n)
    ours = trained_by_kernel(train_epochs, *given, keep=keep, factor=2.0)
    theirs = trained_by_torch(network(91, 9), layout(91, 9), *given, dropping(keep, 2.0))
    assert_close(ours, theirs)


@pytest.mark.parametrize("sizes", SIZES)
def test_training_without_dropout_is_pytorchs(sizes):
    given = (*drawn(37, *sizes), [20, 17], 0.05, 0.5)
    ours = trained_by_kernel(train_epochs, *given)
    assert_close(ours, trained_by_torch(network(*sizes), layout(*sizes), *given))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("n_samples", [1, 7, 300])
def test_logits_are_pytorchs(sizes, n_samples):
    model, x, _ = drawn(n_samples, *sizes)
    reference = network(*sizes)
    with torch.no_grad():
        load_by_order(reference, layout(*sizes), torch.from_numpy(model).double())
        expected = reference(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(logits(model, x), expected, rtol=1e-5, atol=1e-5)


def test_no_samples_have_no_logits():
    model, x, _ = drawn(1)
    assert logits(model, x[:0]).shape == (0, 9)


def test_momentum_goes_on_from_call_to_call_and_rows_are_gathered():
    model, x, y = drawn(30)
    x.flags.writeable = False
    keep, rows = masks(30), np.random.default_rng(0).permutation(30)
    expected = trained_by_kernel(
        train_epochs, model, x[rows], y[rows], [16, 14], 0.05, 0.5, keep=keep, factor=2.0
    )
    velocity, total = np.zeros_like(model), np.zeros_like(model)
    for step in (slice(16), slice(16, 30)):
        sizes = np.array([len(y[step])])
        train_epochs(
            model, velocity, x, y, sizes, 0.05, 0.5, total, keep[step], 2.0, rows=rows[step]
        )
    for got, other in zip((model, velocity, total), expected, strict=True):
        assert np.array_equal(got, other)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["fc1.weight", "fc2.bias", "fc3.weight"])
def test_what_is_not_finite_reaches_the_same_logits_as_with_pytorch(name, bad):
    model, x, _ = drawn(20)
    model[layout(91, 9).slices[name]][3] = bad
    x[5, 6] = bad
    reference = network(91, 9)
    with torch.no_grad():
        load_by_order(reference, layout(91, 9), torch.from_numpy(model).double())
        expected = reference(torch.from_numpy(x).double()).numpy()
    assert np.array_equal(np.isfinite(logits(model, x)), np.isfinite(expected))
    assert np.array_equal(np.isnan(logits(model, x)), np.isnan(expected))


def test_a_model_that_diverges_becomes_nan():
    model, x, y = drawn(64)
    trained, *_ = trained_by_kernel(train_epochs, model, x, y, [16] * 4, 1e30, 0.5)
    assert np.isnan(trained).any()
    assert np.isnan(logits(trained, x)).all()


def test_what_does_not_fit_is_refused():
    model, x, y = drawn(20)

    def train(model=model, x=x, **options):
        trained_by_kernel(train_epochs, model, x, y, [20], 0.05, 0.5, **options)

    with pytest.raises(ValueError, match="do not fit each other"):
        train(model=model[:-1])
    with pytest.raises(ValueError, match="do not fit each other"):
        train(x=x.astype(np.float64))
    with pytest.raises(ValueError, match="do not fit each other"):
        train(x=x[:, :20])
    with pytest.raises(ValueError, match="mask"):
        train(keep=masks(19))
