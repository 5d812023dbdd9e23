"""arfl: attack-resistant federated learning with residual-based reweighting, reproduced.

The package knows tensors and records and nothing of the workflow that calls it; ``python -m arfl``
is the door between the two.
"""

__version__ = "0.1.0"

__version__ = "0.1.0"
