"""Straight-line vector code for kernels of numba, and what the small networks' kernels share.

Numba leaves it to LLVM to find vectors in loops over scalars, and what it finds seldom keeps its
sums in registers. Here loops are generated source for numba, and what stands inside them are
blocks: functions that emit LLVM's instructions on vectors of `LANES` float32 themselves. A tuple of
`Lanes` carries sums through a loop, and LLVM keeps it in registers. On processors with shorter
vectors LLVM splits them.

Importing this imports numba.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from arfl.kernels import numba_tools

LANES = 16
MASK = np.dtype(f"uint{LANES}")
"""Elements of an array of masks, a bit for each lane."""

_FLOAT, _INDEX, _BITS = ir.FloatType(), ir.IntType(64), ir.IntType(LANES)
_VECTOR, _INTEGERS, _FLAGS, _PIXELS = (
    ir.VectorType(element, LANES)
    for element in (_FLOAT, ir.IntType(32), ir.IntType(1), ir.IntType(8))
)


class _Lanes(types.Type):
    def __init__(self):
        super().__init__("float32_lanes")


Lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR)


class Emit:
    """Emits instructions of a block; all values are LLVM's, of vectors but for ``index``.

    ``array`` is the start of a flat array. Comparisons are false for what is not a number.
    """

    def __init__(self, builder):
        self._builder = builder

    def _call(self, name, result, *values, **options):
        kind = ir.FunctionType(result, [value.type for value in values])
        function = cgutils.get_or_insert_function(self._builder.module, kind, name)
        return self._builder.call(function, values, **options)

    def sum(self, index, other):
        """Sum of two indices, the second one a value or a number."""
        return self._builder.add(index, _INDEX(other) if isinstance(other, int) else other)

    def times(self, index, number: int):
        """An index times a number."""
        return self._builder.mul(index, _INDEX(number))

    def look_up(self, array, index):
        """The index at ``array[index]``."""
        return self._builder.load(self._builder.gep(array, [index]))

    def _place(self, array, index, offset, kind):
        at = self._builder.gep(array, [self.sum(index, offset)])
        return self._builder.bitcast(at, kind.as_pointer())

    def load(self, array, index, offset=0):
        """Lanes ``array[index + offset:]`` of float32, or of uint8 pixels as float32."""
        if array.type.pointee == ir.IntType(8):
            at = self._place(array, index, offset, _PIXELS)
            return self._builder.uitofp(self._builder.load(at, align=1), _VECTOR)
        return self._builder.load(self._place(array, index, offset, _VECTOR), align=4)

    def store(self, array, index, offset, lanes):
        """Write to ``array[index + offset:]``."""
        self._builder.store(lanes, self._place(array, index, offset, _VECTOR), align=4)

    def load_mask(self, array, index):
        """The mask kept in an array of `MASK`."""
        return self._builder.bitcast(self._builder.load(self._builder.gep(array, [index])), _FLAGS)

    def store_mask(self, array, index, mask):
        """Keep a mask in an array of `MASK`."""
        self._builder.store(self._builder.bitcast(mask, _BITS), self._builder.gep(array, [index]))

    def constant(self, number: float):
        """A number in all lanes."""
        return ir.Constant(_VECTOR, [np.float32(number).item()] * LANES)

    def spread(self, scalar):
        """A scalar in all lanes."""
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = self._builder.insert_element(undefined, scalar, ir.IntType(32)(0))
        return self._builder.shuffle_vector(first, undefined, ir.Constant(_INTEGERS, [0] * LANES))

    def splat(self, array, index, offset=0):
        """``array[index + offset]`` in all lanes."""
        return self.spread(self._builder.load(self._place(array, index, offset, _FLOAT)))

    def add(self, a, b):
        """a + b."""
        return self._builder.fadd(a, b)

    def subtract(self, a, b):
        """a - b."""
        return self._builder.fsub(a, b)

    def multiply(self, a, b):
        """a * b."""
        return self._builder.fmul(a, b)

    def divide(self, a, b):
        """a / b."""
        return self._builder.fdiv(a, b)

    def fused(self, a, b, c):
        """a * b + c, rounded once where the processor can."""
        return self._call(f"llvm.fmuladd.v{LANES}f32", _VECTOR, a, b, c)

    def pick(self, mask, a, b):
        """a where the mask is set, else b; of vectors or masks."""
        return self._builder.select(mask, a, b)

    def compare(self, a, relation: str, b):
        """Mask of a relation, as Python writes it."""
        return self._builder.fcmp_ordered(relation, a, b)

    def no_number(self, a):
        """Mask of what is not a number."""
        return self._builder.fcmp_unordered("uno", a, a)

    def either(self, a, b):
        """Where one of two masks is set."""
        return self._builder.or_(a, b)

    def total(self, a):
        """Sum of the lanes in all lanes."""
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        # The sum is a tree over the lanes instead of one lane after another.
        return self.spread(self._call(name, _FLOAT, _FLOAT(-0.0), a, fastmath=("reassoc",)))

    def largest(self, a):
        """Largest lane in all lanes; one that is not a number does not count."""
        return self.spread(self._call(f"llvm.vector.reduce.fmax.v{LANES}f32", _FLOAT, a))

    def _shuffle(self, a, b, order):
        return self._builder.shuffle_vector(a, b, ir.Constant(_INTEGERS, order))

    def transposed(self, vectors: Sequence):
        """The columns of as many vectors as there are lanes, by perfect shuffles."""
        half = LANES // 2
        first = [lane // 2 + LANES * (lane % 2) for lane in range(LANES)]
        second = [place + half for place in first]
        for _ in range(half.bit_length()):
            pairs = list(zip(vectors[:half], vectors[half:], strict=True))
            vectors = [self._shuffle(*pair, order) for pair in pairs for order in (first, second)]
        return vectors

    def exponential(self, x):
        """e**x to float32's rounding, 0 for x below -87; not for x above 88."""
        # x = whole * log(2) + r; adding 1.5 * 2**23 leaves ``whole`` in the last bits.
        magic = self.constant(1.5 * 2**23)
        n = self.fused(x, self.constant(1.4426950408889634), magic)
        whole = self.subtract(n, magic)
        r = self.fused(whole, self.constant(-0.693359375), x)
        r = self.fused(whole, self.constant(2.12194440e-4), r)
        # Taylor series: the rest is below float32's rounding for |r| up to log(2) / 2.
        power = self.constant(1 / 5040)
        for factorial in (720, 120, 24, 6, 2, 1, 1):
            power = self.fused(power, r, self.constant(1 / factorial))
        bits = self._builder.bitcast(n, _INTEGERS)
        bits = self._builder.add(bits, ir.Constant(_INTEGERS, [127] * LANES))
        bits = self._builder.shl(bits, ir.Constant(_INTEGERS, [23] * LANES))
        power = self.multiply(power, self._builder.bitcast(bits, _VECTOR))
        power = self.pick(self.compare(x, "<", self.constant(-87)), self.constant(0), power)
        return self.pick(self.no_number(x), x, power)


