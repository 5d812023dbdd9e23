"""LoanNet's training on a CPU: all steps of a client in one call of a generated kernel.

One sample takes 25,000 operations, so little that calls cost PyTorch many times what they compute.
The lanes of the vector unit are a layer's outputs, whose numbers are rounded up to whole vectors;
layers are products of a whole batch.

Importing this imports numba.
"""

import functools
import itertools

import numpy as np

from arfl.kernels import numba_tools
from arfl.kernels.lanes_cpu import (
    NONE,
    Source,
    add_loss_gradient,
    add_packing,
    add_product,
    add_update,
    check_vectors,
    checked_batches,
    column_major,
    fixed,
    row_major,
    whole_vectors,
)

HIDDEN = (46, 23)
"""Outputs of the two hidden layers."""

_EVALUATED = 256
"""Samples of `logits` that go through a layer at once."""

_STEPS = [
    (
        "rectify",
        "h, width, n, outputs, keep, at_keep, factor",
        [
            "for s in range(n):",
            " at = s * width",
            " for i in range(outputs):",
            "  h[at + i] = np.float32(0) if h[at + i] <= np.float32(0) else h[at + i]",
            " if len(keep):",
            f"  from_keep = at_keep + s * {sum(HIDDEN)}",
            "  for i in range(outputs):",
            "   h[at + i] *= np.float32(keep[from_keep + i]) * factor",
        ],
    ),
    # A value that is zero is one that ReLU or dropout has cut off.
    (
        "flatten",
        "h, d, n, factor",
        [
            "for i in range(n):",
            " d[i] = np.float32(0) if h[i] == np.float32(0) else d[i] * factor",
        ],
    ),
    (
        "transpose",
        "w, start, inputs, outputs, width, target, target_width",
        [
            "for o in range(outputs):",
            " for i in range(inputs):",
            "  target[o * target_width + i] = w[start + i * width + o]",
        ],
    ),
    (
        "bias_gradient",
        "d, width, n, g, start",
        [
            "for s in range(n):",
            " for i in range(width):",
            "  g[start + i] += d[s * width + i]",
        ],
    ),
]
"""Name, arguments and lines of the short steps between the products."""


