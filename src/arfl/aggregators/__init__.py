"""Aggregation rules, one file each, as plain functions on a (K, N) tensor, one model a row::

    from arfl.aggregators import residual_reweighting

    model, weights = residual_reweighting(models, variant="paper", lam=2.0, delta=0.1)

Each leaves out rows that hold a NaN or an infinity; see `arfl.aggregation` for what a rule is.
"""

from arfl import registry
from arfl.aggregation import NoFiniteModelError
from arfl.kernels.backend import compile_kernels

# The functions under their names; each hides the submodule of the same name.
for _name in registry.names("aggregators"):
    globals()[_name] = registry.get("aggregators", _name)

__all__ = ["NoFiniteModelError", "compile_kernels", *registry.names("aggregators")]
