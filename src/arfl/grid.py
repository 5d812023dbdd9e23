"""The grid of cells: which cells a target needs, what each is trained with, where each lies.

Standard library only: the Snakefile imports this module, and every remote job parses the Snakefile
again.
"""

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from arfl import libraries, registry
from arfl.errors import UserError
from arfl.fingerprint import check_syntax, of_cell

NO_ATTACK = "none"
LARGEST_SEED = 2**32 - 1
CHANGES = r"(?:\.[a-z][a-z0-9_]*-[A-Za-z0-9_-][A-Za-z0-9_.-]*)?"
"""Regular expression of what follows a name in a path where options of it are changed."""

_NEEDED = {
    "aggregators": ("rule",),
    "attacks": ("rule", "training"),
    "tasks": (
        "dataset",
        "data",
        "model",
        "n_clients",
        "clients_per_round",
        "client_sampling",
        "attackers_every_round",
        "min_source_share",
        "partition",
        "rounds",
        "epochs",
        "batch_size",
        "optimizer",
        "lr",
        "momentum",
        "augment",
        "dropout",
        "train_share",
        "max_batches_per_epoch",
    ),
}
# What a task says about attacks and aggregators: theirs to be swept, not the task's.
_OF_OTHERS = ("attacks", "attack_training", "aggregators")
# Options of a task that say nothing where nobody attacks.
OF_ATTACKERS = ("attackers_every_round", "min_source_share")
# How attackers train where nothing is said, and which options of an attack are its training's.
_TRAINING = {"epoch_factor": 1, "lr_factor": 1, "inactive": "honest"}
_CELL_ID = re.compile(
    r"(?P<task>[^/]+)/(?P<attack>[^/]+)/attackers-(?P<n_attackers>\d{1,9})"
    r"/(?P<aggregator>[^/]+)/seed-(?P<seed>\d{1,10})"
)
_CHANGE = re.compile(r"\.([a-z][a-z0-9_]*)-(.+?)(?=\.[a-z][a-z0-9_]*-|$)")
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}

Value = bool | int | float | str | None


def value_text(value: Value) -> str:
    """An option's value as it stands in a path: of letters, digits, ``_``, ``.`` and ``-`` only.

    Equal numbers have one text and different values different ones, so that a cell has one name.

    >>> [value_text(value) for value in (1.0, 1e-7, -0.25, True, None, "frozen")]
    ['1', '1e-7', '-0.25', 'true', 'null', 'frozen']

    Raises:
        UserError: for text that could be taken for something else or does not belong in a path.
    """
    for word, meant in _WORDS.items():
        if value is meant:
            return word
    if isinstance(value, str):
        if value in _WORDS or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value):
            raise UserError(
                f"config: {value!r} cannot be swept over, since it would stand in a path; use a "
                "number, true, false, null or a word of letters, digits and _"
            )
        return value
    try:
        number = float(value) + 0.0  # which has no negative zero
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UserError(f"config: {value!r} cannot be swept over; use finite numbers")
    if isinstance(value, int) and int(number) != value:
        return str(value)
    return re.sub(r"e([+-]?)0*(\d)", r"e\1\2", repr(number).removesuffix(".0")).replace("e+", "e")


def text_value(text: str) -> Value:
    """The value whose `value_text` is ``text``; whole numbers are integers.

    >>> [text_value(text) for text in ("1", "1e-7", "-0.25", "true", "null", "frozen")]
    [1, 1e-07, -0.25, True, None, 'frozen']
    """
    if text in _WORDS:
        return _WORDS[text]
    if _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    return text


