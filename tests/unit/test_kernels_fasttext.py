"""fastText's training on a CPU against dense autograd and torch.optim.Adam."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from arfl.kernels import fasttext_cpu
from arfl.networks.fasttext import FastText

VOCABULARY, LENGTH, LR = 40, 12, 0.05
NETWORK = FastText({"vocabulary_size": VOCABULARY})
WORDS, WEIGHT, BIAS = (NETWORK.layout.slices[name] for name in NETWORK.layout.shapes)


def initial(seed=0):
    return NETWORK.initial(torch.Generator().manual_seed(seed)).numpy()


def draw(n, words=range(VOCABULARY), seed=0):
    """Texts of 0 to `LENGTH` tokens out of ``words``, absent tokens anywhere, and labels."""
    stream = np.random.default_rng(seed)
    x = stream.choice(np.array(words), (n, LENGTH)).astype(np.int16)
    x[stream.random((n, LENGTH)) < stream.random((n, 1))] = -1
    return x, stream.integers(0, 2, n)


def dense_logits(flat, x):
    """Written with a dense table of how often each word is in each text."""
    tokens = torch.from_numpy(x).long()
    counts = F.one_hot(tokens + 1, VOCABULARY + 1).sum(1)[:, 1:].to(flat.dtype)
    means = counts @ flat[WORDS].view(VOCABULARY, -1) / counts.sum(1, keepdim=True).clamp(min=1)
    return means @ flat[WEIGHT] + flat[BIAS]


def by_torch(start, batches, dtype, lr=LR):
    """The model, both moments and the sum of all gradients after training with torch.optim."""
    flat = torch.nn.Parameter(torch.from_numpy(start).to(dtype))
    optimizer = torch.optim.Adam([flat], lr=lr)
    total = torch.zeros_like(flat)
    for x, y in batches:
        optimizer.zero_grad()
        labels = torch.from_numpy(y).to(dtype)
        F.binary_cross_entropy_with_logits(dense_logits(flat, x), labels).backward()
        total += flat.grad
        optimizer.step()
    state = optimizer.state[flat]
    return [
        values.detach().numpy() for values in (flat, state["exp_avg"], state["exp_avg_sq"], total)
    ]


def by_kernel(start, batches, lr=LR, calls=1):
    """The same four by the kernel, in ``calls`` calls."""
    model = start.copy()
    first, second, total = np.zeros((3, len(model)), np.float32)
    done = 0
    for part in np.array_split(np.arange(len(batches)), calls):
        x = np.concatenate([batches[step][0] for step in part])
        y = np.concatenate([batches[step][1] for step in part])
        sizes = np.array([len(batches[step][0]) for step in part])
        done = fasttext_cpu.train_epochs(model, first, second, done, x, y, sizes, lr, total)
    assert done == len(batches)
    return model, first, second, total


def split(x, y, sizes):
    ends = np.cumsum(sizes)
    return [(x[a:b], y[a:b]) for a, b in zip(ends - sizes, ends, strict=True)]


def assert_all_close(got, expected, rtol, scale):
    for name, a, b in zip(("model", "first", "second", "sum"), got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=scale * np.abs(b).max(), err_msg=name)


CASES = {
    "all words in use": (range(VOCABULARY), [16] * 30),
    "words that are in no text": (range(5, 20), [16] * 30),
    "batches of one text": (range(VOCABULARY), [1] * 60),
    "uneven last batches": (range(VOCABULARY), [16, 16, 3] * 8),
}


@pytest.mark.parametrize("case", CASES)
def test_follows_torch_in_float64_and_float32(case):
    words, sizes = CASES[case]
    batches = split(*draw(sum(sizes), words), np.array(sizes))
    got = by_kernel(initial(), batches)
    exact = by_torch(initial(), batches, torch.float64)
    assert_all_close(got, exact, 1e-4, 1e-5)
    assert_all_close(got, by_torch(initial(), batches, torch.float32), 2e-4, 2e-5)


def test_empty_texts_train_the_bias_only():
    x, y = np.full((8, LENGTH), -1, np.int16), np.ones(8, np.int64)
    batches = split(x, y, np.array([4, 4]))
    got = by_kernel(initial(), batches)
    assert_all_close(got, by_torch(initial(), batches, torch.float64), 1e-6, 1e-6)
    np.testing.assert_array_equal(got[0][: BIAS.start], initial()[: BIAS.start])


@pytest.fixture(scope="module")
def long_wait():
    """3,002 batches; word 39 is in the first alone, word 38 in the first and in the last."""
    x, y = draw(2 * 3002, range(30), seed=3)
    x[0, :2] = 39, 38
    x[-1, 0] = 38
    start = initial()
    start[38 * 100 : 38 * 100 + 3] = 0, 1e-30, -1e-12  # values that any update changes
    return start, split(x, y, np.full(3002, 2))


def test_a_row_that_waits_for_3000_steps(long_wait):
    start, batches = long_wait
    model, first, second, _ = by_kernel(start, batches)
    # In exact arithmetic the row's path does not depend on the others': its gradients are given.
    sums = [by_kernel(start, batches[:n])[3].astype(np.float64) for n in (1, 3001, 3002)]
    for word in (38, 39):
        row = slice(word * 100, word * 100 + 100)
        np.testing.assert_array_equal(sums[0][row], sums[1][row])
        flat = torch.nn.Parameter(torch.from_numpy(start[row].astype(np.float64)))
        optimizer = torch.optim.Adam([flat], lr=LR)
        for step in range(3002):
            gradient = {0: sums[0][row], 3001: sums[2][row] - sums[1][row]}.get(step, 0.0)
            flat.grad = torch.zeros(100, dtype=torch.float64) + torch.as_tensor(gradient)
            optimizer.step()
        state = optimizer.state[flat]
        np.testing.assert_allclose(model[row], flat.detach().numpy(), rtol=2e-6, atol=2e-6)
        exact = state["exp_avg"].numpy(), state["exp_avg_sq"].numpy()
        np.testing.assert_allclose(first[row], exact[0], rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(second[row], exact[1], rtol=1e-4, atol=1e-12)
    assert not first[39 * 100 : 40 * 100].any()  # 0.9^3001 is 0 in float32


@pytest.mark.parametrize("calls", [2, 7, 40])
def test_training_may_be_cut_into_calls(calls):
    batches = split(*draw(160, range(30)), np.full(40, 4))
    once, cut = by_kernel(initial(), batches), by_kernel(initial(), batches, calls=calls)
    # A wait that is cut is rounded more often; in calls of one step no row waits.
    assert_all_close(cut, once, 1e-4, 1e-5)


def test_a_word_of_no_text_keeps_its_bits():
    batches = split(*draw(160, range(10, 20)), np.full(40, 4))
    model, first, second, total = by_kernel(initial(), batches)
    for row in (slice(0, 1000), slice(2000, 4000)):
        np.testing.assert_array_equal(model[row], initial()[row])
        assert not first[row].any()
        assert not second[row].any()
        assert not total[row].any()


def test_a_gradient_sum_changes_nothing_else():
    x, y = draw(64)
    sizes = np.full(8, 8)
    with_sum = by_kernel(initial(), split(x, y, sizes))
    model = initial()
    first, second = np.zeros((2, len(model)), np.float32)
    assert fasttext_cpu.train_epochs(model, first, second, 0, x, y, sizes, LR) == 8
    np.testing.assert_array_equal(model, with_sum[0])
    np.testing.assert_array_equal(second, with_sum[2])


@pytest.mark.parametrize("where", [WEIGHT.start, BIAS.start, 7 * 100 + 3])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_spreads_as_in_torch(where, value):
    start = initial()
    start[where] = value
    x, y = draw(64, range(30), seed=5)
    batches = split(x, y, np.full(8, 8))
    got, expected = by_kernel(start, batches), by_torch(start, batches, torch.float32)
    # A dense table multiplies the words that a text lacks by 0, which makes NaN of infinity; words
    # of no text at all are left out here for that.
    used = np.r_[np.arange(30 * 100), np.arange(WEIGHT.start, len(start))]
    assert not np.isfinite(got[0]).all()
    np.testing.assert_array_equal(np.isfinite(got[0][used]), np.isfinite(expected[0][used]))


def test_without_batches_nothing_happens():
    model, (first, second) = initial(), np.zeros((2, NETWORK.layout.size), np.float32)
    x, y = draw(3)
    none = np.empty(0, np.int64)
    assert fasttext_cpu.train_epochs(model, first, second, 5, x, y, none, LR) == 5
    np.testing.assert_array_equal(model, initial())


def test_logits_are_those_of_the_network_also_of_a_read_only_array():
    x, _ = draw(50)
    x[7] = -1
    model = initial()
    read_only = x.copy()
    read_only.flags.writeable = False
    got = fasttext_cpu.logits(model, read_only)
    assert got.dtype == np.float32
    assert got.shape == (50, 1)
    exact = dense_logits(torch.from_numpy(model).double(), x)
    np.testing.assert_allclose(got[:, 0], exact, rtol=1e-5, atol=1e-6)
    views = NETWORK.layout.views(torch.from_numpy(model).unsqueeze(0))
    theirs = NETWORK.forward(views, torch.from_numpy(x).unsqueeze(0), False, None)
    np.testing.assert_allclose(got, theirs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.full((2, 3), VOCABULARY, np.int16)}, "vocabulary"),
        ({"x": np.zeros((2, 3), np.int64)}, "int16"),
        ({"model": np.zeros(4151, np.float32)}, "float32"),
        ({"first": np.zeros(NETWORK.layout.size)}, "float32"),
        ({"batch_sizes": np.array([2, 1])}, "batch_sizes"),
        ({"batch_sizes": np.array([0, 2])}, "batch_sizes"),
        ({"gradient_sum": np.zeros(0, np.float32)}, "gradient_sum"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, words):
    first, second = np.zeros((2, NETWORK.layout.size), np.float32)
    arguments = {
        "model": initial(),
        "first": first,
        "second": second,
        "steps_done": 0,
        "x": np.zeros((2, 3), np.int16),
        "y": np.zeros(2, np.int64),
        "batch_sizes": np.array([2]),
        "lr": LR,
    }
    with pytest.raises(ValueError, match=words):
        fasttext_cpu.train_epochs(**arguments | change)
