"""The CPU's pooled convolution against PyTorch's operations in float64."""

import pytest
import torch
import torch.nn.functional as F

from arfl import lane_convolution
from arfl.lane_convolution import convolve_pool, from_lanes, to_lanes

SIZES = [(1, 28, 4, 5), (4, 12, 8, 5), (3, 10, 2, 3)]


def drawn(channels, width, outputs, kernel, n_clients=3, n_samples=21):
    stream = torch.Generator().manual_seed(channels * width)
    shapes = [
        (n_clients, n_samples, channels, width, width),
        (n_clients, outputs, channels, kernel, kernel),
        (n_clients, outputs),
    ]
    return [torch.randn(shape, generator=stream) for shape in shapes]


def by_torch(x, weight, bias):
    """(K, B, O * P * P), one client after another."""
    return torch.stack(
        [
            F.relu(F.max_pool2d(F.conv2d(*client), 2)).flatten(1)
            for client in zip(x, weight, bias, strict=True)
        ]
    )


def by_lanes(x, weight, bias):
    return from_lanes(convolve_pool(to_lanes(x), weight, bias), x.shape[1])


def with_gradients(function, tensors, dtype=torch.float32, coefficients=None):
    tensors = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    out = function(*tensors)
    if coefficients is None:
        coefficients = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    (out * coefficients.to(dtype)).sum().backward()
    return [out.detach(), *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("n_clients", "n_samples"), [(1, 16), (3, 21), (2, 1)])
def test_values_and_gradients_are_pytorchs(sizes, n_clients, n_samples):
    tensors = drawn(*sizes, n_clients, n_samples)
    ours = with_gradients(by_lanes, tensors)
    for got, expected in zip(ours, with_gradients(by_torch, tensors, torch.float64), strict=True):
        torch.testing.assert_close(
            got.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
        )


def test_a_layer_whose_input_needs_no_gradient_gives_the_same_others():
    x, weight, bias = drawn(*SIZES[1])
    _, _, *expected = with_gradients(by_lanes, (x, weight, bias))
    _, *got = with_gradients(lambda w, b: by_lanes(x, w, b), (weight, bias))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_of_equal_positions_the_first_takes_the_gradient():
    x, weight, bias = drawn(*SIZES[1])
    # Small whole numbers: all sums are exact, and blank images tie everywhere.
    tensors = [torch.zeros_like(x), weight.round(), bias.round().abs() + 1]
    tensors[0][:, ::2, :, 3:5, 4:9] = 1
    ones = torch.ones(())
    ours = with_gradients(by_lanes, tensors, coefficients=ones)
    for got, expected in zip(
        ours, with_gradients(by_torch, tensors, coefficients=ones), strict=True
    ):
        assert torch.equal(got, expected)


def test_where_relu_is_flat_nothing_flows():
    x, weight, bias = drawn(*SIZES[1])
    out, *gradients = with_gradients(by_lanes, (x, weight, bias - 1e4))
    assert not out.any()
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_reaches_the_same_outputs_as_with_pytorch(bad):
    x, weight, bias = drawn(*SIZES[1])
    weight[1, 3, 2, 4, 4] = bad
    x[0, 5, 1, 6, 6] = bad
    assert torch.equal(by_lanes(x, weight, bias).isfinite(), by_torch(x, weight, bias).isfinite())
    assert torch.equal(by_lanes(x, weight, bias).isnan(), by_torch(x, weight, bias).isnan())


def test_results_do_not_depend_on_the_number_of_threads():
    tensors = drawn(*SIZES[1], n_clients=5, n_samples=40)
    expected = with_gradients(by_lanes, tensors)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for got, other in zip(with_gradients(by_lanes, tensors), expected, strict=True):
                assert torch.equal(got, other)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("n_samples", [1, 15, 16, 33])
def test_lanes_and_back_are_the_samples(n_samples):
    x = drawn(*SIZES[2], n_samples=n_samples)[0]
    lanes = to_lanes(x)
    assert lanes.shape[-1] == lane_convolution.LANES
    assert torch.equal(from_lanes(lanes, n_samples), x.flatten(2))


@pytest.mark.parametrize("sizes", [(1, 28, 3, 5), (1, 27, 4, 5), (1, 10, 4, 5), (1, 4, 2, 5)])
def test_sizes_that_the_kernels_do_not_take_are_refused(sizes):
    with pytest.raises(ValueError, match=f"{sizes[1]}x{sizes[1]} images"):
        by_lanes(*drawn(*sizes))


def test_other_types_are_refused():
    with pytest.raises(ValueError, match=r"float32 is asked for, got torch\.float64"):
        by_lanes(*(tensor.double() for tensor in drawn(*SIZES[2])))
