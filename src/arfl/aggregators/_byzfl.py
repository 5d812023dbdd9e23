"""Aggregators and pre-aggregators of the library byzfl as rules: ``byzfl/MultiKrum``.

byzfl (Gonzalez et al., "ByzFL: research framework for robust federated learning", 2025) is an
optional dependency. It aggregates gradients: its classes get the clients' updates, model minus
global model, in float32, and the global model is added to what they return.
"""

import functools
import importlib
import inspect
import sys
import types

import torch

from arfl import libraries
from arfl.aggregation import InRounds
from arfl.errors import UserError

_F = "f"
_MEMORY = "m"
"""What CenteredClipping keeps from round to round: its last result."""


def installed() -> bool:
    """Whether byzfl can be imported."""
    return libraries.folder_of("byzfl") is not None


@functools.cache
def load(part: str) -> types.ModuleType:
    """The module ``byzfl.<part>``, without all else that importing byzfl loads.

    Its front door imports benchmarks, seaborn and torchvision, which takes longer than a short cell
    trains.

    Raises:
        UserError: if byzfl is not installed.
    """
    libraries.classes("byzfl")
    if "byzfl" in sys.modules:
        return importlib.import_module(f"byzfl.{part}")
    package = types.ModuleType("byzfl")
    package.__path__ = [str(libraries.folder_of("byzfl"))]
    sys.modules["byzfl"] = package
    try:
        return importlib.import_module(f"byzfl.{part}")
    finally:
        del sys.modules["byzfl"]


def _options_of(chain: tuple[type, ...]) -> dict[str, object]:
    """Option -> default of the classes' constructors; they share ``f``."""
    options = {}
    for link in chain:
        for name, parameter in inspect.signature(link).parameters.items():
            if name in options and name != _F:
                raise UserError(f"byzfl: two of the classes have an option {name!r}; use one")
            if name != _MEMORY:
                options[name] = parameter.default
    # By default the true number of attackers, which each round's context says.
    return options | ({_F: None} if _F in options else {})


class _InRounds(InRounds):
    chain: tuple[type, ...] = ()
    name = ""

    def __init__(self, **options):
        defaults = _options_of(self.chain)
        for option, value in options.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if isinstance(defaults[option], float) and whole:
                options[option] = float(value)
        self._options = defaults | options
        self._memory = None

    def combine(self, models, context):
        f = self._options.get(_F)
        given = self._options | {_F: context.n_attackers if f is None else f}
        vectors = models - context.global_model
        devices = [models.device] if models.device.type == "cuda" else []
        try:
            # Bucketing, CAF and SMEA draw from PyTorch's global stream.
            with torch.random.fork_rng(devices):
                torch.manual_seed(context.round_number)
                for link in self.chain:
                    known = inspect.signature(link).parameters
                    made = link(**{name: given[name] for name in known if name in given})
                    if _MEMORY in known:
                        made.m = self._memory
                    vectors = made(vectors)
                    if _MEMORY in known:
                        self._memory = made.m
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.name}: {error}") from None
        if vectors.ndim != 1:
            raise UserError(f"{self.name}: the last class must be an aggregator")
        return context.global_model + vectors.to(models.dtype), None

    def state(self):
        return {} if self._memory is None else {_MEMORY: self._memory}

    def restore(self, state):
        self._memory = state.get(_MEMORY)


@functools.cache
def entry(name: str):
    """The rule ``byzfl/A+B`` as `arfl.aggregation.make` takes it.

    Raises:
        UserError: if byzfl is not installed or has no such class.
    """
    _, members = libraries.split("aggregators", name)
    module = load("aggregators")
    libraries.check("aggregators", name)
    chain = tuple(getattr(module, member) for member in members)
    parameters = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default)
        for option, default in _options_of(chain).items()
    ]
    in_rounds = type(
        "ByzflInRounds",
        (_InRounds,),
        {"chain": chain, "name": name, "__signature__": inspect.Signature(parameters)},
    )
    return types.SimpleNamespace(in_rounds=in_rounds, check=None, linear=False)