@functools.lru_cache(maxsize=4)
def _kernel(n_features: int, n_classes: int):
    """The kernel of `train_epochs` and `logits` for a table of so many features and classes."""
    inputs, outputs = (n_features, *HIDDEN), (*HIDDEN, n_classes)
    widths = [whole_vectors(n) for n in outputs]
    weights, biases, start = [], [], 0
    for n, width in zip(inputs, widths, strict=True):
        weights.append(start)
        biases.append(start + n * width)
        start += (n + 1) * width

    def of_sample(emit, rows, r, k):
        return emit.sum(emit.times(emit.look_up(rows, r), n_features), k)

    def of_feature(emit, rows, r, k):
        return of_sample(emit, rows, k, r)

    source = Source(__file__)
    add_packing(source, list(zip(inputs, outputs, strict=True)), 0)
    for name, left, n_terms, width in (
        ("first", of_sample, n_features, widths[0]),
        ("second", row_major(widths[0]), HIDDEN[0], widths[1]),
        ("third", row_major(widths[1]), HIDDEN[1], widths[2]),
    ):
        add_product(source, name, left, "n", n_terms, width, "bias")
    add_loss_gradient(source, widths[2])
    for name, left, n_rows, width in (
        ("first_gradient", of_feature, n_features, widths[0]),
        ("second_gradient", column_major(widths[0]), HIDDEN[0], widths[1]),
        ("third_gradient", column_major(widths[1]), HIDDEN[1], widths[2]),
    ):
        add_product(source, name, left, n_rows, "n", width, "zero")
    add_product(source, "from_third", row_major(widths[2]), "n", n_classes, widths[1], "zero")
    add_product(source, "from_second", row_major(widths[1]), "n", HIDDEN[1], widths[0], "zero")
    for name, arguments, lines in _STEPS:
        source.function(name, arguments, lines)
    add_update(source)
    lines = [
        f"w, v, g, total_g = np.empty({start}, np.float32), np.empty({start}, np.float32), "
        f"np.empty({start}, np.float32), np.empty({start} if len(gradient_sum) else 0, np.float32)",
        "pack(model, w, np.float32(-np.inf))",
        "if len(velocity):",
        " pack(velocity, v, np.float32(0))",
        "if len(gradient_sum):",
        " pack(gradient_sum, total_g, np.float32(0))",
        "most = 0",
        "for step in range(len(batch_sizes)):",
        " most = max(most, batch_sizes[step])",
    ]
    for name, width in zip(("h1", "h2", "z"), widths, strict=True):
        lines.append(f"{name} = np.zeros(most * {width}, np.float32)")
    lines += [
        "d1, d2 = np.empty_like(h1), np.empty_like(h2)",
        f"back2 = np.zeros({HIDDEN[1] * widths[0]}, np.float32)",
        f"back3 = np.zeros({n_classes * widths[1]}, np.float32)",
        "stop = 0",
        "for step in range(len(batch_sizes)):",
        " start, stop = stop, stop + batch_sizes[step]",
        " n = stop - start",
        " batch = rows[start:stop]",
        f" first(x, batch, w, {weights[0]}, w, {biases[0]}, h1, 0, n)",
        f" kept = start * {sum(HIDDEN)}",
        f" rectify(h1, {widths[0]}, n, {HIDDEN[0]}, keep, kept, factor)",
        f" second(h1, batch, w, {weights[1]}, w, {biases[1]}, h2, 0, n)",
        f" rectify(h2, {widths[1]}, n, {HIDDEN[1]}, keep, kept + {HIDDEN[0]}, factor)",
        f" third(h2, batch, w, {weights[2]}, w, {biases[2]}, z, 0, n)",
        " if not len(velocity):",
        "  for s in range(n):",
        f"   for i in range({n_classes}):",
        f"    out[(start + s) * {n_classes} + i] = z[s * {widths[2]} + i]",
        "  continue",
        " loss_gradient(z, y, start, n, 0, np.float32(1) / np.float32(n))",
        " g[:] = 0",
        f" third_gradient(h2, batch, z, 0, w, 0, g, {weights[2]}, n)",
        f" bias_gradient(z, {widths[2]}, n, g, {biases[2]})",
        f" transpose(w, {weights[2]}, {HIDDEN[1]}, {n_classes}, {widths[2]}, back3, {widths[1]})",
        " from_third(z, batch, back3, 0, w, 0, d2, 0, n)",
        f" flatten(h2, d2, n * {widths[1]}, factor)",
        f" second_gradient(h1, batch, d2, 0, w, 0, g, {weights[1]}, n)",
        f" bias_gradient(d2, {widths[1]}, n, g, {biases[1]})",
        f" transpose(w, {weights[1]}, {HIDDEN[0]}, {HIDDEN[1]}, {widths[1]}, back2, {widths[0]})",
        " from_second(d2, batch, back2, 0, w, 0, d1, 0, n)",
        f" flatten(h1, d1, n * {widths[0]}, factor)",
        f" first_gradient(x, batch, d1, 0, w, 0, g, {weights[0]}, n)",
        f" bias_gradient(d1, {widths[0]}, n, g, {biases[0]})",
        " update(w, v, g, total_g, lr, momentum)",
        "if len(velocity):",
        " unpack(w, model)",
        " unpack(v, velocity)",
        " if len(gradient_sum):",
        "  unpack(total_g, gradient_sum)",
    ]
    arguments = (
        "model, velocity, gradient_sum, x, rows, y, batch_sizes, lr, momentum, keep, factor, out"
    )
    return source.kernel(f"train_loannet_{n_features}_{n_classes}", arguments, lines)


@functools.cache
def _ready(n_features: int, n_classes: int):
    """The kernel, compiled or found on disk."""
    kernel = _kernel(n_features, n_classes)
    none = np.empty(0, np.int64)
    model = np.zeros(_size(n_features, n_classes), np.float32)

    def first_call():
        _call(kernel, model, model.copy(), NONE, NONE, none, none, none, 0, 0, _ALL, 1, NONE)

    numba_tools.compile_alone(first_call, kernel, kernel.__name__)
    return kernel


