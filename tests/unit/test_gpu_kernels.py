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

# The rules' own launches, as far as they go without a GPU: Triton is told of one, and compiles.
COMPILE = """
import re, subprocess, sys, tempfile
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from arfl.kernels import aggregation_gpu as _gpu

class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device):
        return 0

driver.set_active(Driver())
launch = JITFunction.run
compiled = []

def only_compile(kernel, *arguments, warmup, **options):
    compiled.append(launch(kernel, *arguments, warmup=True, **options))

JITFunction.run = only_compile
for n_parameters in (1, 300):
    models = torch.zeros(5, n_parameters, dtype=getattr(torch, sys.argv[2]))
    _gpu.weighted_sum(models, torch.ones(5))
    _gpu.trimmed_mean(models, 1)
    _gpu.repeated_median(models)
    _gpu.reweight(models, "paper", 2.0, 0.1)
    _gpu.reweight(models, "released", 2.0, 0.1)
if sys.argv[3:]:
    _gpu.reweight(torch.zeros(10, 300), "paper", 2.0, 0.1)
# The same kernels whatever the number of parameters.
assert len({kernel.hash for kernel in compiled}) == 5 + len(sys.argv[3:])
tool = triton.knobs.nvidia.cuobjdump.path
for kernel in compiled:
    assert not kernel.metadata.enable_fp_fusion
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(kernel.asm["cubin"])
        binary.flush()
        command = [tool, "-res-usage", binary.name]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Room for one return address, of the division's rare case; spilled values take far more.
    assert int(re.search(r"STACK:(\\d+)", report)[1]) <= 16, report
# A third to float64, not a float32's third: literals keep their precision.
assert "0d3FD5555555555555" in compiled[2].asm["ptx"]
"""

RUN = """
import torch
from arfl import aggregators
from arfl.aggregators import _steps as _dense
from arfl.kernels import aggregation_gpu as _gpu
from arfl.kernels import backend as _backend

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


@pytest.mark.parametrize(("architecture", "values"), [("90", "float32"), ("80", "float64")])
def test_kernels_compile_for_nvidia_gpus_and_keep_all_values_in_registers(architecture, values):
    python(COMPILE, architecture, values)


@pytest.mark.slow
def test_the_kernel_for_ten_clients_keeps_all_values_in_registers():
    python(COMPILE, "90", "float32", "ten")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")
def test_kernels_on_the_gpu_agree_with_plain_torch_and_never_wait_for_it():
    python(RUN)


def test_where_triton_cannot_run_a_warning_says_why_and_plain_torch_remains():
    said = python(
        "import os, warnings\n"
        "os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "from arfl.kernels import backend as _backend\n"
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
        "from arfl.kernels import backend as _backend\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    assert _backend._gpu_module() is None\n"
        "print(*(warning.message for warning in caught))\n"
    )
    assert "Triton cannot be imported" in said
