"""Convolution, 2x2 max pooling and ReLU of many clients' small networks on a CPU.

With four or eight channels PyTorch's convolutions reach a tenth or so of a core's speed. Here
the lanes of the vector unit are samples: a batch is cut into blocks of `LANES` samples whose values
lie side by side, and what one sample needs is done for all lanes by one instruction. Kernels are
generated for the sizes of a layer, with the taps of the convolution written out so that sums stay
in registers.

Importing this imports numba. `arfl.models` uses it on the CPU, and PyTorch's operations elsewhere
or without numba; the tests hold one against the other.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from arfl import compiled

LANES = 16

_GROUP = 2
"""Output channels whose sums stand in registers at once, four positions of a pool each."""
_PAIR = 2
"""Neighbouring pools that one pass of the backward kernel takes."""


class _Shape:
    """Sizes of a layer: square images, square kernels, no padding."""

    def __init__(self, channels: int, width: int, outputs: int, kernel: int):
        positions = width - kernel + 1
        if positions < 1 or positions % (2 * _PAIR) or outputs % _GROUP:
            raise ValueError(
                f"a {kernel}x{kernel} convolution of {width}x{width} images to {outputs} channels: "
                f"its rows must be of a multiple of {2 * _PAIR} positions, and its channels even"
            )
        self.channels, self.width, self.outputs, self.kernel = channels, width, outputs, kernel
        self.taps = kernel * kernel
        self.pooled = positions // 2
        self.image, self.map = width * width * LANES, self.pooled * self.pooled * LANES

    def name(self, step: str) -> str:
        return f"{step}_{self.channels}x{self.width}_{self.outputs}x{self.kernel}"

    def pixel(self, row: int, column: int) -> int:
        """Offset of a pixel's lanes from those of the pixel at (0, 0)."""
        return (row * self.width + column) * LANES


def _forward_source(shape: _Shape) -> str:
    """Source of one block's forward step ``(x, weight, bias, out, choice)`` of flat arrays.

    ``out`` are the pooled maps after ReLU, ``choice`` which of a pool's four positions (0 to 3)
    each value is, -1 where ReLU is flat: where the gradient goes.
    """
    sums = [(o, p) for o in range(_GROUP) for p in range(4)]
    lines = [
        f"sums = np.empty({len(sums) * LANES}, np.float32)",
        f"for y in range({shape.pooled}):",
        f" for z in range({shape.pooled}):",
        f"  for group in range({shape.outputs // _GROUP}):",
        "   for lane in range(LANES):",
        *(
            f"    sums[{s * LANES} + lane] = bias[group * {_GROUP} + {o}]"
            for s, (o, _) in enumerate(sums)
        ),
        f"   for c in range({shape.channels}):",
        f"    at = c * {shape.image} + y * {shape.pixel(2, 0)} + z * {shape.pixel(0, 2)}",
        f"    tap = (group * {_GROUP * shape.channels} + c) * {shape.taps}",
        "    for lane in range(LANES):",
        *(f"     s{o}_{p} = sums[{s * LANES} + lane]" for s, (o, p) in enumerate(sums)),
    ]
    for row in range(shape.kernel + 1):
        for column in range(shape.kernel + 1):
            lines.append(f"     value = x[at + {shape.pixel(row, column)} + lane]")
            for o, p in sums:
                i, j = row - p // 2, column - p % 2
                if 0 <= i < shape.kernel and 0 <= j < shape.kernel:
                    tap = o * shape.channels * shape.taps + i * shape.kernel + j
                    lines.append(f"     s{o}_{p} += weight[tap + {tap}] * value")
    lines += [
        *(f"     sums[{s * LANES} + lane] = s{o}_{p}" for s, (o, p) in enumerate(sums)),
        "   for lane in range(LANES):",
    ]
    for o in range(_GROUP):
        place = f"(group * {_GROUP} + {o}) * {shape.map} + (y * {shape.pooled} + z) * LANES + lane"
        lines += [f"    best, chosen = sums[{4 * o * LANES} + lane], np.float32(0)"]
        for p in range(1, 4):
            lines += [
                f"    value = sums[{(4 * o + p) * LANES} + lane]",
                # A value that is not a number wins, as in PyTorch: it must not vanish.
                "    wins = (value > best) | (value != value)",
                f"    chosen = np.float32({p}) if wins else chosen",
                "    best = value if wins else best",
            ]
        lines += [
            "    flat = best <= np.float32(0)",
            f"    out[{place}] = np.float32(0) if flat else best",
            f"    choice[{place}] = np.float32(-1) if flat else chosen",
        ]
    return _function("step", "x, weight, bias, out, choice", lines)


