"""Writes what of the documentation follows from files: `python docs/make_pages.py`.

`configuration.md` follows from the schema, the graph in `how-it-works.md` from the workflow.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
_HEAD = """# Configuration reference

Made from [workflow/schemas/config.schema.yaml](../workflow/schemas/config.schema.yaml) by
`docs/make_pages.py`; the values and their places in the paper stand in
[config.yaml](../config.yaml). Unknown keys are refused. `<name>` stands for a name of your own.

| key | value | meaning |
|---|---|---|
"""
_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_GRAPH = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def configuration() -> str:
    """The page on the configuration: a row for each key, dotted."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    return _HEAD + "".join(_rows(schema, schema["$defs"], ""))


def _resolved(schema: Mapping, definitions: Mapping) -> dict:
    """The schema with what it refers to, its own words first."""
    if "$ref" not in schema:
        return dict(schema)
    return definitions[schema["$ref"].rpartition("/")[2]] | {
        key: value for key, value in schema.items() if key != "$ref"
    }


def _rows(schema: Mapping, definitions: Mapping, prefix: str) -> Iterator[str]:
    for key, part in schema.get("properties", {}).items():
        yield from _row(_resolved(part, definitions), definitions, f"{prefix}{key}")
    others = schema.get("additionalProperties")
    if isinstance(others, Mapping):
        yield from _row(_resolved(others, definitions), definitions, f"{prefix}<name>")


def _row(part: Mapping, definitions: Mapping, key: str) -> Iterator[str]:
    # What a scale or a protocol changes has the keys that are listed already.
    inner = [] if part is definitions["change"] else list(_rows(part, definitions, f"{key}."))
    items = part.get("items")
    if isinstance(items, Mapping) and "properties" in items:
        inner += _rows(items, definitions, f"{key}[].")
    meaning = part.get("description", "").replace("|", "\\|")
    if meaning or not inner:
        yield f"| `{key}` | {_value(part, definitions)} | {meaning} |\n"
    yield from inner


def _value(part: Mapping, definitions: Mapping) -> str:
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    if "oneOf" in part:
        return " or ".join(_value(option, definitions) for option in part["oneOf"])
    kinds = part.get("type", "any")
    kind = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if "items" in part:
        kind = f"list of {_value(_resolved(part['items'], definitions), definitions)}"
    bounds = [f"{sign} {part[bound]}" for bound, sign in _SIGNS.items() if bound in part]
    return ", ".join([kind, *bounds])


def graph() -> str:
    """The rules of the workflow and what each needs, as a Mermaid diagram."""
    command = ["snakemake", "--rulegraph", "mermaid-js", "--quiet", "all"]
    drawn = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", drawn))
    edges = sorted(
        f"    {names[one]} --> {names[other]}\n"
        for one, other in re.findall(r"(id\d+) --> (id\d+)", drawn)
        if names[other] != "all" or names[one] in ("report", "index")
    )
    return "flowchart TB\n" + "".join(edges)


def main() -> int:
    """Write both."""
    docs = ROOT / "docs"
    (docs / "configuration.md").write_text(configuration(), encoding="utf-8")
    page = docs / "how-it-works.md"
    page.write_text(_GRAPH.sub(graph(), page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