def block(body: Callable, returns: int = 0):
    """A function for generated source whose instructions ``body(emit, *arguments)`` emits.

    Args:
        body: gets arrays as their starts, integers as indices, floats as float32, tuples of
            `Lanes` as lists of vectors, and returns such a list.
        returns: its length; 0 for a body that returns nothing.
    """
    names = list(inspect.signature(body).parameters)[1:]
    result = types.UniTuple(Lanes, returns) if returns else types.void

    def kind(given):
        if isinstance(given, types.Integer):
            return types.int64
        return types.float32 if isinstance(given, types.Float) else given

    def build(context, builder, signature, values):
        arguments = []
        for given, value in zip(signature.args, values, strict=True):
            if isinstance(given, types.Array):
                arguments.append(context.make_array(given)(context, builder, value).data)
            elif isinstance(given, types.BaseTuple):
                arguments.append(cgutils.unpack_tuple(builder, value))
            else:
                arguments.append(value)
        vectors = body(Emit(builder), *arguments)
        if not returns:
            return context.get_dummy_value()
        return context.make_tuple(builder, signature.return_type, vectors)

    space = {"typed": lambda *given: (result(*map(kind, given)), build)}
    # An intrinsic must name its arguments.
    exec(f"def typer(context, {', '.join(names)}): return typed({', '.join(names)})", space)
    return intrinsic(space["typer"])


def function(name: str, arguments: str, lines: Sequence[str]) -> str:
    """Source of a function of the indented ``lines``."""
    return f"def {name}({arguments}):\n" + "".join(f" {line}\n" for line in lines)


class Source:
    """Functions of generated source and the blocks that they refer to.

    Args:
        file: the file that generates it.
    """

    def __init__(self, file: str):
        self._file = file
        self._text, self._called = [], []
        self._space = {"np": np, "LANES": LANES, "MASK": MASK}

    def block(self, name: str, body: Callable, returns: int = 0) -> None:
        """Add a `block`."""
        self._space[name] = block(body, returns)

    def function(self, name: str, arguments: str, lines: Sequence[str]) -> None:
        """Add a function of the indented ``lines``; those that it calls come before it."""
        self._text.append(function(name, arguments, lines))
        self._called.append(name)

    def kernel(self, name: str, arguments: str, lines: Sequence[str]) -> Callable:
        """The kernel of the indented ``lines``."""
        # Blocks are no part of the text by which numba finds the kernel on disk.
        files = b"".join(Path(file).read_bytes() for file in (self._file, __file__))
        stamp = f"# {hashlib.sha256(files).hexdigest()}\n"
        return numba_tools.generated(
            self._file,
            name,
            stamp + "".join(self._text) + function("NAME", arguments, lines),
            self._space,
            called=self._called,
        )


