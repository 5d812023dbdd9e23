"""Checks the configuration against its schema, with one message for the first mistake."""

import difflib
import os
from collections.abc import Mapping

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
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema).iter_errors(dict(config))
    )
    if error is None:
        return
    where = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", ()))
        for key in error.instance:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
                prefix = f"{where}." if where else ""
                raise UserError(f"config: unknown key {prefix}{key}; {hint}")
    raise UserError(f"config: {where or 'top level'}: {error.message}")
