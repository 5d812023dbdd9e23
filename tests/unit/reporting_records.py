"""A plan and records with invented numbers, in the form that the pipeline writes.

The numbers follow simple formulas plus seeded noise, so that the tests can say what must come out.
"""

import hashlib
import json
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from arfl import record
from arfl.grid import Cell, value_text
from arfl.reporting import evidence

PAPER = Path(__file__).parents[2] / "workflow" / "resources" / "paper"

AGGREGATORS = {
    "fedavg": {"label": "FedAvg"},
    "median": {"label": "Median"},
    "trimmed_mean": {"label": "Trimmed mean"},
    "repeated_median": {"label": "Repeated median"},
    "foolsgold": {"label": "FoolsGold"},
    "residual_reweighting": {"label": "Residual reweighting"},
}
LEVELS = dict(zip(AGGREGATORS, (0.90, 0.75, 0.86, 0.72, 0.88, 0.93), strict=True))
DECLINE = dict(zip(AGGREGATORS, (0.12, 0.03, 0.06, 0.02, 0.02, 0.005), strict=True))
WITH_WEIGHTS = ("foolsgold", "residual_reweighting")
STAND_INS = {
    "mnist": ("digits", "stand-in"),
    "cifar10": ("digits", "stand-in"),
    "amazon": ("synthetic_reviews", "synthetic"),
    "loan": ("synthetic_loans", "synthetic"),
}
TASKS = {"mnist": "mnist_dirichlet", "cifar10": "cifar10_dirichlet", "loan": "loan_states"}
ASSUMPTIONS = [
    {"key": "trimmed_mean.share", "value": 0.2, "reason": "the text is silent; released default"},
    {"key": "momentum", "value": 0.5, "reason": "the text is silent; released default"},
]


def final_accuracy(cell: dict, share: float) -> float:
    """Accuracy after the last round, before noise; ``share`` runs from 0 to 1 over the sweep."""
    return LEVELS[cell["aggregator"]] - DECLINE[cell["aggregator"]] * share


def rewrite(path: Path, change: Callable[[dict], None]) -> None:
    """Change a record in place and give it the digest of what it now holds."""
    content = json.loads(path.read_text())
    change(content)
    content["digest"] = record.digest(content)
    path.write_text(json.dumps(content))


def diverge(path: Path, number: int) -> None:
    """Let a record's training end in round ``number``."""

    def change(content: dict) -> None:
        content["rounds"] = content["rounds"][: number - 1]
        content["diverged"] = {
            "round": number,
            "cause": "the global model holds a NaN or an infinity",
        }

    rewrite(path, change)


