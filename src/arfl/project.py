"""A project's folder as the command line sees it: its configuration, and its cells by their ids."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from arfl import config as configuration
from arfl.errors import UserError
from arfl.grid import Cell, Grid, merge

_USUAL = (Path("config.yaml"), Path("config/config.yaml"))
_SCHEMA = Path(__file__).parents[2] / "workflow/schemas/config.schema.yaml"


def grid(files: Sequence[Path] = (), changes: Sequence[str] = ()) -> Grid:
    """The grid of the project in the current folder.

    Args:
        files: laid over ``config.yaml`` (or ``config/config.yaml``) in turn, as Snakemake's
            ``--configfile`` does.
        changes: ``key=value``, laid over these, as Snakemake's ``--config`` does.

    Raises:
        UserError: if there is no configuration, or it is wrong.
    """
    first = next((path for path in _USUAL if path.exists()), None)
    if first is None and not files:
        raise UserError(
            f"there is no config.yaml in {Path.cwd()}; go to the project's folder, or name one "
            "with --configfile"
        )
    config: dict = {}
    for path in ([] if first is None else [first]) + list(files):
        config = merge(config, read(path))
    for change in changes:
        config = merge(config, _parsed(change))
    # An installed package has no schema beside it; the grid refuses what it cannot use.
    if _SCHEMA.exists():
        configuration.check(config, _SCHEMA)
    return Grid(config)


def cell(of: Grid, name: str) -> Cell:
    """The cell with an id; an unknown one is a `UserError` with those that it may have meant."""
    try:
        return of.cell(name.removesuffix(".json"))
    except UserError as error:
        beyond = (point.cell.id for points in of.beyond.values() for point in points)
        close = difflib.get_close_matches(name, {*of.cells, *beyond}, n=3, cutoff=0.7)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"{error}{hint}") from None


def cells(of: Grid, targets: Iterable[str]) -> dict[str, Cell]:
    """Id -> cell, for the named targets, or for all of the paper's where none is named."""
    known = of.points | of.beyond
    found: dict[str, Cell] = {}
    for target in targets:
        if target not in known:
            raise UserError(f"no target {target!r} has cells; those that have: {', '.join(known)}")
        found |= {point.cell.id: point.cell for point in known[target]}
    return found or of.cells


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML would keep the last unseen."""

    def construct_mapping(self, node, deep=False):
        # Keys that `<<` merges in are added later, and may be given again.
        keys = [self.construct_object(key) for key, _ in node.value if key.value != "<<"]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                line = node.value[place][0].start_mark.line + 1
                raise UserError(f"{self.name}, line {line}: {key} stands there twice; keep one")
        return super().construct_mapping(node, deep)


def read(path: Path) -> Mapping:
    """The content of a configuration file.

    Raises:
        UserError: if it is missing, no YAML or no mapping, or gives a key twice.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            content = yaml.load(stream, _Loader)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        raise UserError(f"{path} is not valid YAML{line}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} is no configuration: it has no keys")
    return content


def _parsed(change: str) -> dict:
    key, sign, text = change.partition("=")
    if not (key and sign):
        raise UserError(f"--config takes key=value, not {change!r}")
    try:
        return {key: yaml.safe_load(text) if text else ""}
    except yaml.YAMLError:
        raise UserError(f"--config {change}: the value is not valid YAML") from None
