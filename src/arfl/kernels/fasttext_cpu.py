"""fastText's local training and evaluation on a CPU, one compiled call for all of a client's steps.

Two properties of the network make a step cheap without changing what it computes:

- A row of the embedding enters a logit only through its product with the linear layer's weights,
  and its gradient is a multiple of those weights. So a step costs one product and one update of a
  row for each distinct token of the batch, and a few scalars for each token.
- A row that is in no text of a batch has no gradient, but Adam moves it all the same, by its
  decaying first moment. Such steps wait until the row is next needed and are then made at once,
  while the row is in registers (`_catch_up`).

Nothing is reassociated by the compiler: the result is the same however wide a processor's vectors.

Importing this imports numba.
"""

import functools
import hashlib
import math
from pathlib import Path

import numpy as np

from arfl.kernels import numba_tools

DIMENSION = 100
"""Length of a word's embedding."""
_LANES = 20
"""Partial sums of a product, which divide `DIMENSION`."""
_BETA1, _BETA2 = 0.9, 0.999
_EPS = 1e-8
_WAITING = 8
"""Waiting steps of a row that are made before looking whether they still change it."""


@numba_tools.inlined
def _product(a, b, sums):
    """The scalar product of two vectors, in `_LANES` partial sums."""
    for lane in range(_LANES):
        sums[lane] = a[lane] * b[lane]
    for start in range(_LANES, DIMENSION, _LANES):
        for lane in range(_LANES):
            sums[lane] += a[start + lane] * b[start + lane]
    total = np.float32(0)
    for lane in range(_LANES):
        total += sums[lane]
    return total


@numba_tools.inlined
def _catch_up(values, first, second, waiting, step, growth, floor, decay, scratch):
    """Make a row's ``waiting`` steps without gradient, the first of which is number ``step``.

    Adam's step t, the i-th that waits, subtracts

        lr / (1 - beta1^t) * m beta1^i / (sqrt(v beta2^i / (1 - beta2^t)) + eps)

    with the moments m and v before the wait. With r = sqrt(beta2^i / (1 - beta2^t)) this is
    m b / (sqrt(v) + e) where b = lr beta1^i / (1 - beta1^t) / r and e = eps / r are the same for
    all values: one addition, one product and one division a step, in float32 as in PyTorch.

    When no value of the row is changed by a step, none is by any later one, exactly: b falls from
    step to step and e rises (r falls: beta2^i falls and 1 - beta2^t rises; b is multiplied by at
    most 0.92, since 0.9 / sqrt(0.999) outweighs the growth of sqrt(1 - beta2^t) / (1 - beta1^t)
    for every t), and rounding keeps order. So the subtracted numbers keep their sign and do not
    grow, and if w - u rounds to w, w - u' with u' between 0 and u does.
    """
    root = scratch
    for d in range(DIMENSION):
        root[d] = np.sqrt(second[d])
    i = 1
    while i <= waiting:
        last = min(i + _WAITING - 1, waiting)
        while i < last:
            t = step + i - 1
            b = np.float32(growth[0, t] * growth[1, i])
            e = np.float32(floor[0, t] * floor[1, i])
            for d in range(DIMENSION):
                values[d] -= first[d] * b / (root[d] + e)
            i += 1
        t = step + i - 1
        b = np.float32(growth[0, t] * growth[1, i])
        e = np.float32(floor[0, t] * floor[1, i])
        changed = np.int32(0)
        for d in range(DIMENSION):
            old = values[d]
            new = old - first[d] * b / (root[d] + e)
            values[d] = new
            # False for a value that is not a number, which stays so.
            changed |= np.int32(new > old) | np.int32(new < old)
        i += 1
        if changed == 0:
            break
    keep1, keep2 = decay[0, waiting], decay[1, waiting]
    for d in range(DIMENSION):
        first[d] *= keep1
        second[d] *= keep2


@numba_tools.inlined
def _update(values, first, second, gradient, rate, correction):
    """One Adam step; ``rate`` is lr / (1 - beta1^t), ``correction`` is 1 / sqrt(1 - beta2^t)."""
    share1, share2 = np.float32(1 - _BETA1), np.float32(1 - _BETA2)
    keep2, eps = np.float32(_BETA2), np.float32(_EPS)
    for d in range(len(gradient)):
        g = gradient[d]
        m = first[d] + (g - first[d]) * share1
        v = second[d] * keep2 + g * g * share2
        first[d] = m
        second[d] = v
        values[d] -= m * rate / (np.sqrt(v) * correction + eps)


@numba_tools.inlined
def _add(total, values):
    for d in range(len(values)):
        total[d] += values[d]