class Experiment:
    """Writes ``plan.json`` and the records of every cell under a folder."""

    def __init__(
        self,
        folder: Path,
        scale: str = "quick",
        seeds: tuple[int, ...] = (1, 2, 3),
        n_rounds: int = 10,
        noise: float = 0.004,
        accuracy: Callable[[dict, float], float] = final_accuracy,
        targets: tuple[str, ...] | None = None,
        protocol: str = "paper",
    ):
        self.folder, self.scale, self.seeds, self.n_rounds = folder, scale, seeds, n_rounds
        self.noise, self.accuracy, self.protocol = noise, accuracy, protocol
        self.run_dir = folder / "results" / scale
        self.plan_path = self.run_dir / "plan.json"
        self.paper_scale = scale == "paper"
        self.shares: dict[str, float] = {}
        self.datasets: dict[str, str] = {}
        rows = {name: getattr(self, f"_{name}")() for name in self.all_targets()}
        self.targets = {n: r for n, r in rows.items() if targets is None or n in targets}

    @staticmethod
    def all_targets() -> tuple[str, ...]:
        return (
            "figure3", "table1", "table2", "table3", "table4", "loan", "figure4",
            "hyperparameters",
        )  # fmt: skip

    def plan(self) -> dict:
        """The plan as the pipeline writes it."""
        return {
            "run": self.scale,
            "scale": self.scale,
            "protocol": self.protocol,
            "seeds": list(self.seeds),
            "aggregators": AGGREGATORS,
            "assumptions": ASSUMPTIONS,
            "targets": {
                target: [row | {"settings": row["cell"]["id"]} for row in rows]
                for target, rows in self.targets.items()
            },
            "settings": {
                row["cell"]["id"]: self._settings(row["cell"])
                for rows in self.targets.values()
                for row in rows
            },
            "datasets": {"loan": {"trigger_margin": 1}},
        }

    def write(self) -> Path:
        """Write the plan and all records; returns the plan's path."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.plan_path.write_text(json.dumps(self.plan()))
        for rows in self.targets.values():
            for row in rows:
                path = Path(row["record"])
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(self.record(row["cell"])))
        return self.plan_path

    def path(self, cell_id: str) -> Path:
        return self.run_dir / "cells" / f"{cell_id}.json"

    def record(self, cell: dict) -> dict:
        """The record of one cell."""
        rng = random.Random(zlib.crc32(cell["id"].encode()))
        share, dataset = self.shares[cell["id"]], self.datasets[cell["id"]]
        name, kind = (dataset, "complete") if self.paper_scale else STAND_INS[dataset]
        n_clients = self._n_clients(cell["task"])
        # The same for every rule of a seed.
        of_seed = random.Random(f"{cell['task']} {cell['n_attackers']} {cell['seed']}")
        attackers = sorted(of_seed.sample(range(n_clients), cell["n_attackers"]))
        final = self.accuracy(cell, share) + rng.gauss(0, self.noise)
        rates = [self._rates(cell, final, (r + 1) / self.n_rounds) for r in range(self.n_rounds)]
        present = self._present(cell["task"], n_clients, attackers)
        rounds = [
            {
                "round": number,
                **rate,
                "clients": present,
                "weights": self._weights(cell, present, attackers, rng),
                "excluded": [],
            }
            for number, rate in enumerate(rates, start=1)
        ]
        return record.make(
            cell=cell,
            settings=self._settings(cell),
            data={
                "name": name, "stands_for": dataset, "kind": kind, "checksum": "0" * 64,
                "note": "numbers invented for the tests", "n_train": 1437, "n_test": 360,
                "n_classes": 10, "class_names": [str(i) for i in range(10)],
            },
            partition=hashlib.sha256(f"{cell['task']}/{cell['seed']}".encode()).hexdigest(),
            trained={
                "diverged": None,
                "clients": {
                    "n": n_clients, "attackers": attackers,
                    "class_counts": [self._class_counts(cell, k) for k in range(n_clients)],
                },
                "rounds": rounds,
                "seconds": {
                    "training": 1.0 + rng.random(), "aggregation": 0.1 * (1 + rng.random()),
                    "evaluation": 0.05, "total": 2.2,
                },
            },
            origin={
                "commit": "0123456789abcdef", "dirty": False, "fingerprint": "feedc0de",
                "python": "3.11.2", "libraries": {"torch": "2.15.0", "numpy": "2.4.0"},
                "device": "cpu", "device_name": "test machine", "host_cpus": 2,
                "threads": 1, "backends": {"training": "PyTorch", "aggregation": "PyTorch"},
                "started": "2026-01-01T00:00:00Z", "command": "invented for the tests",
                "resumed": 0,
            },
        )  # fmt: skip

    def _settings(self, cell: dict) -> dict:
        dataset = self.datasets[cell["id"]]
        name = dataset if self.paper_scale else STAND_INS[dataset][0]
        return {
            "scale": self.scale,
            "protocol": self.protocol,
            "task": {
                "dataset": dataset, "data": name, "model": "cnn", "rounds": self.n_rounds,
                "n_clients": self._n_clients(cell["task"]), "epochs": 2,
                "partition": {"name": "iid"},
            },
            "attack": self._attack_settings(cell),
            "aggregator": {
                "rule": cell["aggregator"], "options": dict(cell["changes"]["aggregator"]),
            },
        }  # fmt: skip

    def _rates(self, cell: dict, final: float, progress: float) -> dict:
        accuracy = min(1.0, max(0.0, 0.1 + (final - 0.1) * min(1.0, 0.2 + progress) ** 0.5))
        success = None
        if cell["attack"].startswith("backdoor") or cell["attack"] == "label_flip":
            robust = cell["aggregator"] == "residual_reweighting"
            success = 0.1 if robust else 0.1 + 0.8 * progress
        return {
            "accuracy": accuracy if progress < 1 else min(1.0, max(0.0, final)),
            "attack_success_rate": success,
            "attack_success_rate_excl_target": None if success is None else (success - 0.1) / 0.9,
        }

    @staticmethod
    def _attack_settings(cell: dict) -> dict | None:
        if cell["attack"] == "none":
            return None
        options = {"source": 1} | cell["changes"]["attack"]
        return {"rule": cell["attack"], "options": options, "training": {"lr_factor": 1}}

    def _weights(self, cell: dict, present: list[int], attackers: list[int], rng: random.Random):
        if cell["aggregator"] not in WITH_WEIGHTS:
            return None
        raw = [(0.2 if k in attackers else 1.0) + 0.1 * rng.random() for k in present]
        return [round(w / sum(raw), 6) for w in raw]

    @staticmethod
    def _class_counts(cell: dict, client: int) -> list[int]:
        counts = [0] * 10
        counts[(client + cell["seed"]) % 10] = counts[(client * 3 + 1) % 10] = 300
        return counts

    def _present(self, task: str, n_clients: int, attackers: list[int]) -> list[int]:
        if not task.startswith("loan"):
            return list(range(n_clients))
        honest = [k for k in range(n_clients) if k not in attackers]
        return sorted(attackers + honest[: 10 - len(attackers)])

    def _n_clients(self, task: str) -> int:
        if task.startswith("loan"):
            return 50
        if task != "mnist_shards":
            return 10
        return 100 if self.paper_scale else 20

    def _row(self, dataset, task, attack, aggregator, seed, share, x_name=None, x=None, panel="",
             n_attackers=0, of=None):  # fmt: skip
        clean = x_name in ("n_attackers", "noise_std") and x == 0
        attack = "none" if clean else attack
        n_attackers = 0 if clean else n_attackers
        changes = () if clean or of is None else ((of, x_name, value_text(x)),)
        cell = Cell(task, attack, n_attackers, aggregator, seed, changes).describe()
        cell_id = cell["id"]
        self.shares[cell_id], self.datasets[cell_id] = (0.0 if clean else share), dataset
        return {
            "panel": panel, "x_name": x_name, "x": x, "cell": cell,
            "record": str(self.path(cell_id)), "dataset": dataset,
        }  # fmt: skip

    def _sweep(self, dataset, task, attack, x_name, xs, n_attackers=None):
        return [
            self._row(
                dataset, task, attack, aggregator, seed, i / (len(xs) - 1), x_name, x,
                n_attackers=n_attackers or x, of="attack" if x_name == "noise_std" else None,
            )
            for aggregator in AGGREGATORS
            for i, x in enumerate(xs)
            for seed in self.seeds
        ]  # fmt: skip

    def _backdoors(self, dataset):
        return [
            self._row(dataset, TASKS[dataset], attack, aggregator, seed, 0.5,
                      panel=f"{dataset}/{attack}", n_attackers=1)
            for attack in ("backdoor_naive", "backdoor_replacement")
            for aggregator in AGGREGATORS
            for seed in self.seeds
        ]  # fmt: skip

    def _figure3(self):
        xs = range(11) if self.paper_scale else (0, 1, 2)
        return self._sweep("mnist", "mnist_shards", "label_flip", "n_attackers", xs)

    def _table1(self):
        return self._sweep("cifar10", "cifar10_dirichlet", "label_flip", "n_attackers", range(5))

    def _table2(self):
        return self._sweep("amazon", "amazon_iid", "label_flip", "n_attackers", range(5))

    def _table3(self):
        return self._backdoors("mnist") + self._backdoors("cifar10")

    def _table4(self):
        n = 10 if self.paper_scale else 2
        return self._sweep("mnist", "mnist_shards", "gaussian", "noise_std", range(4), n)

    def _loan(self):
        return self._backdoors("loan")

    def _figure4(self):
        return [r for r in self._backdoors("cifar10") if r["panel"] == "cifar10/backdoor_naive"]

    def _hyperparameters(self):
        values = {
            "delta": ("residual_reweighting", (0.001, 0.01, 0.1, 0.3)),
            "lam": ("residual_reweighting", (1.0, 2.0, 4.0)),
            "buffers": ("foolsgold", ("averaged", "frozen")),
        }
        return [
            self._row("mnist", "mnist_shards", "label_flip", rule, seed,
                      0.5, name, x, panel=name, n_attackers=2, of="aggregator")
            for name, (rule, xs) in values.items()
            for x in xs
            for seed in self.seeds
        ]  # fmt: skip


SILENT = ["aggregators.trimmed_mean.options.share", "attacks.label_flip.training.lr_factor"]


def papers(folder, **options):
    """The paper's numbers and claims, with the invented experiment as the one that it trained."""
    out = folder / "paper"
    if not out.exists():
        shutil.copytree(PAPER, out)
    options = {"n_rounds": 2} | options
    plans = {
        protocol: Experiment(folder, scale="paper", protocol=protocol, **options).plan()
        | {"assumptions": [{"key": key} for key in SILENT]}
        for protocol in ("paper", "released")
    }
    content = evidence.describe(plans, Experiment.all_targets(), list(AGGREGATORS))
    (out / "experiment.json").write_text(json.dumps(content))
    return out


def papers_of(experiment):
    """The paper's numbers; at its scale with what this experiment trains as what it trained."""
    if not experiment.paper_scale:
        return PAPER
    return papers(experiment.folder, n_rounds=experiment.n_rounds)