@dataclass(frozen=True)
class Cell:
    """One training run; everything else about it follows from these fields and the config.

    Attributes:
        task: name in ``tasks``.
        attack: name in ``attacks``, or "none".
        n_attackers: 0 exactly without an attack.
        aggregator: name in ``aggregators``.
        seed: the cell's seed.
        changes: options that differ from the configuration, as sorted triples: of what ("task",
            "attack" or "aggregator"), which option, and its value as `value_text` writes it.
    """

    task: str
    attack: str
    n_attackers: int
    aggregator: str
    seed: int
    changes: tuple[tuple[str, str, str], ...] = ()

    def changed(self, of: str) -> dict[str, Value]:
        """Option -> value, for the changed options of "task", "attack" or "aggregator"."""
        return {option: text_value(text) for what, option, text in self.changes if what == of}

    def part(self, of: str) -> str:
        """Path component that names the task, attack or aggregator and its changed options."""
        changes = (f"{option}-{text}" for what, option, text in self.changes if what == of)
        return ".".join([getattr(self, of), *changes])

    @property
    def id(self) -> str:
        """The cell's name, unique in its run."""
        return (
            f"{self.part('task')}/{self.part('attack')}/attackers-{self.n_attackers}"
            f"/{self.part('aggregator')}/seed-{self.seed}"
        )

    def describe(self) -> dict:
        """The cell as a record and the plan hold it."""
        return {
            "id": self.id,
            "task": self.task,
            "attack": self.attack,
            "n_attackers": self.n_attackers,
            "aggregator": self.aggregator,
            "seed": self.seed,
            "changes": {of: self.changed(of) for of in ("task", "attack", "aggregator")},
        }


@dataclass(frozen=True)
class Point:
    """A cell's place in a table or figure: its panel and its value on the swept axis."""

    panel: str
    x_name: str | None
    x: Value
    dataset: str
    cell: Cell


def merge(base: Mapping, change: Mapping) -> dict:
    """``base`` with ``change`` laid over it; mappings are merged key by key, the rest replaced.

    A mapping that has another ``name`` is another thing (a partition scheme) and replaces it.

    Examples:
        >>> merge({"task": {"rounds": 200, "lr": 0.01}}, {"task": {"rounds": 60}})
        {'task': {'rounds': 60, 'lr': 0.01}}
        >>> merge({"name": "dirichlet", "concentration": 0.9}, {"name": "iid"})
        {'name': 'iid'}
    """
    if "name" in base and change.get("name", base["name"]) != base["name"]:
        return copy.deepcopy(dict(change))
    merged = dict(base)
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            value = merge(merged[key], value)
        merged[key] = copy.deepcopy(value)
    return merged


def _member(name: str, known: Mapping, what: str, where: str):
    if name not in known:
        raise UserError(f"{where}: unknown {what} {name!r}; known: {', '.join(sorted(known))}")
    return known[name]


def _parts(component: str) -> tuple[str, dict[str, Value]]:
    """Name and changed options of a component of a path; the inverse of `Cell.part`."""
    name, dot, rest = component.partition(".")
    found = list(_CHANGE.finditer(dot + rest))
    if "".join(match.group() for match in found) != dot + rest:
        raise UserError(f"{component} does not read name.option-value; see docs/records.md")
    return name, {match[1]: text_value(match[2]) for match in found}


