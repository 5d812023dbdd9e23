"""A short hash of the code that decides a cell's numbers; comments and docstrings do not count.

The workflow passes it to the training rule as a parameter, so that a cell is trained again when
the code that it runs has changed its meaning, and not when a plot or a comment has. Standard
library only: the Snakefile imports it.
"""

import ast
import functools
import hashlib
from pathlib import Path

from arfl.errors import UserError

_PACKAGE = Path(__file__).parent
# These render or carry results; what they do cannot change a trained number.
_OUTSIDE = frozenset({"arfl", "arfl.errors", "arfl.files", "arfl.record"})


def _file_of(module: str) -> Path | None:
    base = _PACKAGE.parent.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imported(node: ast.AST) -> set[str]:
    """The names that a statement or a call imports; some of them may be no modules."""
    match node:
        case ast.ImportFrom(module=str(module), level=0):
            return {module, *(f"{module}.{alias.name}" for alias in node.names)}
        case ast.Import():
            return {alias.name for alias in node.names}
        # what is imported at its first use
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(str(module))]):
            return {module}
    return set()


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _contents(node: object) -> object:
    """A syntax tree as nested tuples, without what is absent or empty.

    Python's versions add empty fields to the tree, and differ in whether ast.dump prints them.
    """
    if isinstance(node, ast.AST):
        given = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return type(node).__name__, *((name, _contents(value)) for name, value in given)
    return [_contents(part) for part in node] if isinstance(node, list) else node


@functools.cache
def _parse(module: str) -> tuple[str, tuple[str, ...]]:
    """The module's code without docstrings, and the arfl modules that it imports."""
    path = _file_of(module)
    if path is None:
        raise UserError(f"there is no module {module} in {_PACKAGE}")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}; correct the file") from None
    imported = set()
    for node in ast.walk(tree):
        imported |= _imported(node)
        if isinstance(getattr(node, "body", None), list):
            # Docstrings, also those below attributes.
            node.body = [part for part in node.body if not _is_text(part)]
    ours = (name for name in imported if name.split(".")[0] == "arfl" and _file_of(name))
    # A package's front door names all its rules: following it would tie each cell to every rule.
    follow = () if path.name == "__init__.py" else tuple(sorted(ours))
    return repr(_contents(tree)), follow


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
    # Without an attack, what "no attack" does is the base class's business.
    attack = "_base" if attack_rule is None else attack_rule
    return fingerprint(
        "arfl.federation", f"arfl.aggregators.{aggregator_rule}", f"arfl.attacks.{attack}"
    )
