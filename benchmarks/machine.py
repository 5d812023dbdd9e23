"""What a benchmark ran on, as one line."""

import os
import platform
from pathlib import Path

import torch


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def describe(threads):
    import numba

    return (
        f"{processor()}, {threads} of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, numba {numba.__version__}"
    )
