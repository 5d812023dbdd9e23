"""Checks the configuration against its schema, with one message for the first mistake."""

import difflib
import math
import os
from collections.abc import Iterable, Iterator, Mapping

import jsonschema
import yaml

from arfl.errors import UserError


def check(config: Mapping, schema_path: str | os.PathLike) -> None:
    """Check a configuration.

    Args:
        config: as Snakemake holds it.
        schema_path: a JSON schema written in YAML.

    Raises:
        UserError: naming the key at fault, what is wrong with it and what is allowed.
    """
    with open(schema_path, encoding="utf-8") as stream:
        schema = yaml.safe_load(stream)
    for where, value in _leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config: {where}: {value} is not a finite number")
    _validate(dict(config), schema, ())
    for place, option, value in _varied(config):
        known = schema["$defs"]["tasks"]["additionalProperties"]["properties"]
        # What is no key of a task may be an option of its partition; the grid knows.
        if option in known:
            _validate(value, {"$defs": schema["$defs"]} | known[option], place)


def _validate(value: object, schema: Mapping, path: tuple) -> None:
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema).iter_errors(value)
    )
    if error is None:
        return
    where = ".".join(str(part) for part in (*path, *error.absolute_path))
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", ()))
        for key in error.instance:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
                prefix = f"{where}." if where else ""
                raise UserError(f"config: unknown key {prefix}{key}; {hint}")
    raise UserError(f"config: {where or 'top level'}: {error.message}{_hint(error)}")


def _hint(error: jsonschema.ValidationError) -> str:
    """What is allowed where jsonschema's words do not say it, or how to write it."""
    value = error.instance
    # A pattern says little, and that no alternative fits says nothing.
    if error.validator in ("pattern", "oneOf") and "description" in error.schema:
        return f"; {error.schema['description']}"
    if error.validator == "type" and error.validator_value == "array":
        return "; write a list: [ ] around it, or a dash before it"
    # YAML reads some numbers as text.
    if not isinstance(value, str) or "e" not in value.lower():
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    # YAML 1.1 wants a point and a sign.
    mantissa, _, exponent = repr(number).partition("e")
    point = mantissa if "." in mantissa else f"{mantissa}.0"
    written = f"{point}e{exponent}" if exponent else point
    return f"; write the number as {written}" if math.isfinite(number) else ""


def _leaves(value: object, where: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of everything that is no mapping and no list.

    Raises:
        UserError: for a key that is no text.
    """
    if isinstance(value, Mapping):
        inner: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    else:
        yield where, value
        return
    for key, part in inner:
        place = f"{where}.{key}" if where else str(key)
        # What YAML reads as a number, a truth value or nothing: no name of ours is one.
        if isinstance(value, Mapping) and not isinstance(key, str):
            raise UserError(f"config: {place}: the key {key!r} is no text; put it in quotes")
        yield from _leaves(part, place)


def _varied(config: Mapping) -> Iterator[tuple[tuple, str, object]]:
    """Place, option and value of each sweep over an option of a task."""
    changes: list[tuple[tuple, Mapping]] = [((), config)]
    for kind in ("scales", "protocols"):
        changes += [((kind, name), change) for name, change in config[kind].items()]
    for place, change in changes:
        for section in ("targets", "beyond"):
            for target, panels in change.get(section, {}).items():
                for number, panel in enumerate(panels):
                    where = (*place, section, target, number, "vary")
                    yield from _varied_in(panel.get("vary", {}), where)


def _varied_in(vary: Mapping, where: tuple) -> Iterator[tuple[tuple, str, object]]:
    if vary.get("of") != "task":
        return
    for index, value in enumerate(vary["values"]):
        yield (*where, "values", index), vary["option"], value
    for option, value in vary.get("also", {}).items():
        yield (*where, "also", option), option, value
