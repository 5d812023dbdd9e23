"""What checking a record costs: by the compiled schema, and by jsonschema, which interprets it.

    python benchmarks/records.py

Takes the newest committed batch of protocol paper. In each turn every record is checked by both,
one after the other, and once by all of `arfl.record.check`; prints the best turn of each.
"""

import functools
import importlib.metadata
import json
import lzma
import time
from pathlib import Path

import fastjsonschema
import jsonschema
import machine

from arfl import batches, record

TURNS = 5
ROOT = Path(__file__).parents[1]


def seconds(check, contents):
    """Seconds a record."""
    start = time.perf_counter()
    for content in contents:
        check(content)
    return (time.perf_counter() - start) / len(contents)


def main():
    print(machine.describe(1))
    print(
        *(f"{name} {importlib.metadata.version(name)}" for name in ("fastjsonschema", "jsonschema"))
    )
    batch = batches.paths(ROOT / "records/paper")[-1]
    with lzma.open(batch, "rt", encoding="utf-8") as stream:
        contents = [json.loads(line) for line in stream]
    schema = json.loads(Path(record.__file__).with_name("record.schema.json").read_text())
    checks = {
        "jsonschema": jsonschema.Draft202012Validator(schema).validate,
        "compiled": fastjsonschema.compile(schema, use_default=False),
        "`record.check`": functools.partial(record.check, where="here"),
    }
    turns = [
        {name: seconds(check, contents) for name, check in checks.items()} for _ in range(TURNS)
    ]
    best = {name: min(turn[name] for turn in turns) for name in checks}
    print(f"{len(contents)} records of {batch.name}, best of {TURNS} turns")
    for name, taken in best.items():
        print(f"{name}: {1000 * taken:.1f} ms a record")
    print(f"ratio of the first two: {best['jsonschema'] / best['compiled']:.1f}")


if __name__ == "__main__":
    main()
