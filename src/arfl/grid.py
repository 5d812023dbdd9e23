"""The grid of cells: which cells a target needs, what each is trained with, where each lies.

Standard library only: the Snakefile imports this module, and every remote job parses the Snakefile
again.
"""

import copy
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from arfl.errors import UserError
from arfl.fingerprint import of_cell

SCALES = ("quick", "reduced", "paper")
PROTOCOLS = ("paper", "released")
NO_ATTACK = "none"
_NEEDED = {
    "aggregators": ("rule",),
    "attacks": ("rule", "training"),
    "tasks": (
        "dataset",
        "data",
        "model",
        "n_clients",
        "clients_per_round",
        "attackers_every_round",
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
_CELL_ID = re.compile(
    r"(?P<task>\w+)/(?P<attack>\w+)/attackers-(?P<n_attackers>\d+)(-noise-(?P<noise_std>\d+(\.\d+)?))?"
    r"/(?P<aggregator>\w+)/seed-(?P<seed>\d+)"
)


@dataclass(frozen=True, order=True)
class Cell:
    """One training run; everything else about it follows from these fields and the config.

    Attributes:
        task: name in ``tasks``.
        attack: name in ``attacks``, or "none".
        n_attackers: 0 exactly without an attack.
        noise_std: level of the Gaussian attack, else None.
        aggregator: name in ``aggregators``.
        options: aggregator options that differ from the configured ones, as sorted pairs.
        seed: the cell's seed.
    """

    task: str
    attack: str
    n_attackers: int
    noise_std: float | None
    aggregator: str
    options: tuple[tuple[str, float | str], ...]
    seed: int

    @property
    def level(self) -> str:
        """Path component that tells how strong the attack is."""
        if self.noise_std is None:
            return f"attackers-{self.n_attackers}"
        return f"attackers-{self.n_attackers}-noise-{self.noise_std:g}"

    @property
    def variant(self) -> str:
        """Path component that names the aggregator and its changed options."""
        changes = (
            f"{key}-{value}" if isinstance(value, str) else f"{key}-{value:g}"
            for key, value in self.options
        )
        return ".".join([self.aggregator, *changes])

    @property
    def id(self) -> str:
        """The cell's name, unique in its run."""
        return f"{self.task}/{self.attack}/{self.level}/{self.variant}/seed-{self.seed}"

    def describe(self) -> dict:
        """The cell as a record and the plan hold it."""
        return {
            "id": self.id,
            "task": self.task,
            "attack": self.attack,
            "n_attackers": self.n_attackers,
            "noise_std": self.noise_std,
            "aggregator": self.aggregator,
            "options": dict(self.options),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Point:
    """A cell's place in a table or figure: its panel and its value on the swept axis."""

    panel: str
    x_name: str | None
    x: float | str | None
    dataset: str
    cell: Cell


def merge(base: Mapping, change: Mapping) -> dict:
    """``base`` with ``change`` laid over it; mappings are merged key by key, the rest replaced.

    A mapping that has another ``name`` is another thing (a partition scheme) and replaces it.
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


def rules(package: str) -> tuple[str, ...]:
    """Rules of ``aggregators``, ``attacks`` or ``datasets``: one file each, none imported."""
    folder = Path(__file__).parent / package
    return tuple(sorted(file.stem for file in folder.glob("[!_]*.py")))


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
                if entry["rule"] not in rules(package):
                    raise UserError(
                        f"config: {package}.{name}.rule is {entry['rule']!r}, but "
                        f"src/arfl/{package} has {', '.join(rules(package))}; correct the name "
                        "or add the file"
                    )
        for name, task in self.tasks.items():
            if task["data"] not in rules("datasets"):
                raise UserError(
                    f"config: tasks.{name}.data is {task['data']!r}, but src/arfl/datasets has "
                    f"{', '.join(rules('datasets'))}"
                )
        self.points  # noqa: B018  unknown names in a target are mistakes to be told at once

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
        """The seeds of every cell."""
        return self.config["seeds"]

    @cached_property
    def _merged(self) -> dict:
        keys = ("tasks", "attacks", "aggregators", "targets", "resources")
        merged = {key: self.config[key] for key in keys}
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

    @cached_property
    def points(self) -> dict[str, list[Point]]:
        """Target -> its points, in the order of the config."""
        return {
            target: [point for panel in panels for point in self._panel(target, panel)]
            for target, panels in self._merged["targets"].items()
        }

    def _panel(self, target: str, panel: Mapping) -> list[Point]:
        where = f"config: targets.{target}"
        task = _member(panel["task"], self.tasks, "task", where)
        _member(panel["attack"], self._merged["attacks"], "attack", where)
        dataset = panel.get("dataset", task["dataset"])
        points = []
        if "option" in panel:
            _member(panel["aggregator"], self.aggregators, "aggregator", where)
            sweep = [
                (panel["option"], value, panel["n_attackers"][0], None, [panel["aggregator"]])
                for value in panel["values"]
            ]
        elif "noise_std" in panel:
            n_attackers = panel["n_attackers"][0]
            sweep = [
                ("noise_std", level, n_attackers, level, self.aggregators)
                for level in panel["noise_std"]
            ]
        elif len(panel["n_attackers"]) == 1:
            sweep = [(None, None, panel["n_attackers"][0], None, self.aggregators)]
        else:
            sweep = [("n_attackers", n, n, None, self.aggregators) for n in panel["n_attackers"]]
        for x_name, x, n_attackers, noise_std, aggregators in sweep:
            for aggregator in aggregators:
                options = {x_name: x} if "option" in panel else {}
                for seed in self.seeds:
                    cell = self._cell(
                        panel["task"],
                        panel["attack"],
                        n_attackers,
                        noise_std,
                        aggregator,
                        options,
                        seed,
                    )
                    points.append(Point(panel.get("panel", ""), x_name, x, dataset, cell))
        return points

    def _cell(self, task, attack, n_attackers, noise_std, aggregator, options, seed) -> Cell:
        # What does nothing is not an attack, and what repeats the configuration is not a change:
        # so that a cell that two targets need has one name.
        if n_attackers == 0 or noise_std == 0:
            attack, n_attackers, noise_std = NO_ATTACK, 0, None
        configured = self._aggregator_options(task, aggregator)
        changed = {key: value for key, value in options.items() if configured.get(key) != value}
        options = tuple(sorted(changed.items()))
        return Cell(task, attack, n_attackers, noise_std, aggregator, options, seed)

    def _aggregator_options(self, task: str, aggregator: str) -> dict:
        general = self.aggregators[aggregator].get("options", {})
        return general | self.tasks[task].get("aggregators", {}).get(aggregator, {})

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """Id -> cell, for every cell that any target needs."""
        return {point.cell.id: point.cell for points in self.points.values() for point in points}

    def cell(self, name: str) -> Cell:
        """The cell with the id ``name``; any task, attack, level and seed, also of no target.

        Raises:
            UserError: if the id names no possible cell.
        """
        if name in self.cells:
            return self.cells[name]
        parts = _CELL_ID.fullmatch(name)
        if parts is None:
            raise UserError(f"{name} is not the id of a cell; see docs/records.md")
        _member(parts["task"], self.tasks, "task", name)
        _member(parts["aggregator"], self.aggregators, "aggregator", name)
        if parts["attack"] != NO_ATTACK:
            _member(parts["attack"], self._merged["attacks"], "attack", name)
        cell = self._cell(
            parts["task"],
            parts["attack"],
            int(parts["n_attackers"]),
            None if parts["noise_std"] is None else float(parts["noise_std"]),
            parts["aggregator"],
            {},
            int(parts["seed"]),
        )
        if cell.id != name:
            raise UserError(f"{name} does nothing that {cell.id} does not; ask for that cell")
        if cell.attack == NO_ATTACK and cell.n_attackers:
            raise UserError(f"{name}: without an attack there are 0 attackers")
        return cell

    def settings(self, cell: Cell) -> dict:
        """Everything that a cell is trained with, as its record keeps it."""
        task = {
            key: value
            for key, value in self.tasks[cell.task].items()
            if key not in ("attacks", "attack_training", "aggregators")
        }
        return {
            "scale": self.scale,
            "protocol": self.config["protocol"],
            "task": task,
            "attack": self._attack_settings(cell),
            "aggregator": {
                "rule": self.aggregators[cell.aggregator]["rule"],
                "options": self._aggregator_options(cell.task, cell.aggregator)
                | dict(cell.options),
            },
        }

    def _attack_settings(self, cell: Cell) -> dict | None:
        if cell.attack == NO_ATTACK:
            return None
        attack, task = self._merged["attacks"][cell.attack], self.tasks[cell.task]
        options = attack.get("options", {}) | task.get("attacks", {}).get(cell.attack, {})
        if cell.noise_std is not None:
            options["noise_std"] = cell.noise_std
        return {
            "rule": attack["rule"],
            "options": options,
            "training": attack["training"] | task.get("attack_training", {}),
        }

    def record_path(self, cell: Cell) -> str:
        """Where a cell's record lies, relative to the project."""
        return str(PurePosixPath("results", self.run, "cells", f"{cell.id}.json"))

    def fingerprint(self, cell: Cell) -> str:
        """Fingerprint of the code that trains a cell."""
        settings = self.settings(cell)
        attack = settings["attack"]
        return of_cell(attack and attack["rule"], settings["aggregator"]["rule"])

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

    def plan(self) -> dict:
        """The run for those who only read records: every target's points and their records.

        A point's ``settings`` names an entry of the plan's ``settings``, which many points share.
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
                for target, points in self.points.items()
            },
            "settings": settings,
        }


def wants_gpu(device: str) -> bool:
    """Whether a training job should ask for a GPU, found without importing PyTorch."""
    if device == "auto":
        return os.path.exists("/proc/driver/nvidia/version") or os.path.exists("/dev/nvidia0")
    return device == "cuda"
