"""A conformance kit for anyone's implementation of an aggregation rule.

It needs a Python file with a function from a (K, N) tensor, one model a row, to the (N,) model, or
to a tuple that starts with it. Each check is a line: ok, NO with what was found, or a fact that is
neither good nor bad. Nothing is known of the rule: NO at a shift is right for a rule that clips.
"""

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from arfl import registry
from arfl.errors import UserError

SIZES = (1, 10, 1_999, 2_000, 2_001, 50_000)
CLIENTS = 10
REFERENCES: tuple[tuple[str, dict], ...] = (
    ("fedavg", {}),
    ("median", {}),
    ("trimmed_mean", {}),
    ("repeated_median", {"variant": "paper"}),
    ("repeated_median", {"variant": "released"}),
    ("residual_reweighting", {"variant": "paper"}),
    ("residual_reweighting", {"variant": "released"}),
)


class Finding(NamedTuple):
    """A line of the result: what was checked, whether it held (None for a fact), and details."""

    check: str
    holds: bool | None
    detail: str = ""


def load(path: Path, name: str | None = None) -> Callable[[Tensor], object]:
    """The function of a file: ``name``, or its only public one.

    Raises:
        UserError: if the file cannot be imported, or the function is not to be told.
    """
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)
    if spec is None or not path.is_file():
        raise UserError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 anyone's code may raise anything
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}") from None
    own = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    public = [key for key in own if not key.startswith("_")]
    if name is None and len(public) == 1:
        return own[public[0]]
    if name not in own:
        listed = ", ".join(public) or "none"
        raise UserError(f"{path}: name one of its functions with --function: {listed}")
    return own[name]