@numba_tools.inlined
def _rows(flat, rows):
    """The embedding in a flat model, (rows, DIMENSION)."""
    return flat[: rows * DIMENSION].reshape(rows, DIMENSION)


@numba_tools.inlined
def _find(x, mark, seen, found):
    """Put the distinct tokens of ``x`` into ``found``; return how many there are.

    They are in the order of the vocabulary, which is that of the rows in memory. In ``seen`` they
    are marked by ``mark``, which no call has used before; ``found`` has a place more than there
    are rows.
    """
    for text in range(len(x)):
        for token in x[text]:
            if token >= 0:
                seen[token] = mark
    n_found = 0
    for token in range(len(seen)):
        found[n_found] = token
        n_found += seen[token] == mark
    return n_found


@numba_tools.inlined
def _mean(products, tokens):
    """The mean of a text's ``products``, 0 if it is empty, and its length, 1 if it is empty."""
    length = 0
    total = 0.0
    for token in tokens:
        if token >= 0:
            total += products[token]
            length += 1
    length = max(length, 1)
    return total / length, length


@numba_tools.kernel
def _train(model, first, second, steps_done, x, y, batch_sizes, lr, gradient_sum):
    rows = (len(model) - 1) // DIMENSION - 1
    steps = len(batch_sizes)
    # What `_catch_up` multiplies: a part that depends on the step's number and one that depends on
    # how long the row has waited.
    growth = np.empty((2, steps + 1))
    floor = np.empty((2, steps + 1))
    decay = np.empty((2, steps + 1), np.float32)
    for i in range(1, steps + 1):
        t = steps_done + i
        root = math.sqrt(1 - _BETA2**t)
        growth[0, i] = lr * root / (1 - _BETA1**t)
        growth[1, i] = (_BETA1 / math.sqrt(_BETA2)) ** i
        floor[0, i] = _EPS * root
        floor[1, i] = math.sqrt(_BETA2) ** -i
        decay[0, i] = _BETA1**i
        decay[1, i] = _BETA2**i
    words, words1, words2 = _rows(model, rows), _rows(first, rows), _rows(second, rows)
    sums = _rows(gradient_sum, rows if len(gradient_sum) else 0)
    head = rows * DIMENSION
    scratch = np.empty(DIMENSION, np.float32)
    gradient = np.empty(DIMENSION, np.float32)
    weight = np.empty(DIMENSION, np.float32)
    # Thousands of rows add up to it, and largely cancel: in float64.
    d_head = np.empty(DIMENSION + 1)
    head_gradient = np.empty(DIMENSION + 1, np.float32)
    products = np.empty(rows, np.float32)
    shares = np.empty(rows, np.float32)
    made = np.zeros(rows, np.int64)  # steps of this call that a row has made
    seen = np.zeros(rows, np.int64)  # the last step that found a row in its batch
    found = np.empty(rows + 1, np.int64)
    start = 0
    for step in range(1, steps + 1):
        size = batch_sizes[step - 1]
        weight[:] = model[head : head + DIMENSION]
        bias = model[head + DIMENSION]
        d_head[:] = 0
        d_bias = 0.0
        n_found = _find(x[start : start + size], step, seen, found)
        for token in found[:n_found]:
            waiting = step - 1 - made[token]
            if waiting:
                _catch_up(
                    words[token],
                    words1[token],
                    words2[token],
                    waiting,
                    step - waiting,
                    growth,
                    floor,
                    decay,
                    scratch,
                )
            products[token] = _product(words[token], weight, scratch)
            shares[token] = 0
        for text in range(start, start + size):
            mean, length = _mean(products, x[text])
            logit = mean + bias
            # The sigmoid by the exponential that cannot overflow.
            small = math.exp(-abs(logit))
            chance = (1 if logit >= 0 else small) / (1 + small)
            d_logit = (chance - y[text]) / size
            d_bias += d_logit
            share = np.float32(d_logit / length)
            for token in x[text]:
                if token >= 0:
                    shares[token] += share
        start += size

        rate = np.float32(lr / (1 - _BETA1 ** (steps_done + step)))
        correction = np.float32(1 / math.sqrt(1 - _BETA2 ** (steps_done + step)))
        for token in found[:n_found]:
            share = shares[token]
            word = words[token]
            for d in range(DIMENSION):
                d_head[d] += np.float64(share * word[d])
            for d in range(DIMENSION):
                gradient[d] = share * weight[d]
            if len(sums):
                _add(sums[token], gradient)
            _update(word, words1[token], words2[token], gradient, rate, correction)
            made[token] = step
        d_head[DIMENSION] = d_bias
        head_gradient[:] = d_head
        if len(sums):
            _add(gradient_sum[head:], head_gradient)
        _update(model[head:], first[head:], second[head:], head_gradient, rate, correction)
    for token in range(rows):
        waiting = steps - made[token]
        if waiting:
            _catch_up(
                words[token],
                words1[token],
                words2[token],
                waiting,
                steps - waiting + 1,
                growth,
                floor,
                decay,
                scratch,
            )
    return steps_done + steps