@dataclass(frozen=True)
class Grid:
    """The configuration with its scale and protocol laid over it.

    Attributes:
        config: the whole configuration, already checked against the schema.
    """

    config: Mapping = field(repr=False)

    def __post_init__(self):
        for package, needed in _NEEDED.items():
            for name, entry in self._merged[package].items():
                for key in needed:
                    if key not in entry:
                        raise UserError(f"config: {package}.{name} lacks {key}")
        for package in ("aggregators", "attacks"):
            for name, entry in self._merged[package].items():
                _check_file(entry["rule"], package, f"{package}.{name}.rule")
        labels = {}
        for name, entry in self.aggregators.items():
            # Rows of one name could not be told apart.
            label = entry.get("label", name)
            if (other := labels.setdefault(label, name)) != name:
                raise UserError(
                    f"config: aggregators.{other} and aggregators.{name} have one label, "
                    f"{label!r}; give each its own"
                )
        for name in self.config.get("datasets", {}):
            _check_file(name, "datasets", "datasets")
        for name, task in self.tasks.items():
            self._check_task(task, f"tasks.{name}")
        # Unknown names in a target are mistakes to be told at once.
        known = self._merged["targets"] | self._merged["beyond"]
        for target in self.config.get("target_seeds", {}):
            _member(target, known, "target", "config: target_seeds")
        further = (point.cell for points in self.beyond.values() for point in points)
        cells = (*self.cells.values(), *further)
        for part in {cell.part("task") for cell in cells}:
            self.task(part)
        for task in sorted({cell.task for cell in cells} - set(self._merged["resources"])):
            raise UserError(
                f"config: resources has no {task}; add how long a cell of it may take on one GPU, "
                f"for example {task}: {{minutes: 60, mem_mb: 6000}}"
            )

    @staticmethod
    def _check_task(task: Mapping, where: str) -> None:
        for key, folder in (("dataset", "datasets"), ("data", "datasets"), ("model", "networks")):
            _check_file(task[key], folder, f"{where}.{key}")
        scheme = task["partition"]["name"]
        _check_file(scheme, "partitions", f"{where}.partition.name")
        if task["min_source_share"] is not None and scheme != "label_shards":
            raise UserError(
                f"config: {where}.min_source_share is a share of a shard, but the partition is "
                f"{scheme}; set it to null"
            )
        if task["client_sampling"] == "fixed" and task["clients_per_round"] is None:
            raise UserError(
                f"config: {where}.client_sampling is fixed, but all participants train; set "
                "clients_per_round or each_round"
            )

    @property
    def scale(self) -> str:
        """quick, reduced or paper."""
        return self.config["scale"]

    @property
    def run(self) -> str:
        """Name of the run's folder: the scale, and the protocol unless it is the paper's."""
        protocol = self.config["protocol"]
        return self.scale if protocol == "paper" else f"{self.scale}-{protocol}"

    @property
    def seeds(self) -> list[int]:
        """The seeds of the cells of a target that has none of its own."""
        return self.config["seeds"]

    @cached_property
    def _merged(self) -> dict:
        keys = ("tasks", "attacks", "aggregators", "targets", "beyond", "resources")
        # Who reproduces the paper alone need not have targets beyond it.
        merged = {"beyond": {}} | {key: self.config[key] for key in keys if key in self.config}
        merged = merge(merged, self.config["scales"][self.scale])
        return merge(merged, self.config["protocols"][self.config["protocol"]])

    @property
    def tasks(self) -> dict:
        """Task name -> its settings."""
        return self._merged["tasks"]

    @property
    def aggregators(self) -> dict:
        """Aggregator name -> label, rule and options, in the order of the tables' rows."""
        return self._merged["aggregators"]

    @property
    def _usual(self) -> list[str]:
        """The aggregators of panels that name none."""
        return [n for n, entry in self.aggregators.items() if not entry.get("only_named", False)]

    @cached_property
    def points(self) -> dict[str, list[Point]]:
        """Target -> its points, in the order of the config."""
        return self._points_of("targets")

    @cached_property
    def beyond(self) -> dict[str, list[Point]]:
        """The same for the targets beyond the paper, which no report of the paper holds."""
        return self._points_of("beyond")

    def _points_of(self, section: str) -> dict[str, list[Point]]:
        return {
            target: [
                point
                for panel in panels
                for point in self._panel(f"{section}.{target}", panel, self._seeds_of(target))
            ]
            for target, panels in self._merged[section].items()
            if panels  # how a scale or a user does without a target of the base
        }

    def _seeds_of(self, target: str) -> list[int]:
        return self.config.get("target_seeds", {}).get(target, self.seeds)

    def _panel(self, target: str, panel: Mapping, seeds: Iterable[int]) -> list[Point]:
        where = f"config: {target}"
        task = _member(panel["task"], self.tasks, "task", where)
        _member(panel["attack"], self._merged["attacks"], "attack", where)
        aggregators = panel.get("aggregators", self._usual)
        if aggregators == "all":
            aggregators = self.aggregators
        for name in aggregators:
            _member(name, self.aggregators, "aggregator", where)
        dataset = panel.get("dataset", task["dataset"])
        _check_file(dataset, "datasets", f"{target}: dataset")
        vary, named, numbers = panel.get("vary"), panel.get("panel", ""), panel["n_attackers"]
        if vary is None:
            x_name = "n_attackers" if len(numbers) > 1 else None
            sweep: list = [(named, x_name, n if x_name else None, n, []) for n in numbers]
        else:
            # With several numbers of attackers each is a panel of its own.
            panels = [(f"{named}/{n}" if len(numbers) > 1 else named, n) for n in numbers]
            of, option = vary["of"], vary["option"]
            fixed = [(of, *pair) for pair in vary.get("also", {}).items()]
            sweep = [
                (name, option, value, n, [(of, option, value), *fixed])
                for name, n in panels
                for value in vary["values"]
            ]
        points = []
        for name, x_name, x, n_attackers, changes in sweep:
            for aggregator in aggregators:
                for seed in seeds:
                    cell = self._cell(
                        panel["task"],
                        panel["attack"],
                        n_attackers,
                        aggregator,
                        seed,
                        changes,
                        where,
                    )
                    points.append(Point(name, x_name, x, dataset, cell))
        return points

    def _cell(
        self,
        task: str,
        attack: str,
        n_attackers: int,
        aggregator: str,
        seed: int,
        changes: Iterable[tuple[str, str, Value]],
        where: str,
    ) -> Cell:
        # What does nothing is not an attack, and what repeats the configuration is not a change:
        # so that a cell that two targets need has one name.
        configured = {
            "task": self._task_options(task),
            "attack": {} if attack == NO_ATTACK else self._attack_options(task, attack),
            "aggregator": self._aggregator_options(task, aggregator),
        }
        kept = []
        for of, option, value in changes:
            if of == "task":
                _member(option, configured["task"], "option of a task", where)
            if option not in configured[of] or not _same(configured[of][option], value):
                kept.append((of, option, value_text(value)))
        cell = Cell(task, attack, n_attackers, aggregator, seed, tuple(sorted(kept)))
        if attack != NO_ATTACK:
            idle = self._merged["attacks"][attack].get("no_effect", {})
            active = configured["attack"] | cell.changed("attack")
            if n_attackers == 0 or any(
                option in active and _same(active[option], value) for option, value in idle.items()
            ):
                others = tuple(change for change in cell.changes if change[0] != "attack")
                cell = Cell(task, NO_ATTACK, 0, aggregator, seed, others)
        return replace(cell, changes=self._with_effect(cell, configured["task"]))

    @staticmethod
    def _with_effect(cell: Cell, configured: Mapping) -> tuple[tuple[str, str, str], ...]:
        """The cell's changes without options of its task that decide nothing in it."""
        task = {**configured, **cell.changed("task")}
        everybody, per_round = task["n_clients"], task["clients_per_round"]
        without: tuple[str, ...] = ()
        if cell.attack == NO_ATTACK:
            without = OF_ATTACKERS
        elif per_round is None or (everybody is not None and per_round >= everybody):
            without = ("attackers_every_round",)
        return tuple(c for c in cell.changes if c[0] != "task" or c[1] not in without)

    def _task_options(self, task: str) -> dict:
        """What can be changed of a task: its keys, and the options of its partition."""
        entry = self.tasks[task]
        own = {
            key: value
            for key, value in entry.items()
            if key not in ("dataset", "partition", *_OF_OTHERS)
        }
        divided = {key: value for key, value in entry["partition"].items() if key != "name"}
        return divided | own

    def _attack_options(self, task: str, attack: str) -> dict:
        """What can be changed of an attack: its options and how its attackers train."""
        entry, own = self._merged["attacks"][attack], self.tasks[task]
        options = entry.get("options", {}) | own.get("attacks", {}).get(attack, {})
        return _TRAINING | entry["training"] | own.get("attack_training", {}) | options

    def _aggregator_options(self, task: str, aggregator: str) -> dict:
        general = self.aggregators[aggregator].get("options", {})
        return general | self.tasks[task].get("aggregators", {}).get(aggregator, {})

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """Id -> cell, for every cell that any of the paper's targets needs."""
        return {point.cell.id: point.cell for points in self.points.values() for point in points}

    def cell(self, name: str) -> Cell:
        """The cell with the id ``name``; any task, attack, option and seed, also of no target.

        Raises:
            UserError: if the id names no possible cell.
        """
        if name in self.cells:
            return self.cells[name]
        parts = _CELL_ID.fullmatch(name)
        if parts is None:
            raise UserError(f"{name} is not the id of a cell; see docs/records.md")
        named = {of: _parts(parts[of]) for of in ("task", "attack", "aggregator")}
        task, attack, aggregator = (named[of][0] for of in ("task", "attack", "aggregator"))
        _member(task, self.tasks, "task", name)
        _member(aggregator, self.aggregators, "aggregator", name)
        if attack != NO_ATTACK:
            _member(attack, self._merged["attacks"], "attack", name)
        changes = [
            (of, option, value)
            for of, (_, options) in named.items()
            for option, value in options.items()
        ]
        seed = int(parts["seed"])
        if seed > LARGEST_SEED:
            raise UserError(f"{name}: seeds go up to {LARGEST_SEED}")
        cell = self._cell(task, attack, int(parts["n_attackers"]), aggregator, seed, changes, name)
        if cell.id != name:
            raise UserError(f"{name} does nothing that {cell.id} does not; ask for that cell")
        if cell.attack == NO_ATTACK and (cell.n_attackers or cell.changed("attack")):
            raise UserError(f"{name}: without an attack there are 0 attackers and no options")
        self.settings(cell)
        return cell

    def task(self, part: str) -> dict:
        """Settings of the task that a component of a path names, its changed options included.

        Args:
            part: for example ``mnist_shards`` or ``mnist_dirichlet.batch_size-16``.

        Raises:
            UserError: if it names no possible task.
        """
        name, options = _parts(part)
        _member(name, self.tasks, "task", part)
        known = self._task_options(name)
        task = {
            key: copy.deepcopy(value)
            for key, value in self.tasks[name].items()
            if key not in _OF_OTHERS
        }
        for option, value in options.items():
            _member(option, known, "option of a task", part)
            place = task if option in task else task["partition"]
            place[option] = value
        if options:
            self._check_task(task, part)
        return task

    def settings(self, cell: Cell) -> dict:
        """Everything that a cell is trained with, as its record keeps it."""
        return {
            "scale": self.scale,
            "protocol": self.config["protocol"],
            "task": self.task(cell.part("task")),
            "attack": self._attack_settings(cell),
            "aggregator": {
                "rule": self.aggregators[cell.aggregator]["rule"],
                "options": self._aggregator_options(cell.task, cell.aggregator)
                | cell.changed("aggregator"),
            },
        }

    def _attack_settings(self, cell: Cell) -> dict | None:
        if cell.attack == NO_ATTACK:
            return None
        both = self._attack_options(cell.task, cell.attack) | cell.changed("attack")
        return {
            "rule": self._merged["attacks"][cell.attack]["rule"],
            "options": {key: value for key, value in both.items() if key not in _TRAINING},
            "training": {key: both[key] for key in _TRAINING},
        }

    def partition_path(self, cell: Cell) -> str:
        """Where a cell's partition lies: one for all cells of a seed that divide the data alike."""
        own = self.tasks[cell.task]["partition"]
        divides = {"data", "n_clients", *(key for key in own if key != "name")}
        changes = tuple(c for c in cell.changes if c[0] == "task" and c[1] in divides)
        part = Cell(cell.task, NO_ATTACK, 0, cell.aggregator, cell.seed, changes).part("task")
        return str(PurePosixPath("results", self.run, "partitions", part, f"seed-{cell.seed}.npz"))

    def record_path(self, cell: Cell, folder: str = "cells") -> str:
        """Where a cell's record lies, relative to the project; or a second time, in ``kept``."""
        return str(PurePosixPath("results", self.run, folder, f"{cell.id}.json"))

    def fingerprint(self, cell: Cell) -> str:
        """Fingerprint of the code that trains a cell on the configured device.

        A record of these settings that the same code has made on another device is no reason to
        train again: then the fingerprint is that of the record's device.
        """
        settings = self.settings(cell)
        attack = settings["attack"]
        rules = settings["task"]["model"], attack and attack["rule"], settings["aggregator"]["rule"]
        here, elsewhere = ("cuda", "cpu") if wants_gpu(self.config["device"]) else ("cpu", "cuda")
        other = of_cell(*rules, elsewhere)
        made_elsewhere = _is_made_by(self.record_path(cell), other, settings)
        return other if made_elsewhere else of_cell(*rules, here)

    def rules(self) -> dict[str, list]:
        """The aggregation rules and attacks of all cells with their options, each once.

        Returns:
            For the folders "aggregators" and "attacks" pairs of a file's name and its options.
        """
        found: dict[str, dict[str, list]] = {"aggregators": {}, "attacks": {}}
        for cell in self.cells.values():
            settings = self.settings(cell)
            for folder, of in (("aggregators", "aggregator"), ("attacks", "attack")):
                if (used := settings[of]) is not None:
                    pair = [used["rule"], used["options"]]
                    found[folder][json.dumps(pair, sort_keys=True)] = pair
        return {folder: [pairs[key] for key in sorted(pairs)] for folder, pairs in found.items()}

    def resources(self, cell: Cell) -> dict:
        """Expected ``minutes`` and ``mem_mb`` of a cell."""
        return _member(cell.task, self._merged["resources"], "task", "config: resources")

    def has(self, key: str) -> bool:
        """Whether the configuration has the dotted ``key`` after scale and protocol."""
        try:
            self.value(key)
        except UserError:
            return False
        return True

    def value(self, key: str):
        """The value of a dotted key after scale and protocol, for example ``attacks.x.rule``.

        Raises:
            UserError: if there is no such key.
        """
        value = {"datasets": self.config["datasets"]} | self._merged
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise UserError(f"the configuration has no key {key}")
            value = value[part]
        return value

    def plan(self, beyond: bool = False) -> dict:
        """The run for those who only read records: every target's points and their records.

        A point's ``settings`` names an entry of the plan's ``settings``, which many points share.

        Args:
            beyond: whether the targets are those beyond the paper.
        """
        settings = {}

        def key(cell: Cell) -> str:
            value = self.settings(cell)
            text = json.dumps(value, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            settings[digest] = value
            return digest

        return {
            "run": self.run,
            "scale": self.scale,
            "protocol": self.config["protocol"],
            "seeds": self.seeds,
            "aggregators": {
                name: {"label": entry.get("label", name)}
                for name, entry in self.aggregators.items()
                if beyond or name in self._usual
            },
            "targets": {
                target: [
                    {
                        "panel": point.panel,
                        "x_name": point.x_name,
                        "x": point.x,
                        "dataset": point.dataset,
                        "cell": point.cell.describe(),
                        "settings": key(point.cell),
                        "record": self.record_path(point.cell),
                    }
                    for point in points
                ]
                for target, points in (self.beyond if beyond else self.points).items()
            },
            "settings": settings,
            "datasets": {
                name: options
                for name, options in sorted(self.config.get("datasets", {}).items())
                if any(entry["task"]["data"] == name for entry in settings.values())
            },
        }


def _check_file(name: str, folder: str, where: str) -> None:
    if "/" in name:
        try:
            libraries.check(folder, name)
        except UserError as error:
            raise UserError(f"config: {where}: {error}") from None
        return
    known = registry.names(folder)
    if name not in known:
        raise UserError(
            f"config: {where} is {name!r}, but src/arfl/{folder} has {', '.join(known)}; correct "
            "the name or add the file"
        )
    check_syntax(f"arfl.{folder}.{name}")


def _same(one: Value, other: Value) -> bool:
    # Python holds True and 1 to be equal.
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _is_made_by(path: str, fingerprint: str, settings: Mapping) -> bool:
    """Whether a record lies at ``path`` with this fingerprint and these settings."""
    try:
        content = Path(path).read_bytes()
        # There are hundreds of records: most are ruled out without parsing them.
        if fingerprint.encode() not in content:
            return False
        record = json.loads(content)
        return record["provenance"]["fingerprint"] == fingerprint and record["settings"] == settings
    except (OSError, ValueError, LookupError, TypeError):
        return False


def wants_gpu(device: str) -> bool:
    """Whether a training job should ask for a GPU, found without importing PyTorch."""
    if device == "auto":
        return os.path.exists("/proc/driver/nvidia/version") or os.path.exists("/dev/nvidia0")
    return device == "cuda"
