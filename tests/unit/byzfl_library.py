"""The library byzfl, or a skipped test: it is no dependency of the package."""

import pytest

from arfl.aggregators import _byzfl


def part(name):
    """The module ``byzfl.<name>``."""
    if not _byzfl.installed():
        pytest.skip("byzfl is not installed: pip install byzfl")
    return _byzfl.load(name)