def _backward_source(shape: _Shape, with_input: bool) -> str:
    """Source of one block's backward step, which adds to flat arrays of lanes.

    ``(x, weight, choice, gradient, d_weight, d_bias[, d_x])``; only chosen positions have any
    gradient, so that four times as many products are formed as count, but all by vectors.
    """
    # position in the pair, row and column within the pair's pools
    places = [(u * 4 + p, p // 2, 2 * u + p % 2) for u in range(_PAIR) for p in range(4)]
    fetch = [f"     g{n} = chosen[{n * LANES} + lane]" for n, _, _ in places]
    lines = [
        f"chosen = np.empty({len(places) * LANES}, np.float32)",
        f"for o in range({shape.outputs}):",
        f" for y in range({shape.pooled}):",
        f"  for z in range({shape.pooled // _PAIR}):",
        f"   pool = o * {shape.map} + (y * {shape.pooled} + z * {_PAIR}) * LANES",
        "   for lane in range(LANES):",
        "    total = np.float32(0)",
    ]
    for u in range(_PAIR):
        lines += [
            f"    g = gradient[pool + {u * LANES} + lane]",
            f"    where = choice[pool + {u * LANES} + lane]",
            "    total += g if where >= np.float32(0) else np.float32(0)",
        ]
        for p in range(4):
            kept = f"g if where == np.float32({p}) else np.float32(0)"
            lines.append(f"    chosen[{(u * 4 + p) * LANES} + lane] = {kept}")
    lines += [
        "    d_bias[o * LANES + lane] += total",
        f"   for c in range({shape.channels}):",
        f"    at = c * {shape.image} + y * {shape.pixel(2, 0)} + z * {shape.pixel(0, 2 * _PAIR)}",
        f"    tap = (o * {shape.channels} + c) * {shape.taps}",
        "    for lane in range(LANES):",
        *fetch,
    ]
    for i in range(shape.kernel):
        for j in range(shape.kernel):
            target = f"d_weight[(tap + {i * shape.kernel + j}) * LANES + lane]"
            lines.append(f"     total = {target}")
            for n, row, column in places:
                pixel = shape.pixel(row + i, column + j)
                lines.append(f"     total += g{n} * x[at + {pixel} + lane]")
            lines.append(f"     {target} = total")
    if with_input:
        lines += ["    for lane in range(LANES):", *fetch]
        for row in range(shape.kernel + 1):
            for column in range(shape.kernel + 2 * _PAIR - 1):
                target = f"d_x[at + {shape.pixel(row, column)} + lane]"
                lines.append(f"     total = {target}")
                for n, y, z in places:
                    i, j = row - y, column - z
                    if 0 <= i < shape.kernel and 0 <= j < shape.kernel:
                        tap = i * shape.kernel + j
                        lines.append(f"     total += g{n} * weight[tap + {tap}]")
                lines.append(f"     {target} = total")
    arguments = "x, weight, choice, gradient, d_weight, d_bias" + (", d_x" if with_input else "")
    return _function("step", arguments, lines)


def _function(name: str, arguments: str, lines: list[str]) -> str:
    return f"def {name}({arguments}):\n" + "".join(f" {line}\n" for line in lines)


# Products may be fused into sums; nothing else of the arithmetic may change.
_OPTIONS = {"fastmath": {"contract"}}


@functools.lru_cache(maxsize=16)
def _forward_kernel(shape_sizes: tuple[int, ...]):
    """The step over blocks: ``(start, stop, x, weight, bias, out, choice)``.

    Blocks are counted over all clients; ``x``, ``out`` and ``choice`` are (K, blocks, values),
    ``weight`` (K, weights) and ``bias`` (K, outputs).
    """
    shape = _Shape(*shape_sizes)
    lines = [
        "for block in range(start, stop):",
        " k, n = block // x.shape[1], block % x.shape[1]",
        " step(x[k, n], weight[k], bias[k], out[k, n], choice[k, n])",
    ]
    arguments = "start, stop, x, weight, bias, out, choice"
    return compiled.generated(
        __file__,
        shape.name("forward"),
        _forward_source(shape) + _function("NAME", arguments, lines),
        {"np": np, "LANES": LANES},
        inlined=("step",),
        **_OPTIONS,
    )


@functools.lru_cache(maxsize=16)
def _backward_kernel(shape_sizes: tuple[int, ...], with_input: bool):
    """The step over clients: ``(start, stop, x, weight, choice, gradient, d_weight, d_bias, d_x)``.

    ``d_x`` is (K, blocks, values) of zeros, or empty without ``with_input``.
    """
    shape = _Shape(*shape_sizes)
    n_weights = shape.outputs * shape.channels * shape.taps
    given = "x[k, n], weight[k], choice[k, n], gradient[k, n], weights, biases"
    lines = [
        f"weights = np.empty({n_weights * LANES}, np.float32)",
        f"biases = np.empty({shape.outputs * LANES}, np.float32)",
        "for k in range(start, stop):",
        " weights[:] = 0",
        " biases[:] = 0",
        " for n in range(x.shape[1]):",
        f"  step({given}{', d_x[k, n]' if with_input else ''})",
        f" for i in range({n_weights}):",
        "  d_weight[k, i] = weights[i * LANES : (i + 1) * LANES].sum()",
        f" for i in range({shape.outputs}):",
        "  d_bias[k, i] = biases[i * LANES : (i + 1) * LANES].sum()",
    ]
    arguments = "start, stop, x, weight, choice, gradient, d_weight, d_bias, d_x"
    return compiled.generated(
        __file__,
        shape.name("backward_input" if with_input else "backward"),
        _backward_source(shape, with_input) + _function("NAME", arguments, lines),
        {"np": np, "LANES": LANES},
        inlined=("step",),
        **_OPTIONS,
    )


def to_lanes(x: Tensor) -> Tensor:
    """(K, B, C, H, W) -> (K, blocks, C, H, W, LANES); the last block's free lanes are zero."""
    missing = -x.shape[1] % LANES
    if missing:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
    return x.unflatten(1, (-1, LANES)).movedim(2, -1).contiguous()


def from_lanes(x: Tensor, n_samples: int) -> Tensor:
    """(K, blocks, C, H, W, LANES) -> (K, B, C * H * W), the reverse of `to_lanes`, flattened."""
    return x.movedim(-1, 2).flatten(1, 2)[:, :n_samples].flatten(2)


def _run(kernel, arrays: tuple[np.ndarray, ...], n: int) -> None:
    """Call ``kernel(start, stop, *arrays)`` for all of 0 to n - 1; compile it first if need be."""
    if not kernel.signatures:
        compiled.compile_alone(lambda: kernel(0, 0, *arrays), kernel, kernel.__name__)
    width = -(-n // torch.get_num_threads())
    compiled.over_chunks(n, width, lambda: lambda _, start, stop: kernel(start, stop, *arrays))


class _ConvolvePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        clients, blocks, channels, width = x.shape[:4]
        outputs, kernel = weight.shape[1], weight.shape[-1]
        ctx.sizes = (channels, width, outputs, kernel)
        shape = _Shape(*ctx.sizes)
        x, weight, bias = (tensor.detach().contiguous() for tensor in (x, weight, bias))
        out = x.new_empty(clients, blocks, outputs, shape.pooled, shape.pooled, LANES)
        choice = torch.empty_like(out)
        arrays = (
            x.flatten(2).numpy(),
            weight.flatten(1).numpy(),
            bias.numpy(),
            out.flatten(2).numpy(),
            choice.flatten(2).numpy(),
        )
        _run(_forward_kernel(ctx.sizes), arrays, clients * blocks)
        ctx.save_for_backward(x, weight, choice)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        x, weight, choice = ctx.saved_tensors
        with_input = ctx.needs_input_grad[0]
        d_weight = torch.empty_like(weight)
        d_bias = weight.new_empty(weight.shape[:2])
        d_x = torch.zeros_like(x) if with_input else x.new_empty(0, 0, 0)
        arrays = (
            x.flatten(2).numpy(),
            weight.flatten(1).numpy(),
            choice.flatten(2).numpy(),
            gradient.contiguous().flatten(2).numpy(),
            d_weight.flatten(1).numpy(),
            d_bias.numpy(),
            d_x.flatten(2).numpy(),
        )
        _run(_backward_kernel(ctx.sizes, with_input), arrays, len(x))
        return (d_x if with_input else None), d_weight, d_bias


def convolve_pool(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU of the 2x2 max pooling of a convolution, each client by its own weights.

    Differentiable once. The results are PyTorch's to float32 rounding; where several positions of a
    pool are equal the first takes the gradient, as in PyTorch.

    Args:
        x: (K, blocks, C, H, H, LANES) float32 on the CPU, from `to_lanes` or a layer before.
        weight: (K, O, C, k, k) float32, O even.
        bias: (K, O) float32.

    Returns:
        (K, blocks, O, P, P, LANES) with P = (H - k + 1) / 2.

    Raises:
        ValueError: if H - k + 1 is no multiple of four, O is odd, or a type is not float32.
    """
    if {x.dtype, weight.dtype, bias.dtype} != {torch.float32}:
        raise ValueError(f"float32 is asked for, got {x.dtype}, {weight.dtype}, {bias.dtype}")
    return _ConvolvePool.apply(x, weight, bias)
