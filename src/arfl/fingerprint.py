"""A short hash of the code that decides a cell's numbers.

Comments, docstrings, annotations and the texts of errors, warnings and log lines do not count. The
workflow passes it to the training rule as a parameter, so that a cell is trained again when
the code that it runs has changed its meaning, and not when a plot or a comment has. Standard
library only: the Snakefile imports it.
"""

import ast
import functools
import hashlib
from pathlib import Path

from arfl import libraries
from arfl.errors import UserError

_PACKAGE = Path(__file__).parent
# These find, render or carry things; what they do cannot change a trained number.
_OUTSIDE = frozenset(
    {"arfl", "arfl.errors", "arfl.files", "arfl.libraries", "arfl.record", "arfl.registry"}
)
_BY_DIGEST = frozenset({"arfl.dataset", "arfl.partition"})
"""What these make enters a cell's record by a digest of its own."""
_BY_TORCH = frozenset({"arfl.torch_training", "arfl.optimizers"})
_SPEAKING = frozenset({"warn", "UserError", "ValueError"})
_SPEAKERS = frozenset({"warnings", "logging", "fallback"})
"""Functions, and modules with functions, whose arguments are texts for people."""


_SILENT = frozenset({"annotation", "returns", "type_comment", "msg"})
"""Fields of a syntax tree that say something to readers and type checkers alone."""
_BLOCKS = ("body", "orelse", "finalbody")


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


def _speaks(node: ast.AST) -> bool:
    """Whether a node does nothing but say something: a raised error, a warning, a log line."""
    if isinstance(node, ast.Raise):
        return True
    match node:
        # By the module: a rule may well call a method of its own `error`.
        case ast.Call(func=ast.Attribute(value=ast.Name(of), attr=name)) if of in _SPEAKERS:
            return name in {"warn", "debug", "info", "warning", "error"}
        case ast.Call(func=ast.Name(name)):
            return name in _SPEAKING
    return False


def _says_only(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, a warning or a log line."""
    return _is_text(statement) or (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and _speaks(statement.value)
    )


def _without_annotation(statement: ast.stmt) -> ast.stmt:
    """A variable's assignment, annotated or not, in one form."""
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return ast.Assign([statement.target], statement.value)
    return statement


def _strip(node: ast.AST) -> None:
    """Drop what does not count from a node's blocks of statements."""
    for block in _BLOCKS:
        statements = getattr(node, block, None)
        if isinstance(statements, list):
            kept = [part for part in statements if not _says_only(part)]
            # In a class an annotation makes a field.
            if not isinstance(node, ast.ClassDef):
                kept = [_without_annotation(part) for part in kept]
            setattr(node, block, kept)


def _contents(node: object) -> object:
    """A syntax tree as nested tuples, without what is absent or empty, annotations and messages.

    Python's versions add empty fields to the tree, and differ in whether ast.dump prints them.
    """
    if isinstance(node, ast.AST):
        if _speaks(node):
            # That an error is raised counts, and what kind; not what it says.
            raised = getattr(node, "exc", None)
            kind = getattr(raised, "func", raised)
            return type(node).__name__, _contents(kind)
        given = [
            (name, value)
            for name, value in ast.iter_fields(node)
            if value not in (None, []) and name not in _SILENT
        ]
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
        _strip(node)
    ours = (name for name in imported if name.split(".")[0] == "arfl" and _file_of(name))
    # A package's front door names all its rules: following it would tie each cell to every rule.
    follow = () if path.name == "__init__.py" else tuple(sorted(ours))
    return repr(_contents(tree)), follow


def check_syntax(module: str) -> None:
    """Refuse a module that is no Python.

    Raises:
        UserError: naming its file and line.
    """
    _parse(module)


def _tables(module: str) -> list[Path]:
    """Files beside the module that are no code and that its code names: it reads them."""
    code = _parse(module)[0]
    beside = sorted(_file_of(module).parent.iterdir())
    return [p for p in beside if p.is_file() and p.suffix != ".py" and repr(p.name) in code]


@functools.cache
def fingerprint(*modules: str, without: str = "", outside: frozenset[str] = frozenset()) -> str:
    """Hash of the modules and of every arfl module that they import, directly or not.

    Args:
        modules: dotted names, for example ``arfl.federation``.
        without: modules whose name ends so are left out, ``_cpu`` or ``_gpu``.
        outside: further modules that are left out.

    Returns:
        12 hexadecimal digits.
    """
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        left_out = module in _OUTSIDE | outside or (without and module.endswith(without))
        if module not in seen and not left_out:
            seen.add(module)
            waiting += _parse(module)[1]
    digest = hashlib.sha256()
    for module in sorted(seen):
        digest.update(module.encode())
        digest.update(_parse(module)[0].encode())
        for table in _tables(module):
            digest.update(table.read_bytes())
    return digest.hexdigest()[:12]


def of_cell(network: str, attack_rule: str | None, aggregator_rule: str, device: str) -> str:
    """Fingerprint of training one cell: the core, its network, its attack and its rule.

    Args:
        network: file of `arfl.networks`.
        attack_rule: file of `arfl.attacks`; None without an attack.
        aggregator_rule: file of `arfl.aggregators`, or a name of `arfl.libraries`, whose installed
            version then counts.
        device: "cpu" or "cuda"; kernels of the other do not count, nor does training by PyTorch
            where the network has a compiled one, which then runs (a record names its backends).
    """
    library, of_library, _ = aggregator_rule.partition("/")
    rule = f"_{library}" if of_library else aggregator_rule
    own = [f"arfl.networks.{network}", f"arfl.aggregators.{rule}"]
    if attack_rule is not None:
        own.append(f"arfl.attacks.{attack_rule}")
    if device == "cuda" and _file_of(f"arfl.kernels.{network}_gpu") is not None:
        own.append(f"arfl.kernels.{network}_gpu")
    without = "_gpu" if device == "cpu" else "_cpu"
    outside = _BY_DIGEST
    if device == "cpu" and _file_of(f"arfl.kernels.{network}_cpu") is not None:
        outside |= _BY_TORCH
    core = ("arfl.numerics", "arfl.federation")
    code = fingerprint(*core, *own, without=without, outside=outside)
    if not of_library:
        return code
    text = f"{code} {aggregator_rule} {libraries.version(library)}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
