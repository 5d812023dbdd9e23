"""Every dependency is used, every import declared, and docs/dependencies.md names them all."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Distributions whose module has another name.
MODULES = {"scikit-learn": "sklearn", "pyyaml": "yaml"}
# Started or named in a file, not imported: what names it there.
STARTED = {
    "snakemake-executor-plugin-slurm": ("profiles/slurm/config.yaml", "executor: slurm"),
    "pytest-xdist": ("pyproject.toml", "-n 2 --dist loadfile"),
    "mypy": ("Makefile", "mypy"),
    "ruff": ("Makefile", "ruff check"),
    "snakefmt": ("Makefile", "snakefmt --check"),
    "mkdocs": ("Makefile", "mkdocs build"),
    "mkdocs-material": ("mkdocs.yml", "name: material"),
    "pygments": (".snakemake-workflow-catalog.yml", "report: true"),
    "byzfl": ("src/arfl/aggregators/_byzfl.py", '"byzfl'),
}


def names(requirements):
    return {re.match(r"[\w-]+", line)[0] for line in requirements}


CORE = names(PROJECT["project"]["dependencies"])
EXTRAS = set().union(*map(names, PROJECT["project"]["optional-dependencies"].values()))
GROUPS = set().union(*map(names, PROJECT["dependency-groups"].values()))


def imported(*folders):
    """Top-level modules that the files of these folders import, also inside functions."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    for path in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]:
        found |= set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", sorted(CORE | EXTRAS | GROUPS))
def test_a_dependency_is_used(name):
    if name in STARTED:
        file, words = STARTED[name]
        assert words in (ROOT / file).read_text(encoding="utf-8")
        return
    folders = ("src",) if name in CORE | EXTRAS else ("tests",)
    assert MODULES.get(name, name) in imported(*folders)


def test_the_package_imports_nothing_undeclared():
    declared = {MODULES.get(name, name) for name in CORE | EXTRAS}
    # These come with PyTorch for GPUs, numba, Jinja and Snakemake.
    brought = {"triton", "llvmlite", "markupsafe", "snakemake_interface_logger_plugins"}
    assert imported("src") - declared - brought - {"arfl"} == set()


def test_the_table_of_dependencies_is_whole():
    table = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8").split("## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")][1:]
    told = {name.strip() for row in rows for name in row.split(",")}
    assert told == CORE | EXTRAS | GROUPS
