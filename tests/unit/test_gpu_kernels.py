"""The GPU's kernels as compiled, which needs no GPU, and as run, which is skipped without one.

Each in a process of its own: elsewhere in the tests the same kernels are interpreted on the CPU,
and Triton decides that once for a process.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

# Not imported here, see above.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="PyTorch brings Triton on Linux only"
)

COMPILE = """
import re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from arfl.aggregators import _gpu

values = sys.argv[2]
cases = [
    (_gpu._reweight_kernel(5, "paper"), ["settings", "corrected_out", "sums_out"]),
    (_gpu._reweight_kernel(5, "released"), ["settings", "corrected_out", "sums_out"]),
    (_gpu._repeated_median_kernel(10), ["centre_out"]),
    (_gpu._trimmed_mean_kernel(10, 4), ["mean_out"]),
]
if sys.argv[3:]:
    cases = [(_gpu._reweight_kernel(10, "paper"), ["settings", "corrected_out", "sums_out"])]
float64 = ["settings", "sums_out"]
for kernel, arguments in cases:
    types = {name: "*fp64" if name in float64 else f"*{values}" for name in arguments}
    signature = {"models": f"*{values}", "n_parameters": "i32", **types, "WIDTH": "constexpr"}
    source = ASTSource(kernel, signature=signature, constexprs={"WIDTH": _gpu._THREADS})
    options = {"num_warps": _gpu._THREADS // 32, "enable_fp_fusion": False}
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    compiled = triton.compile(source, target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        report = subprocess.run(
            [tool, "-res-usage", binary.name], check=True, capture_output=True, text=True
        ).stdout
    # Room for one return address, of the division's rare case; spilled values take far more.
    assert int(re.search(r"STACK:(\\d+)", report)[1]) <= 16, report
    if arguments == ["centre_out"]:
        # A third to float64, not a float32's third: literals keep their precision.
        assert "0d3FD5555555555555" in compiled.asm["ptx"]
"""

RUN = """
import torch
from arfl import aggregators
from arfl.aggregators import _backend, _dense, _gpu

for n_clients in (1, 2, 7, 10, 16, 17, 40):
    for dtype in (torch.float32, torch.float64):
        models = torch.randn(n_clients, 20_011, dtype=dtype)
        models[:, 100:150] = models[:, 100:150].round()
        on_gpu = models.cuda()
        tolerance = 1e-6 if dtype == torch.float32 else 1e-10
        close = {"rtol": tolerance, "atol": tolerance}
        weights = torch.rand(n_clients)
        steps = [
            ("weighted_sum", (weights,)), ("trimmed_mean", ((n_clients - 1) // 3,)),
            ("repeated_median", ()),
        ]
        for step, options in steps:
            fast = getattr(_gpu, step)(
                on_gpu, *(o.cuda() if isinstance(o, torch.Tensor) else o for o in options)
            )
            torch.testing.assert_close(fast.cpu(), getattr(_dense, step)(models, *options), **close)
        for variant in ("paper", "released") if n_clients > 1 else ():
            _gpu.reweight(on_gpu, variant, 2.0, 0.1)
            torch.cuda.set_sync_debug_mode("error")
            corrected, sums = _gpu.reweight(on_gpu, variant, 2.0, 0.1)
            torch.cuda.set_sync_debug_mode("default")
            expected, expected_sums = _dense.reweight(models, variant, 2.0, 0.1)
            torch.testing.assert_close(corrected.cpu(), expected, **close)
            torch.testing.assert_close(sums.cpu(), expected_sums, rtol=1e-9, atol=1e-9)

models = torch.randn(10, 20_011, device="cuda")
assert _backend.backend(models) is _gpu
models[3, 7] = float("nan")
for name in ("fedavg", "median", "trimmed_mean", "repeated_median", "residual_reweighting"):
    fast, fast_weights = getattr(aggregators, name)(models)
    slow, slow_weights = getattr(aggregators, name)(models.cpu())
    torch.testing.assert_close(fast.cpu(), slow, rtol=1e-5, atol=1e-6)
    if slow_weights is not None:
        torch.testing.assert_close(fast_weights.cpu(), slow_weights, rtol=1e-5, atol=1e-7)
        assert fast_weights[3] == 0
"""


def python(code, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("architecture", "values"), [("90", "fp32"), ("80", "fp64")])
def test_kernels_compile_for_nvidia_gpus_and_keep_all_values_in_registers(architecture, values):
    python(COMPILE, architecture, values)


@pytest.mark.slow
def test_the_kernel_for_ten_clients_keeps_all_values_in_registers():
    python(COMPILE, "90", "fp32", "ten")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")
def test_kernels_on_the_gpu_agree_with_plain_torch_and_never_wait_for_it():
    python(RUN)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here Triton works")
def test_where_triton_cannot_run_a_warning_says_why_and_plain_torch_remains():
    said = python(
        "import warnings\n"
        "from arfl.aggregators import _backend\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    assert _backend._gpu_module() is None\n"
        "print(*(warning.message for warning in caught))\n"
    )
    assert "aggregation runs in plain torch" in said
    assert "Triton cannot compile for this GPU" in said


def test_without_triton_plain_torch_remains():
    said = python(
        "import sys, warnings\n"
        "sys.modules['triton'] = None\n"
        "from arfl.aggregators import _backend\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    assert _backend._gpu_module() is None\n"
        "print(*(warning.message for warning in caught))\n"
    )
    assert "Triton cannot be imported" in said
