"""The CNN's training on a CPU: all steps of a client in one call of a generated kernel.

With four or eight channels PyTorch's convolutions reach a tenth or so of a core's speed. Here
the lanes of the vector unit are samples: a batch is cut into blocks of `LANES` samples whose values
lie side by side, and what one sample needs is done for all lanes by one instruction. A block goes
forward and backward before the next one starts, so that its maps stay in the cache; gradients add
up lane by lane over the blocks of a batch.

Of the four positions of a pool one takes the gradient, in each lane another. The backward kernels
select its neighbourhood by masks, first the column, then the row, which takes 11 selections where
20 products of a zero would stand.

Importing this imports numba.
"""

import functools
import math

import numpy as np
from llvmlite import ir

from arfl.kernels import numba_tools
from arfl.kernels.lanes_cpu import (
    LANES,
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

_WIDTH = 28
_KERNEL = 5
_HIDDEN = 16
_GROUP = 4
"""Output channels whose sums stand in registers in the forward step, four positions each."""
_PAIR = 2
"""Output channels whose sums stand in registers in the step of the weights' gradient."""


class _Convolution:
    """Sizes of a layer of 5x5 kernels without padding, and where its weights and biases start."""

    def __init__(self, channels: int, width: int, outputs: int, start: int):
        self.channels, self.width, self.outputs = channels, width, outputs
        self.pooled = (width - _KERNEL + 1) // 2
        self.taps = _KERNEL * _KERNEL
        self.weight, self.bias = start, start + outputs * channels * self.taps
        self.stop = self.bias + outputs
        self.image, self.map = width * width, self.pooled * self.pooled

    def pixel(self, row: int, column: int) -> int:
        """Offset of a pixel's lanes from those of the pixel at (0, 0)."""
        return (row * self.width + column) * LANES


_CONV1 = _Convolution(1, _WIDTH, 4, 0)
_CONV2 = _Convolution(4, _CONV1.pooled, 8, _CONV1.stop)
_INPUTS = _CONV2.outputs * _CONV2.map


def _add_to_lanes(source: Source) -> None:
    """Add ``to_lanes(pixels, values, scale, shift, rows, x)``: `LANES` samples side by side.

    The samples are ``rows`` of ``pixels``, or of ``values`` where there are no pixels.
    """

    def tile(emit, images, rows, p, scale, shift, x):
        starts = [
            emit.times(emit.look_up(rows, ir.IntType(64)(lane)), _CONV1.image)
            for lane in range(LANES)
        ]
        values = emit.transposed([emit.load(images, emit.sum(start, p)) for start in starts])
        for i, value in enumerate(values):
            value = emit.add(emit.multiply(value, emit.spread(scale)), emit.spread(shift))
            emit.store(x, emit.times(p, LANES), i * LANES, value)

    source.block("tile", tile)
    lines = [
        "if len(pixels):",
        f" for p in range(0, {_CONV1.image}, LANES):",
        "  tile(pixels, rows, p, scale, shift, x)",
        "else:",
        f" for p in range(0, {_CONV1.image}, LANES):",
        "  tile(values, rows, p, scale, shift, x)",
    ]
    source.function("to_lanes", "pixels, values, scale, shift, rows, x", lines)


def _add_forward(source: Source, name: str, layer: _Convolution) -> None:
    """Add ``name(x, w, out, rows, columns)``: convolution, 2x2 max pooling, ReLU.

    ``out`` are the pooled maps; ``rows`` and ``columns`` say which position of its pool each value
    is.
    """
    sums = [(o, p) for o in range(_GROUP) for p in range(4)]

    def begin(emit, w, at):
        return [emit.splat(w, at, o) for o, _ in sums]

    def taps(emit, x, at, w, tap, values):
        values = list(values)
        for row in range(_KERNEL + 1):
            for column in range(_KERNEL + 1):
                value = emit.load(x, at, layer.pixel(row, column))
                for s, (o, p) in enumerate(sums):
                    i, j = row - p // 2, column - p % 2
                    if 0 <= i < _KERNEL and 0 <= j < _KERNEL:
                        offset = o * layer.channels * layer.taps + i * _KERNEL + j
                        values[s] = emit.fused(emit.splat(w, tap, offset), value, values[s])
        return values

    def pool(emit, values, out, rows, columns, place):
        zero = emit.constant(0)

        def wins(b, a):
            # The first of equal positions wins; what is not a number wins, as in PyTorch.
            return emit.either(emit.compare(b, ">", a), emit.no_number(b))

        for o in range(_GROUP):
            s0, s1, s2, s3 = values[4 * o : 4 * o + 4]
            right_above, right_below = wins(s1, s0), wins(s3, s2)
            above, below = emit.pick(right_above, s1, s0), emit.pick(right_below, s3, s2)
            lower = wins(below, above)
            best = emit.pick(lower, below, above)
            best = emit.pick(emit.compare(best, "<=", zero), zero, best)
            at = emit.sum(place, o * layer.map)
            emit.store(out, emit.times(at, LANES), 0, best)
            emit.store_mask(rows, at, lower)
            emit.store_mask(columns, at, emit.pick(lower, right_below, right_above))

    source.block(f"{name}_begin", begin, len(sums))
    source.block(f"{name}_taps", taps, len(sums))
    source.block(f"{name}_pool", pool)
    lines = [
        f"for y in range({layer.pooled}):",
        f" for z in range({layer.pooled}):",
        f"  for group in range({layer.outputs // _GROUP}):",
        f"   sums = {name}_begin(w, {layer.bias} + group * {_GROUP})",
        f"   for c in range({layer.channels}):",
        f"    at = c * {layer.image * LANES} + y * {layer.pixel(2, 0)} + z * {layer.pixel(0, 2)}",
        f"    tap = {layer.weight} + (group * {_GROUP * layer.channels} + c) * {layer.taps}",
        f"    sums = {name}_taps(x, at, w, tap, sums)",
        f"   place = group * {_GROUP * layer.map} + y * {layer.pooled} + z",
        f"   {name}_pool(sums, out, rows, columns, place)",
    ]
    source.function(name, "x, w, out, rows, columns", lines)


def _add_flat(source: Source, name: str, layer: _Convolution) -> None:
    """Add ``name(out, gradient, sums)``: no gradient where ReLU is flat; that of the bias."""

    def begin(emit, sums, at):
        return [emit.load(sums, at)]

    def cut(emit, out, gradient, at, values):
        zero = emit.constant(0)
        flat = emit.compare(emit.load(out, at), "==", zero)
        value = emit.pick(flat, zero, emit.load(gradient, at))
        emit.store(gradient, at, 0, value)
        return [emit.add(values[0], value)]

    def end(emit, sums, at, values):
        emit.store(sums, at, 0, values[0])

    source.block("flat_begin", begin, 1)
    source.block("flat_cut", cut, 1)
    source.block("flat_end", end)
    lines = [
        f"for o in range({layer.outputs}):",
        f" at = ({layer.bias} + o) * LANES",
        " total = flat_begin(sums, at)",
        f" for place in range(o * {layer.map}, (o + 1) * {layer.map}):",
        "  total = flat_cut(out, gradient, place * LANES, total)",
        " flat_end(sums, at, total)",
    ]
    source.function(name, "out, gradient, sums", lines)


def _add_weight_gradient(source: Source, name: str, layer: _Convolution) -> None:
    """Add ``name(x, gradient, rows, columns, sums)``, which adds to ``sums`` lane by lane.

    One row of kernels at a time: twelve pixels of two rows serve a pair of output channels.
    """
    offsets = [
        (o * layer.channels * layer.taps + j) * LANES for o in range(_PAIR) for j in range(_KERNEL)
    ]

    def begin(emit, sums, at):
        return [emit.load(sums, at, offset) for offset in offsets]

    def pool(emit, x, at, gradient, rows, columns, place, values):
        values = list(values)
        pixels = [
            [emit.load(x, at, layer.pixel(row, column)) for column in range(_KERNEL + 1)]
            for row in range(2)
        ]
        for o in range(_PAIR):
            here = emit.sum(place, o * layer.map)
            g = emit.load(gradient, emit.times(here, LANES))
            lower, right = emit.load_mask(rows, here), emit.load_mask(columns, here)
            row = [emit.pick(lower, b, a) for a, b in zip(*pixels, strict=True)]
            for j in range(_KERNEL):
                s = o * _KERNEL + j
                values[s] = emit.fused(g, emit.pick(right, row[j + 1], row[j]), values[s])
        return values

    def end(emit, sums, at, values):
        for offset, value in zip(offsets, values, strict=True):
            emit.store(sums, at, offset, value)

    source.block(f"{name}_begin", begin, len(offsets))
    source.block(f"{name}_pool", pool, len(offsets))
    source.block(f"{name}_end", end)
    lines = [
        f"for y in range({layer.pooled}):",
        f" for group in range({layer.outputs // _PAIR}):",
        f"  for c in range({layer.channels}):",
        f"   for i in range({_KERNEL}):",
        f"    tap = {layer.weight} + (group * {_PAIR * layer.channels} + c) * {layer.taps}",
        f"    tap = (tap + i * {_KERNEL}) * LANES",
        f"    at = c * {layer.image * LANES} + (2 * y + i) * {layer.pixel(1, 0)}",
        f"    place = group * {_PAIR * layer.map} + y * {layer.pooled}",
        f"    values = {name}_begin(sums, tap)",
        f"    for z in range({layer.pooled}):",
        f"     pixel = at + z * {layer.pixel(0, 2)}",
        f"     values = {name}_pool(x, pixel, gradient, rows, columns, place + z, values)",
        f"    {name}_end(sums, tap, values)",
    ]
    source.function(name, "x, gradient, rows, columns, sums", lines)


def _add_input_gradient(source: Source, name: str, layer: _Convolution) -> None:
    """Add ``name(w, gradient, rows, columns, d_x)``, which overwrites ``d_x``.

    The kernel itself is shifted by each lane's position; half of the rows that a pool reaches at a
    time, so that their sums over the output channels stand in registers.
    """
    size = _KERNEL + 1
    lines = [
        "d_x[:] = 0",
        f"for y in range({layer.pooled}):",
        f" for z in range({layer.pooled}):",
        f"  for c in range({layer.channels}):",
        f"   at = c * {layer.image * LANES} + y * {layer.pixel(2, 0)} + z * {layer.pixel(0, 2)}",
    ]

    def add_half(half: range) -> list[str]:
        cells = [layer.pixel(row, column) for row in half for column in range(size)]

        def begin(emit, d_x, at):
            return [emit.load(d_x, at, cell) for cell in cells]

        def pool(emit, w, tap, gradient, rows, columns, place, values):
            g = emit.load(gradient, emit.times(place, LANES))
            lower, right = emit.load_mask(rows, place), emit.load_mask(columns, place)
            zero = emit.constant(0)

            def shifted(row):
                if not 0 <= row < _KERNEL:
                    return [zero] * size
                taps = [emit.splat(w, tap, row * _KERNEL + j) for j in range(_KERNEL)]
                pairs = zip([zero, *taps], [*taps, zero], strict=True)
                return [emit.pick(right, before, here) for before, here in pairs]

            result, above = [], shifted(half[0] - 1)
            for row in half:
                here = shifted(row)
                for column in range(size):
                    weight = emit.pick(lower, above[column], here[column])
                    result.append(emit.fused(g, weight, values[len(result)]))
                above = here
            return result

        def end(emit, d_x, at, values):
            for cell, value in zip(cells, values, strict=True):
                emit.store(d_x, at, cell, value)

        part = f"{name}_from_{half[0]}"
        source.block(f"{part}_begin", begin, len(cells))
        source.block(f"{part}_pool", pool, len(cells))
        source.block(f"{part}_end", end)
        return [
            f"   values_{half[0]} = {part}_begin(d_x, at)",
            f"   for o in range({layer.outputs}):",
            f"    place = o * {layer.map} + y * {layer.pooled} + z",
            f"    tap = {layer.weight} + (o * {layer.channels} + c) * {layer.taps}",
            f"    values_{half[0]} = {part}_pool(",
            f"     w, tap, gradient, rows, columns, place, values_{half[0]}",
            "    )",
            f"   {part}_end(d_x, at, values_{half[0]})",
        ]

    for half in (range(size // 2), range(size // 2, size)):
        lines += add_half(half)
    source.function(name, "w, gradient, rows, columns, d_x", lines)


def _add_totals(source: Source) -> None:
    """Add ``totals(sums, g)``: the convolutions' gradients from those of the lanes."""

    def store_totals(emit, sums, i, g):
        at = emit.times(i, LANES)
        lanes = emit.transposed([emit.load(sums, at, k * LANES) for k in range(LANES)])
        while len(lanes) > 1:
            lanes = [emit.add(a, b) for a, b in zip(lanes[::2], lanes[1::2], strict=True)]
        emit.store(g, i, 0, lanes[0])

    source.block("store_totals", store_totals)
    lines = [f"for i in range(0, {_CONV2.stop}, LANES):", " store_totals(sums, i, g)"]
    source.function("totals", "sums, g", lines)


@functools.lru_cache(maxsize=4)
def _kernel(n_classes: int):
    """The kernel of `train_epochs` and `logits` for so many classes."""
    classes, hidden = whole_vectors(n_classes), whole_vectors(_HIDDEN)
    w1 = _CONV2.stop
    b1 = w1 + _INPUTS * hidden
    w2 = b1 + hidden
    b2 = w2 + _HIDDEN * classes
    size = b2 + classes
    sizes = ((_INPUTS, _HIDDEN), (_HIDDEN, n_classes))
    source = Source(__file__)
    add_packing(source, sizes, _CONV2.stop)
    _add_to_lanes(source)
    for number, layer in ((1, _CONV1), (2, _CONV2)):
        _add_forward(source, f"forward_{number}", layer)
        _add_flat(source, f"flat_{number}", layer)
        _add_weight_gradient(source, f"weight_gradient_{number}", layer)
    _add_input_gradient(source, "input_gradient_2", _CONV2)
    _add_totals(source)
    add_loss_gradient(source, classes)
    for name, left, n_rows, n_terms, width, start in (
        # A's rows are lanes, which are the columns of the maps.
        ("hidden", column_major(LANES), LANES, _INPUTS, hidden, "bias"),
        ("output", row_major(hidden), LANES, _HIDDEN, classes, "bias"),
        ("output_gradient", column_major(hidden), _HIDDEN, LANES, classes, "sum"),
        ("hidden_gradient", row_major(LANES), _INPUTS, LANES, hidden, "sum"),
        # Back from the outputs in lanes of samples: A are weights, B rows of gradients.
        ("from_output", row_major(classes), _HIDDEN, n_classes, LANES, "zero"),
        ("from_hidden", row_major(hidden), _INPUTS, _HIDDEN, LANES, "zero"),
    ):
        add_product(source, name, left, n_rows, n_terms, width, start)
    add_update(source)
    flat_size = sum((inputs + 1) * outputs for inputs, outputs in sizes) + _CONV2.stop
    lines = [
        f"w, v, g, total_g = np.empty({size}, np.float32), np.empty({size}, np.float32), "
        f"np.empty({size}, np.float32), np.empty({size} if len(gradient_sum) else 0, np.float32)",
        "pack(model, w, np.float32(-np.inf))",
        "if len(velocity):",
        " pack(velocity, v, np.float32(0))",
        "if len(gradient_sum):",
        " pack(gradient_sum, total_g, np.float32(0))",
        f"sums = np.empty({_CONV2.stop} * LANES, np.float32)",
        f"x = np.empty({_CONV1.image} * LANES, np.float32)",
        f"h1 = np.empty({_CONV2.channels * _CONV2.image} * LANES, np.float32)",
        "d1 = np.empty_like(h1)",
        f"h2 = np.empty({_INPUTS} * LANES, np.float32)",
        "d2 = np.empty_like(h2)",
        f"rows1 = np.empty({_CONV2.channels * _CONV2.image}, MASK)",
        "columns1 = np.empty_like(rows1)",
        f"rows2 = np.empty({_INPUTS}, MASK)",
        "columns2 = np.empty_like(rows2)",
        f"h3 = np.empty(LANES * {hidden}, np.float32)",
        f"d3 = np.empty({hidden} * LANES, np.float32)",
        f"d3_rows = np.empty(LANES * {hidden}, np.float32)",
        f"z = np.empty(LANES * {classes}, np.float32)",
        f"z_lanes = np.empty({classes} * LANES, np.float32)",
        "block = np.empty(LANES, np.int64)",
        "stop = 0",
        "for step in range(len(batch_sizes)):",
        " start, stop = stop, stop + batch_sizes[step]",
        " share = np.float32(1) / np.float32(stop - start)",
        " g[:] = 0",
        " sums[:] = 0",
        " for first in range(start, stop, LANES):",
        "  n = min(LANES, stop - first)",
        "  for lane in range(LANES):",
        # Lanes without a sample repeat the last one; they get no gradient.
        "   block[lane] = rows[min(first + lane, stop - 1)]",
        "  to_lanes(pixels, values, scale, shift, block, x)",
        "  forward_1(x, w, h1, rows1, columns1)",
        "  forward_2(h1, w, h2, rows2, columns2)",
        f"  hidden(h2, block, w, {w1}, w, {b1}, h3, 0, 0)",
        "  for i in range(len(h3)):",
        "   h3[i] = np.float32(0) if h3[i] <= np.float32(0) else h3[i]",
        f"  output(h3, block, w, {w2}, w, {b2}, z, 0, 0)",
        "  if not len(velocity):",
        "   for lane in range(n):",
        f"    for i in range({n_classes}):",
        f"     out[(first + lane) * {n_classes} + i] = z[lane * {classes} + i]",
        "   continue",
        "  loss_gradient(z, y, first, n, LANES - n, share)",
        f"  output_gradient(h3, block, z, 0, z, 0, g, {w2}, 0)",
        "  for lane in range(LANES):",
        f"   for i in range({classes}):",
        f"    g[{b2} + i] += z[lane * {classes} + i]",
        "    z_lanes[i * LANES + lane] = z[lane * " + str(classes) + " + i]",
        f"  from_output(w[{w2}:{b2}], block, z_lanes, 0, w, 0, d3, 0, 0)",
        f"  for i in range({_HIDDEN}):",
        "   for lane in range(LANES):",
        f"    at = lane * {hidden} + i",
        "    d = np.float32(0) if h3[at] == np.float32(0) else d3[i * LANES + lane]",
        "    d3[i * LANES + lane] = d",
        "    d3_rows[at] = d",
        f"    g[{b1} + i] += d",
        f"  hidden_gradient(h2, block, d3_rows, 0, w, 0, g, {w1}, 0)",
        f"  from_hidden(w[{w1}:{b1}], block, d3, 0, w, 0, d2, 0, 0)",
        "  flat_2(h2, d2, sums)",
        "  weight_gradient_2(h1, d2, rows2, columns2, sums)",
        "  input_gradient_2(w, d2, rows2, columns2, d1)",
        "  flat_1(h1, d1, sums)",
        "  weight_gradient_1(x, d1, rows1, columns1, sums)",
        " if len(velocity):",
        "  totals(sums, g)",
        "  update(w, v, g, total_g, lr, momentum)",
        "if len(velocity):",
        " unpack(w, model)",
        " unpack(v, velocity)",
        " if len(gradient_sum):",
        "  unpack(total_g, gradient_sum)",
    ]
    arguments = (
        "model, velocity, gradient_sum, pixels, values, scale, shift, rows, y, batch_sizes, lr, "
        "momentum, out"
    )
    return source.kernel(f"train_cnn_{n_classes}", arguments, lines), flat_size


@functools.cache
def _ready(n_classes: int):
    """The kernel, compiled or found on disk."""
    kernel, size = _kernel(n_classes)
    none = np.empty(0, np.int64)
    model = np.zeros(size, np.float32)

    def first_call():
        _call(kernel, model, model.copy(), NONE, NONE, 1, 0, none, none, none, 0, 0, NONE)

    numba_tools.compile_alone(first_call, kernel, kernel.__name__)
    return kernel


def _call(
    kernel, model, velocity, gradient_sum, x, scale, shift, rows, y, sizes, lr, momentum, out
):
    if x.dtype == np.uint8:
        pixels, values = x, NONE
    else:
        pixels, values = np.empty(0, np.uint8), x
    kernel(
        model,
        velocity,
        gradient_sum,
        fixed(pixels),
        fixed(values),
        np.float32(scale),
        np.float32(shift),
        rows,
        y,
        sizes,
        np.float32(lr),
        np.float32(momentum),
        out,
    )


def _n_classes(model: np.ndarray, x: np.ndarray) -> int:
    n_classes, rest = divmod(len(model) - _CONV2.stop - (_INPUTS + 1) * _HIDDEN, _HIDDEN + 1)
    if n_classes < 1 or rest:
        raise ValueError(f"a model of {len(model)} values is no CNN")
    if x.dtype not in (np.uint8, np.float32) or math.prod(x.shape[1:]) != _CONV1.image:
        raise ValueError(f"uint8 or float32 images of 28x28 are asked for, got {x.dtype} {x.shape}")
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
    rows: np.ndarray | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
) -> None:
    """Steps of SGD with momentum on the mean cross-entropy of each batch, in one thread.

    The interpreter's lock is released meanwhile. Models that diverge become inf and NaN.

    Args:
        model: (N,) float32 in the order of `arfl.networks.cnn`'s layout, trained in place.
        velocity: (N,) float32, SGD's momentum state, kept up in place: momentum * velocity +
            gradient, of which lr times is subtracted from the model.
        x: (m, 1, 28, 28) uint8 or float32, contiguous; the inputs are x * scale + shift.
        y: (m,) labels, integers.
        batch_sizes: (steps,) int64, at least 1 each; they sum to the number of rows.
        lr: learning rate.
        momentum: 0 for none.
        gradient_sum: (N,) float32 to which the gradients of all steps are added, or empty.
        rows: (n,) int64 samples of ``x`` and ``y`` in the order of training; by default all as
            they lie.
        scale: of the images, in float32.
        shift: of the scaled images, in float32.

    Raises:
        ValueError: if sizes or types do not fit.
    """
    n_classes = _n_classes(model, x)
    check_vectors(model, velocity, gradient_sum)
    sizes, rows, y = checked_batches(batch_sizes, rows, len(x), y, n_classes)
    kernel = _ready(n_classes)
    _call(
        kernel, model, velocity, gradient_sum, x, scale, shift, rows, y, sizes, lr, momentum,
        NONE,
    )  # fmt: skip


def logits(model: np.ndarray, x: np.ndarray, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """(m, classes) float32 logits of samples ``x``; arguments as for `train_epochs`."""
    n_classes = _n_classes(model, x)
    out = np.empty((len(x), n_classes), np.float32)
    rows, sizes = np.arange(len(x)), np.array([len(x)])
    kernel = _ready(n_classes)
    _call(kernel, model, NONE, NONE, x, scale, shift, rows, rows, sizes, 0, 0, out.reshape(-1))
    return out


def compile_kernels(n_classes: int = 10) -> None:
    """Compile, and keep on disk, the kernel for so many classes, unless it is there."""
    _ready(n_classes)