_ALL = np.empty(0, np.uint8)
"""No mask: no dropout."""


def _size(n_features: int, n_classes: int) -> int:
    sizes = (n_features, *HIDDEN, n_classes)
    return sum((n + 1) * m for n, m in itertools.pairwise(sizes))


def _call(
    kernel, model, velocity, gradient_sum, x, rows, y, sizes, lr, momentum, keep, factor, out
):
    kernel(
        model,
        velocity,
        gradient_sum,
        fixed(x),
        rows,
        y,
        sizes,
        np.float32(lr),
        np.float32(momentum),
        fixed(keep),
        np.float32(factor),
        out,
    )


def _n_classes(model: np.ndarray, x: np.ndarray) -> int:
    n_classes, rest = divmod(len(model) - _size(x.shape[-1], 0), HIDDEN[-1] + 1)
    if x.ndim != 2 or x.dtype != np.float32 or n_classes < 1 or rest:
        raise ValueError(
            f"a model of {len(model)} values and inputs {x.dtype} {x.shape} do not fit each other"
        )
    return n_classes


def train_epochs(
    model: np.ndarray,
    velocity: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    batch_sizes: np.ndarray,
    lr: float,
    momentum: float,
    gradient_sum: np.ndarray = NONE,
    keep: np.ndarray = _ALL,
    factor: float = 1.0,
    rows: np.ndarray | None = None,
) -> None:
    """Steps of SGD with momentum on the mean cross-entropy of each batch, in one thread.

    The interpreter's lock is released meanwhile. Models that diverge become inf and NaN.

    Args:
        model: (N,) float32 in the order of `arfl.networks.loannet`'s layout, trained in place.
        velocity: (N,) float32, SGD's momentum state, kept up in place: momentum * velocity +
            gradient, of which lr times is subtracted from the model.
        x: (m, features) float32, contiguous.
        y: (m,) labels, integers.
        batch_sizes: (steps,) int64, at least 1 each; they sum to the number n of rows.
        lr: learning rate.
        momentum: 0 for none.
        gradient_sum: (N,) float32 to which the gradients of all steps are added, or empty.
        keep: (n, 46 + 23) uint8, contiguous, in the order of training: 1 where dropout keeps an
            output of the hidden layers, 0 where not; empty without dropout.
        factor: of what is kept, 1 / (1 - p).
        rows: (n,) int64 samples of ``x`` and ``y`` in the order of training; by default all as
            they lie.

    Raises:
        ValueError: if sizes or types do not fit.
    """
    n_classes = _n_classes(model, x)
    check_vectors(model, velocity, gradient_sum)
    sizes, rows, y = checked_batches(batch_sizes, rows, len(x), y, n_classes)
    if keep.size not in (0, len(rows) * sum(HIDDEN)):
        raise ValueError(f"a mask {keep.shape} of {len(rows)} samples")
    kernel = _ready(x.shape[1], n_classes)
    factor = factor if keep.size else 1.0
    _call(
        kernel, model, velocity, gradient_sum, x, rows, y, sizes, lr, momentum, keep, factor,
        NONE,
    )  # fmt: skip


def logits(model: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(m, classes) float32 logits of samples ``x`` without dropout; see `train_epochs`."""
    n_classes = _n_classes(model, x)
    out = np.empty((len(x), n_classes), np.float32)
    rows = np.arange(len(x))
    sizes = np.minimum(_EVALUATED, len(x) - np.arange(0, len(x), _EVALUATED))
    kernel = _ready(x.shape[1], n_classes)
    _call(kernel, model, NONE, NONE, x, rows, rows, sizes, 0, 0, _ALL, 1, out.reshape(-1))
    return out


def compile_kernels(n_features: int = 91, n_classes: int = 9) -> None:
    """Compile, and keep on disk, the kernel for such a table, unless it is there."""
    _ready(n_features, n_classes)