def _models(n_clients: int, n_parameters: int, dtype=torch.float64, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(n_clients, n_parameters, dtype=torch.float64, generator=stream).to(dtype)


class _Failed(Exception):
    """The function raised, or returned no model."""


def _call(function: Callable, models: Tensor) -> Tensor:
    try:
        result = function(models)
    except Exception as error:  # noqa: BLE001 as above: a finding, not the end of the others
        text = str(error).splitlines()
        raise _Failed(f"{type(error).__name__}: {text[0][:120] if text else ''}") from None
    result = result[0] if isinstance(result, tuple) else result
    if not isinstance(result, Tensor) or result.shape != models.shape[1:]:
        shape = tuple(getattr(result, "shape", ()))
        raise _Failed(
            f"returned {type(result).__name__} of shape {shape}, not ({models.shape[1]},)"
        )
    return result.detach()


def _distance(one: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest value; NaN and infinity count as different."""
    if not (one.isfinite().all() and other.isfinite().all()):
        return float("inf")
    size = max(other.abs().max().item(), 1.0)
    return (one.double() - other.double()).abs().max().item() / size


def _same(check: str, function: Callable, models: Tensor, expected: Callable) -> Finding:
    """Whether the function of the models is what ``expected`` returns, to rounding."""
    try:
        found, wanted = _call(function, models), expected()
    except _Failed as error:
        return Finding(check, False, str(error))
    distance = _distance(found, wanted)
    return Finding(check, distance < 1e-9, "" if distance < 1e-9 else f"off by {distance:.2g}")


def _outcome(check: str, function: Callable, models: Tensor) -> Finding:
    """Whether the function returns a finite model."""
    try:
        finite = bool(_call(function, models).isfinite().all())
    except _Failed as error:
        return Finding(check, False, str(error))
    return Finding(check, finite, "" if finite else "the result is not finite")


def _breakdown(function: Callable) -> Finding:
    """How many of the clients may send 10^6 before a parameter leaves the honest range."""
    models = _models(CLIENTS, 40, seed=5)
    for n_bad in range(CLIENTS):
        honest = models[n_bad:]
        rows = torch.cat([torch.full_like(models[:n_bad], 1e6), honest])
        try:
            result = _call(function, rows)
        except _Failed as error:
            return Finding("breakdown", None, f"raises with {n_bad} outliers: {error}")
        low, high = honest.amin(0), honest.amax(0)
        margin = high - low
        if not ((result >= low - margin) & (result <= high + margin)).all():
            break
    else:
        n_bad = CLIENTS
    if not n_bad:
        return Finding("breakdown", None, "leaves the clients' range with nobody far off")
    return Finding("breakdown", None, f"withstands {n_bad - 1} of {CLIENTS} clients far off")


def findings(function: Callable[[Tensor], object]) -> Iterator[Finding]:
    """All checks but those against references; they take about a second on a fast rule."""
    for size in SIZES:
        yield _outcome(f"N = {size:,}", function, _models(CLIENTS, size))
    for n_clients in (1, 2, 3, 100):
        yield _outcome(f"K = {n_clients}", function, _models(n_clients, 30))
    yield _outcome("float32", function, _models(CLIENTS, 30, torch.float32))
    models = _models(CLIENTS, 60)
    kept = models.clone()
    yield _outcome("returns a finite model", function, models)
    yield Finding("leaves its input alone", torch.equal(models, kept))
    models = kept
    stream = torch.Generator().manual_seed(1)
    clients = torch.randperm(CLIENTS, generator=stream)
    columns = torch.randperm(60, generator=stream)

    def plain(matrix: Tensor = kept) -> Tensor:
        return _call(function, matrix.clone())

    for check, given, expected in (
        ("clients in any order", models[clients], plain),
        ("parameters in any order", models[:, columns], lambda: plain()[columns]),
        ("shift of all models", models + 3, lambda: plain() + 3),
        ("scale of all models", 2.5 * models, lambda: 2.5 * plain()),
        ("sign of all models", -models, lambda: -plain()),
        ("identical clients", models[:1].repeat(CLIENTS, 1), lambda: kept[0]),
    ):
        yield _same(check, function, given.clone(), expected)
    ties = models.round()
    yield _same("ties: clients in any order", function, ties[clients], lambda: plain(ties))
    for bad in (float("nan"), float("inf")):
        broken = torch.cat([models, models[:1]])
        broken[-1, 7] = bad
        yield _same(f"a row with {bad} is left out", function, broken, plain)
    yield _breakdown(function)


def references(function: Callable[[Tensor], object]) -> Iterator[Finding]:
    """With which of our rules the function agrees on random models, odd and even in number."""
    for name, options in REFERENCES:
        rule, distance = registry.get("aggregators", name), 0.0
        try:
            for n_clients in (9, 10):
                models = _models(n_clients, 200, seed=n_clients)
                distance = max(
                    distance, _distance(_call(function, models), rule(models, **options)[0])
                )
        except _Failed as error:
            yield Finding(_title(name, options), None, str(error))
            continue
        text = "equal to rounding" if distance < 1e-6 else f"differs by {distance:.2g}"
        yield Finding(_title(name, options), None, text)


def _title(name: str, options: dict) -> str:
    return f"as {name}" + (f" ({options['variant']})" if options else "")


def report(path: Path, name: str | None = None, reference: str | None = None) -> str:
    """The findings as text.

    Args:
        path: the file.
        name: its function; None for the only public one.
        reference: a rule of ours that it must equal.

    Raises:
        UserError: if the file does not hold the function, it works at no size, or it differs from
            the reference.
    """
    function = load(path, name)
    lines = []
    found = list(findings(function))
    if all(finding.holds is False for finding in found[: len(SIZES)]):
        raise UserError(
            f"{path}: {function.__name__} takes no (K, N) tensor of any size; {found[0].detail}"
        )
    for finding in found:
        mark = {True: "ok", False: "NO", None: "--"}[finding.holds]
        lines.append(f"{mark}  {finding.check}" + (f": {finding.detail}" if finding.detail else ""))
    compared = list(references(function))
    lines += [f"--  {finding.check}: {finding.detail}" for finding in compared]
    text = "\n".join(lines)
    if reference is not None:
        own = [f for f in compared if f.check.split()[1] == reference]
        if not own:
            raise registry.unknown("reference", reference, {name for name, _ in REFERENCES})
        if not any(finding.detail.startswith("equal") for finding in own):
            raise UserError(f"{path}: {own[0].check}: {own[0].detail}\n{text}")
    return text
