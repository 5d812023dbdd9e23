"""The examples in the docstrings are run."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import arfl

SOURCE = Path(arfl.__file__).parent
WITH_EXAMPLES = sorted(
    "arfl." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def examples(module):
    """Of all that a module defines, also of what a decorator made."""
    finder = doctest.DocTestFinder()
    for name, value in vars(module).items():
        defined = inspect.isfunction(value) or inspect.isclass(value)
        if defined and value.__module__ == module.__name__:
            found = finder.find(value, f"{module.__name__}.{name}", False, vars(module) | {})
            yield from (test for test in found if test.examples)


def test_every_rule_has_an_example():
    from arfl import registry

    rules = {f"arfl.aggregators.{name}" for name in registry.names("aggregators")}
    assert rules <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    tests = list(examples(importlib.import_module(name)))
    assert tests
    for test in tests:
        said = []
        outcome = doctest.DocTestRunner().run(test, out=said.append)
        assert not outcome.failed, "".join(said)