def whole_vectors(n: int) -> int:
    """``n`` rounded up to a multiple of `LANES`."""
    return -(-n // LANES) * LANES


_SUMS = 24
"""Vectors of sums that a product keeps in registers, of the 32 that AVX-512 has."""


def add_product(
    source: Source,
    name: str,
    left: Callable,
    n_rows: str | int,
    n_terms: str | int,
    width: int,
    start: str,
) -> None:
    """Add ``name(a, rows, b, at_b, bias, at_bias, out, at_out, n)``: out = start + A B.

    B and ``out`` are row-major with rows of ``width`` values, A's values are looked up one by one.
    All arrays are flat; the ``at_`` are where in them the matrices start.

    Args:
        source: where to add it.
        name: of the function.
        left: ``left(emit, rows, r, k)`` emits the index in ``a`` of A[r, k].
        n_rows: rows of A and ``out``; "n" for the argument.
        n_terms: columns of A and rows of B; "n" for the argument.
        width: columns of B, a multiple of `LANES`.
        start: "zero", "bias" (the same row for all) or "sum" (what ``out`` holds).
    """
    offsets = range(0, width, LANES)
    most = max(1, _SUMS // len(offsets))
    tile = 1 << (most.bit_length() - 1)
    if isinstance(n_rows, int):
        tile = min(tile, n_rows)

    def tiles(size: int, first: str, stop: str) -> list[str]:
        places = [(t, offset) for t in range(size) for offset in offsets]

        def begin(emit, bias, at_bias, out, at_out):
            if start == "zero":
                return [emit.constant(0)] * len(places)
            if start == "bias":
                return [emit.load(bias, at_bias, offset) for offset in offsets] * size
            return [emit.load(out, at_out, t * width + offset) for t, offset in places]

        def term(emit, a, rows, r, k, b, at_b, sums):
            row = [emit.load(b, at_b, offset) for offset in offsets]
            factors = [emit.splat(a, left(emit, rows, emit.sum(r, t), k)) for t in range(size)]
            pairs = [(factor, value) for factor in factors for value in row]
            return [emit.fused(*pair, s) for pair, s in zip(pairs, sums, strict=True)]

        def end(emit, out, at_out, sums):
            for (t, offset), s in zip(places, sums, strict=True):
                emit.store(out, at_out, t * width + offset, s)

        source.block(f"{name}_begin_{size}", begin, len(places))
        source.block(f"{name}_term_{size}", term, len(places))
        source.block(f"{name}_end_{size}", end)
        return [
            f"for r in range({first}, {stop}, {size}):",
            f" at = at_out + r * {width}",
            f" sums = {name}_begin_{size}(bias, at_bias, out, at)",
            f" for k in range({n_terms}):",
            f"  sums = {name}_term_{size}(a, rows, r, k, b, at_b + k * {width}, sums)",
            f" {name}_end_{size}(out, at, sums)",
        ]

    lines = [f"whole = {n_rows} // {tile} * {tile}", *tiles(tile, "0", "whole")]
    if not isinstance(n_rows, int) or n_rows % tile:
        lines += tiles(1, "whole", str(n_rows))
    source.function(name, "a, rows, b, at_b, bias, at_bias, out, at_out, n", lines)


def row_major(width: int) -> Callable:
    """``left`` of `add_product` for an A that lies in rows of ``width`` values."""
    return lambda emit, rows, r, k: emit.sum(emit.times(r, width), k)


def column_major(height: int) -> Callable:
    """``left`` of `add_product` for an A that lies in columns of ``height`` values."""
    return lambda emit, rows, r, k: emit.sum(emit.times(k, height), r)


def add_loss_gradient(source: Source, width: int) -> None:
    """Add ``loss_gradient(z, y, start, n, missing, share)``: logits become the loss's gradient.

    ``z`` are rows of ``width`` logits, -inf where there is no class; the loss is ``share`` times
    the sum of the cross-entropies of the first ``n`` rows with labels ``y[start:]``. The
    ``missing`` rows after them get no gradient.
    """
    offsets = range(0, width, LANES)

    def softmax(emit, z, at, share):
        values = [emit.load(z, at, offset) for offset in offsets]
        top = None
        for value in map(emit.largest, values):
            top = value if top is None else emit.pick(emit.compare(value, ">", top), value, top)
        values = [emit.exponential(emit.subtract(value, top)) for value in values]
        total = None
        for value in map(emit.total, values):
            total = value if total is None else emit.add(total, value)
        factor = emit.divide(emit.spread(share), total)
        for offset, value in zip(offsets, values, strict=True):
            emit.store(z, at, offset, emit.multiply(value, factor))

    source.block("softmax", softmax)
    lines = [
        "for s in range(n):",
        f" at = s * {width}",
        " softmax(z, at, share)",
        " z[at + y[start + s]] -= share",
        f"z[n * {width} : (n + missing) * {width}] = 0",
    ]
    source.function("loss_gradient", "z, y, start, n, missing, share", lines)


def add_update(source: Source) -> None:
    """Add ``update(weights, velocity, gradient, gradient_sum, lr, momentum)``, a step of SGD."""
    lines = [
        "for i in range(len(weights)):",
        " velocity[i] = momentum * velocity[i] + gradient[i]",
        " weights[i] -= lr * velocity[i]",
        "if len(gradient_sum):",
        " for i in range(len(weights)):",
        "  gradient_sum[i] += gradient[i]",
    ]
    arguments = "weights, velocity, gradient, gradient_sum, lr, momentum"
    source.function("update", arguments, lines)


def add_packing(source: Source, layers: Sequence[tuple[int, int]], before: int) -> None:
    """Add ``pack(flat, packed, absent)`` and ``unpack(packed, flat)``.

    Both copy a model between its flat layout and the packed one of the kernels, in which weights
    of a dense layer are transposed and its rows are of whole vectors. The last layer's biases of no
    class are ``absent``: -inf in a model, so that they get no share in the softmax; the rest is 0.

    Args:
        source: where to add them.
        layers: (inputs, outputs) of the dense layers in order.
        before: values before the dense layers, which stay as they are.
    """
    into = [f"packed[:{before}] = flat[:{before}]", f"packed[{before}:] = 0"]
    out = [f"flat[:{before}] = packed[:{before}]"]
    flat, packed = before, before
    for inputs, outputs in layers:
        width = whole_vectors(outputs)
        for lines, text in ((into, "packed[{p}] = flat[{f}]"), (out, "flat[{f}] = packed[{p}]")):
            weight = text.format(p=f"{packed} + i * {width} + o", f=f"{flat} + o * {inputs} + i")
            bias = text.format(
                p=f"{packed + inputs * width} + o", f=f"{flat + inputs * outputs} + o"
            )
            lines += [
                f"for o in range({outputs}):",
                f" for i in range({inputs}):",
                f"  {weight}",
                f" {bias}",
            ]
        flat, packed = flat + (inputs + 1) * outputs, packed + (inputs + 1) * width
    into.append(f"packed[{packed - width + outputs}:] = absent")
    source.function("pack", "flat, packed, absent", into)
    source.function("unpack", "packed, flat", out)


NONE = np.empty(0, np.float32)
"""An array that is not given."""


def fixed(array: np.ndarray) -> np.ndarray:
    """A flat view that cannot be written: of one type, so that a kernel is compiled once."""
    view = array.reshape(-1).view()
    view.flags.writeable = False
    return view


def check_vectors(model: np.ndarray, velocity: np.ndarray, gradient_sum: np.ndarray) -> None:
    """Raise ValueError if these are not of one length, float32 and contiguous."""
    vectors = [model, velocity, *([gradient_sum] if len(gradient_sum) else [])]
    if {(v.dtype.str, v.shape, v.flags.c_contiguous) for v in vectors} != {
        ("<f4", (len(model),), True)
    }:
        raise ValueError("model, velocity and gradient_sum must be float32 vectors of one length")


def checked_batches(
    batch_sizes: np.ndarray, rows: np.ndarray | None, n: int, y: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes of the batches, and rows and labels of the samples in the order of training, int64.

    Raises:
        ValueError: if they do not fit each other or ``n`` samples: kernels check nothing.
    """
    sizes = np.ascontiguousarray(batch_sizes, dtype=np.int64)
    rows = np.arange(n) if rows is None else np.ascontiguousarray(rows, dtype=np.int64)
    if (sizes < 1).any() or sizes.sum() != len(rows):
        raise ValueError(f"batches of {sizes} samples do not make up {len(rows)} samples")
    if len(y) != n or (rows < 0).any() or (rows >= n).any():
        raise ValueError(f"rows or {len(y)} labels do not fit {n} samples")
    labels = y[rows].astype(np.int64)
    if (labels < 0).any() or (labels >= n_classes).any():
        raise ValueError(f"labels are not of {n_classes} classes")
    return sizes, rows, labels