@numba_tools.kernel
def _evaluate(model, x):
    rows = (len(model) - 1) // DIMENSION - 1
    words = _rows(model, rows)
    weight, bias = model[rows * DIMENSION : -1], model[-1]
    products = np.empty(rows, np.float32)
    found = np.empty(rows + 1, np.int64)
    scratch = np.empty(DIMENSION, np.float32)
    n_found = _find(x, 1, np.zeros(rows, np.int64), found)
    for token in found[:n_found]:
        products[token] = _product(words[token], weight, scratch)
    logits = np.empty((len(x), 1), np.float32)
    for text in range(len(x)):
        logits[text, 0] = _mean(products, x[text])[0] + bias
    return logits


@functools.cache
def compile_kernels() -> None:
    """Compile, and keep on disk, both kernels. Optional: the first call does the same."""
    model, first, second = np.zeros((3, 2 * DIMENSION + 1), np.float32)
    x, y, sizes = np.full((1, 1), -1, np.int16), np.zeros(1, np.int64), np.ones(1, np.int64)

    def step():
        _train(model, first, second, 0, x, y, sizes, 0.0, model[:0])
        _evaluate(model, x)

    files = (Path(__file__), Path(numba_tools.__file__))
    text = b"".join(file.read_bytes() for file in files)
    numba_tools.compile_alone(step, _train, hashlib.sha256(text).hexdigest())


def _tokens(model: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``x`` as the kernels take it, which look at no bounds."""
    rows, rest = divmod(len(model) - 1, DIMENSION)
    if rest or rows < 2:
        raise ValueError(f"{len(model)} values are no fastText model of dimension {DIMENSION}")
    if x.dtype != np.int16 or x.ndim != 2:
        raise ValueError("x must be (n, L) int16")
    if x.size and x.max() >= rows - 1:
        raise ValueError(f"a token is {x.max()}, the vocabulary has {rows - 1} words")
    # A read-only array is another type to numba, for which it would compile again.
    return np.require(x, requirements=("C", "W"))


def train_epochs(
    model: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    steps_done: int,
    x: np.ndarray,
    y: np.ndarray,
    batch_sizes: np.ndarray,
    lr: float,
    gradient_sum: np.ndarray | None = None,
) -> int:
    """Train one client by Adam (betas 0.9 and 0.999, eps 1e-8) on its batches, in place.

    The loss is binary cross-entropy with logits, its mean over a batch. Runs in one thread and
    releases the interpreter's lock.

    Args:
        model: (N,) float32: the embedding (V, D), the weights (D,) and the bias, as in
            `arfl.networks.fasttext`.
        first: (N,) float32, Adam's first moment.
        second: (N,) float32, Adam's second moment.
        steps_done: Adam steps that the moments have seen.
        x: (n, L) int16 token ids in the order of training, negative where there is none. A text
            without any has the zero vector.
        y: (n,) labels, 0 or 1.
        batch_sizes: (steps,) how many texts each step takes, each at least 1.
        lr: learning rate.
        gradient_sum: (N,) float32 to which every step's gradient is added, if given.

    Returns:
        ``steps_done`` and the steps of this call.

    Raises:
        ValueError: if an array has another shape or type, or a token is not in the vocabulary.
    """
    vectors = [model, first, second] + ([] if gradient_sum is None else [gradient_sum])
    for vector in vectors:
        if vector.dtype != np.float32 or vector.shape != (model.size,):
            raise ValueError("model, moments and gradient_sum must be (N,) float32")
        if not (vector.flags.c_contiguous and vector.flags.writeable):
            raise ValueError("model, moments and gradient_sum must be contiguous and writeable")
    x = _tokens(model, x)
    y = np.require(y, np.int64, ("C", "W"))
    batch_sizes = np.require(batch_sizes, np.int64, ("C", "W"))
    if len(batch_sizes) == 0:
        return steps_done
    if batch_sizes.min() < 1 or batch_sizes.sum() > min(len(x), len(y)):
        raise ValueError("batch_sizes must be positive and cover no more than the texts")
    compile_kernels()
    sums = model[:0] if gradient_sum is None else gradient_sum
    return _train(model, first, second, steps_done, x, y, batch_sizes, float(lr), sums)


def logits(model: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The logits (n, 1) float32 of texts ``x``; arguments and errors as in `train_epochs`."""
    x = _tokens(model, x)
    compile_kernels()
    return _evaluate(model, x)
