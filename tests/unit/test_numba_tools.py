"""Generated kernels that are kept on disk."""

import os
import subprocess
import sys

KERNEL = """
import re, sys
import numpy as np
from arfl.kernels import numba_tools

source = (
    "def scale(x):\\n"
    " total = 0\\n"
    " for i in range(len(x)):\\n"
    f"  total += {sys.argv[1]} * x[i]\\n"
    " return total\\n"
    "def NAME(x):\\n"
    " return scale(x)\\n"
)
kernel = numba_tools.generated(numba_tools.__file__, "one", source, {}, called=["scale"])
assert kernel(np.arange(4)) == 6 * int(sys.argv[1])
(code,) = kernel.inspect_llvm().values()
print("\\n".join(re.findall(r"@[^ (]*scale[^ (]*", code)))
"""


def test_functions_of_two_kernels_have_names_of_their_own(tmp_path):
    """The linker takes the first function of a name, also where processes compiled them apart."""

    def names(factor):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", KERNEL, factor]
        return set(subprocess.check_output(command, text=True, env=environment).split())

    two, three = names("2"), names("3")
    assert two
    assert three
    assert not two & three
