"""The GPU's kernels as compiled, which needs no GPU, and as run, which is skipped without one.

Each in a process of its own: elsewhere in the tests the same kernels are interpreted on the CPU,
and Triton decides that once for a process.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

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
if sys.argv[3:4] == ["tiles"]:
    for n_clients in (65, 100):
        _gpu.trimmed_mean(torch.zeros(n_clients, 300), 1)
        _gpu.repeated_median(torch.zeros(n_clients, 300))
        _gpu.reweight(torch.zeros(n_clients, 300), "paper", 2.0, 0.1)
        _gpu.reweight(torch.zeros(n_clients, 300), "released", 2.0, 0.1)
# The same kernels whatever the number of parameters, and over tiles whatever the clients.
more = {"ten": 1, "tiles": 5}[sys.argv[3]] if sys.argv[3:] else 0
assert len({kernel.hash for kernel in compiled}) == 5 + more
tool = triton.knobs.nvidia.cuobjdump.path
for kernel in compiled:
    assert not kernel.metadata.enable_fp_fusion
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(kernel.asm["cubin"])
        binary.flush()
        command = [tool, "-res-usage", binary.name]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Room for the return addresses of the division's rare case; spilled values take far more.
    room = 64 if "_tiled" in report else 16
    assert int(re.search(r"STACK:(\\d+)", report)[1]) <= room, report
# A third to float64, not a float32's third: literals keep their precision.
assert "0d3FD5555555555555" in compiled[2].asm["ptx"]
"""


def python(code, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    paths = [str(Path(__file__).parent), environment.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
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


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_the_kernels_over_tiles_compile_and_keep_their_values_in_registers(architecture):
    python(COMPILE, architecture, "float32", "tiles")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")
def test_on_a_gpu_kernels_and_training_agree_with_the_cpu_and_never_wait():
    python(Path(__file__).with_name("gpu_checks.py").read_text(), "cuda")


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
