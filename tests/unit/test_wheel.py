"""The rules as a library: a wheel in an environment that has its dependencies alone."""

import importlib.metadata
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import importlib.util, sys
import numpy as np, torch
from arfl.aggregators import residual_reweighting
from arfl.flat import flatten, unflatten
states = [torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()
          for _ in range(5)]
models, form = flatten(states)
model, weights = residual_reweighting(models, delta=0.01)
assert unflatten(model, form).keys() == states[0].keys() and abs(weights.sum() - 1) < 1e-6
residual_reweighting(torch.randn(10, 50_000))
for name in ("snakemake", "pandas", "scipy", "sklearn", "matplotlib", "torchvision"):
    assert importlib.util.find_spec(name) is None, name
import arfl
print(arfl.__file__)
"""


def needed(name, extras=(), seen=None):
    """Names of a distribution's dependencies in this environment, and theirs."""
    seen = set() if seen is None else seen
    for line in importlib.metadata.requires(name) or ():
        requirement, _, marker = line.partition(";")
        dependency = re.match(r"[\w.-]+", requirement)[0].lower()
        if "extra ==" in marker or dependency in seen:
            continue
        try:
            importlib.metadata.distribution(dependency)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python
        seen.add(dependency)
        needed(dependency, seen=seen)
    return seen


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_with_the_dependencies_it_names(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
        check=True,
    )
    (wheel,) = tmp_path.glob("arfl-*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env").glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
        metadata = content.read(next(n for n in content.namelist() if n.endswith("/METADATA")))
    required = [
        line.removeprefix("Requires-Dist: ")
        for line in metadata.decode().splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    names = {re.match(r"[\w.-]+", line)[0] for line in required}
    assert names == {"torch", "numpy", "numba"}
    # Linked from this environment: what a package index would bring.
    for name in names | set().union(*map(needed, names)):
        for file in importlib.metadata.files(name):
            top = Path(file.parts[0])
            source = Path(importlib.metadata.distribution(name).locate_file(top))
            if ".." not in file.parts and top.name != "__pycache__" and source.exists():
                target = site / top
                if not target.exists():
                    target.symlink_to(source)
    done = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-c", PROGRAM],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "NUMBA_CACHE_DIR": str(tmp_path / "numba")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout
