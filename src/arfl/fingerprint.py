"""A short hash of the code that decides a cell's numbers; comments and docstrings do not count.

The workflow passes it to the training rule as a parameter, so that a cell is trained again when
the code that it runs has changed its meaning, and not when a plot or a comment has. Standard
library only: the Snakefile imports it.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).parent
# These render or carry results; what they do cannot change a trained number.
_OUTSIDE = frozenset({"arfl", "arfl.errors", "arfl.files", "arfl.record"})


def _file_of(module: str) -> Path | None:
    base = _PACKAGE.parent.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.cache
def _parse(module: str) -> tuple[str, tuple[str, ...]]:
    """The module's code without docstrings, and the arfl modules that it imports."""
    path = _file_of(module)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module)
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
    ours = (name for name in imported if name.split(".")[0] == "arfl" and _file_of(name))
    # A package's front door names all its rules: following it would tie each cell to every rule.
    follow = () if path.name == "__init__.py" else tuple(sorted(ours))
    return ast.dump(tree), follow


@functools.cache
def fingerprint(*modules: str) -> str:
    """Hash of the modules and of every arfl module that they import, directly or not.

    Args:
        modules: dotted names, for example ``arfl.federation``.

    Returns:
        12 hexadecimal digits.
    """
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen and module not in _OUTSIDE:
            seen.add(module)
            waiting += _parse(module)[1]
    digest = hashlib.sha256()
    for module in sorted(seen):
        digest.update(module.encode())
        digest.update(_parse(module)[0].encode())
    return digest.hexdigest()[:12]


def of_cell(attack_rule: str | None, aggregator_rule: str) -> str:
    """Fingerprint of training one cell: the core, its attack and its aggregator."""
    rules: Iterable[str] = [f"arfl.aggregators.{aggregator_rule}"]
    if attack_rule is not None:
        rules = [*rules, f"arfl.attacks.{attack_rule}"]
    return fingerprint("arfl.federation", *rules)
