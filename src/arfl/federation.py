"""Federated training of one cell: the scenario, its state between rounds, and the round loop.

`train` is the paper's Algorithm 1 with an adversary: clients train from the global model, attackers
change what they send, the rule combines what arrives.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from arfl import aggregation, attack, network, seeds
from arfl.dataset import PreparedDataset
from arfl.device_data import DeviceData
from arfl.errors import UserError
from arfl.evaluation import Evaluation
from arfl.kernels import backend
from arfl.local_training import Client, LocalSettings, LocalTraining
from arfl.partition import Partition

PHASES = ("training", "aggregation", "evaluation")


def choose_attackers(
    class_counts: np.ndarray,
    n_attackers: int,
    source_class: int | None,
    seed: int,
    at_least: int = 1,
) -> list[int]:
    """Which clients attack.

    The attackers of a smaller number are among those of a larger one, so that a sweep over the
    number of attackers adds clients and exchanges none.

    Args:
        class_counts: (n_clients, n_classes) samples of each class at each client.
        n_attackers: how many.
        source_class: if not None, only clients that hold enough of this class are eligible.
        seed: the cell's seed.
        at_least: how many samples of the source class are enough.

    Returns:
        The attackers' numbers, sorted.

    Raises:
        UserError: if too few clients are eligible.
    """
    eligible = class_counts.sum(1) > 0
    if source_class is not None:
        eligible = class_counts[:, source_class] >= at_least
    candidates = seeds.generator(seed, "attackers").permutation(np.flatnonzero(eligible))
    if n_attackers > len(candidates):
        held = "samples" if source_class is None else f"class {source_class}"
        raise UserError(
            f"{n_attackers} attackers are asked for, but only {len(candidates)} clients hold "
            f"{held}; lower the number of attackers or raise n_clients"
        )
    return sorted(int(k) for k in candidates[:n_attackers])


def participants(
    task: dict, attackers: list[int], n_clients: int, seed: int, round_number: int
) -> list[int]:
    """The clients of a round, sorted.

    When they are sampled, ``attackers_every_round`` puts the attackers among them and draws the
    rest from the same permutation whatever the number of attackers. ``client_sampling: fixed``
    draws once for all rounds.

    Raises:
        UserError: if the attackers do not fit into a round.
    """
    per_round = task["clients_per_round"]
    if per_round is None or per_round >= n_clients:
        return list(range(n_clients))
    draw = 1 if task["client_sampling"] == "fixed" else round_number
    drawn = seeds.generator(seed, "client_sampling", draw).permutation(n_clients)
    first = attackers if task["attackers_every_round"] else []
    if len(first) > per_round:
        raise UserError(
            f"{len(first)} attackers shall take part in every round, but clients_per_round is "
            f"{per_round}; lower the number of attackers or set attackers_every_round to false"
        )
    others = [int(k) for k in drawn if k not in first]
    return sorted((first + others)[:per_round])


def _enough(task: dict) -> int:
    """How many samples of its source class make a client an eligible attacker."""
    share = task["min_source_share"]
    if share is None:
        return 1
    if "shard_size" not in task["partition"]:
        raise UserError(
            "min_source_share is a share of a shard, but the task's partition has no shard_size; "
            "set min_source_share to null"
        )
    return math.ceil(share * task["partition"]["shard_size"])


class Stopwatch:
    """Seconds per phase. On a GPU by events on its stream, so that no phase waits for another."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._laps: list[tuple[str, object, object]] = []
        self._last = self._now()

    def _now(self):
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, phase: str) -> None:
        """Everything since the last lap was ``phase``."""
        now = self._now()
        self._laps.append((phase, self._last, now))
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Phase -> seconds of the laps so far, which are forgotten; waits for the GPU once."""
        if self._cuda:
            torch.cuda.synchronize()
        seconds = dict.fromkeys(PHASES, 0.0)
        for phase, start, stop in self._laps:
            seconds[phase] += start.elapsed_time(stop) / 1000 if self._cuda else stop - start
        self._laps = []
        return seconds


@dataclass
class State:
    """A cell between two rounds: all that its further rounds depend on, and what it has measured.

    Attributes:
        global_model: (N,) the model after the last round.
        rule: what the aggregation rule remembers, see `arfl.aggregation.InRounds.state`.
        attack: what the attackers remember, see `arfl.attack.Attack.state`.
        rounds: the entries of the rounds so far, as a record holds them.
        seconds: phase -> seconds so far.
        diverged: None, or the round that ended the training and its cause.
    """

    global_model: Tensor
    rule: dict[str, Tensor] = field(default_factory=dict)
    attack: dict[str, Tensor] = field(default_factory=dict)
    rounds: list[dict] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    diverged: dict | None = None


class Scenario:
    """Everything about a cell that stays the same from round to round.

    Args:
        settings: ``task``, ``attack`` (None without one) and ``aggregator`` of a resolved cell,
            see `arfl.grid`.
        n_attackers: number of attackers among the clients.
        seed: the cell's seed.
        dataset: prepared data.
        partition: each client's samples.
        device: where data and models live.

    Raises:
        UserError: if the settings do not fit the data.
    """

    def __init__(
        self,
        settings: dict,
        n_attackers: int,
        seed: int,
        dataset: PreparedDataset,
        partition: Partition,
        device: torch.device,
    ):
        task, attacked = settings["task"], settings["attack"]
        self.task, self.seed, self.device, self._partition = task, seed, device, partition
        self.data = DeviceData(dataset, device)
        # The first part of each client's samples, in the order in which they were dealt.
        self._samples = [
            samples[: round(task["train_share"] * len(samples))] for samples in partition.indices
        ]
        self.network = network.make(task["model"], dataset.meta, task["dropout"])
        self.attack, self._attacker_training = attack.Attack(), {}
        if attacked is not None:
            self.attack = attack.make(attacked["rule"], dataset.meta, **attacked["options"])
            self._attacker_training = attacked["training"]
        self.attackers = choose_attackers(
            partition.class_counts, n_attackers, self.attack.source_class, seed, _enough(task)
        )
        self.aggregate = aggregation.make(
            settings["aggregator"]["rule"], **settings["aggregator"]["options"]
        )
        local = LocalSettings(
            optimizer=task["optimizer"],
            momentum=task["momentum"],
            batch_size=task["batch_size"],
            max_batches_per_epoch=task["max_batches_per_epoch"],
            augment=task["augment"],
        )
        self.local_training = LocalTraining(
            self.network, self.data, local, self.attack, seed, task["lr"]
        )
        self.evaluate = Evaluation(self.network, self.data, self.attack)

    def start(self) -> State:
        """The state before the first round: the initial model, the same for all rules."""
        stream = torch.Generator().manual_seed(seeds.integer(self.seed, "initial_model"))
        return State(self.network.initial(stream).to(self.device))

    def clients(self, round_number: int) -> list[Client]:
        """The clients of a round and what each of them does."""
        numbers = participants(
            self.task, self.attackers, len(self._samples), self.seed, round_number
        )
        active = self.attack.active(round_number)
        return [self._client(number, active) for number in numbers]

    def _client(self, number: int, active: bool) -> Client:
        samples, epochs, lr = self._samples[number], self.task["epochs"], self.task["lr"]
        if number not in self.attackers:
            return Client(number, samples, epochs, lr)
        training = self._attacker_training
        if active or training["inactive"] == "as_attacker":
            epochs, lr = epochs * training["epoch_factor"], lr * training["lr_factor"]
        place = self.attackers.index(number) if active else None
        return Client(number, samples, epochs, lr, attacker=place)

    def submissions(self, models: Tensor, clients: list[Client], start: Tensor, number: int):
        """What arrives at the server: (K, N) models, of which the attackers' are replaced."""
        rows = [row for row, client in enumerate(clients) if client.attacker is not None]
        if not rows:
            return models
        honest = [row for row in range(len(clients)) if row not in set(rows)]
        noise = [seeds.integer(self.seed, "noise", number, clients[row].number) for row in rows]
        view = attack.View(
            global_model=start,
            honest_models=models[honest],
            attackers=tuple(clients[row].number for row in rows),
            round_number=number,
            generators=tuple(torch.Generator().manual_seed(stream) for stream in noise),
        )
        models[rows] = self.attack.collude(models[rows], view)
        return models

    def context(self, clients: list[Client], start: Tensor, number: int) -> aggregation.Context:
        """What the rule may know of a round."""
        return aggregation.Context(
            global_model=start,
            client_ids=tuple(client.number for client in clients),
            sample_counts=tuple(len(client.samples) for client in clients),
            output_layer=self.network.layout.output_layer,
            buffers=self.network.layout.buffers,
            n_attackers=sum(client.number in self.attackers for client in clients),
            round_number=number,
        )

    def describe_clients(self) -> dict:
        """``clients`` of a record."""
        return {
            "n": len(self._samples),
            "attackers": self.attackers,
            "class_counts": self._partition.class_counts.tolist(),
        }

    def backends(self, state: State) -> dict[str, str]:
        """What trains and what aggregates, in words for a record."""
        per_round = len(self.clients(1))
        models = state.global_model.expand(per_round, -1)
        return {"training": self.local_training.backend, "aggregation": backend.describe(models)}


def _divergence(result: aggregation.Aggregation, n_clients: int, round_number: int) -> dict | None:
    """Why a round ends the training, or None."""
    if len(result.excluded) == n_clients:
        return {"round": round_number, "cause": "every submitted model holds a NaN or an infinity"}
    if not result.model.isfinite().all():
        return {"round": round_number, "cause": "the global model holds a NaN or an infinity"}
    return None


def train(
    scenario: Scenario, state: State, after_round: Callable[[State], None] = lambda state: None
) -> State:
    """Train from a state to the last round, or to the round in which the training diverges.

    Args:
        scenario: the cell.
        state: where to begin; it is left as it is.
        after_round: called with the state after each round.

    Returns:
        The state at the end.
    """
    scenario.aggregate.restore(state.rule)
    scenario.attack.restore(state.attack)
    stopwatch = Stopwatch(scenario.device)
    for number in range(len(state.rounds) + 1, scenario.task["rounds"] + 1):
        if state.diverged is not None:
            break
        start = state.global_model
        clients = scenario.clients(number)
        models = scenario.local_training.train(
            start, clients, number, scenario.aggregate.submission
        )
        models = scenario.submissions(models, clients, start, number)
        stopwatch.lap("training")

        result = scenario.aggregate(models, scenario.context(clients, start, number))
        diverged = _divergence(result, len(clients), number)
        stopwatch.lap("aggregation")

        rounds = state.rounds
        if diverged is None:
            rates = scenario.evaluate(result.model)
            rounds = [*rounds, _entry(number, rates, clients, result)]
            stopwatch.lap("evaluation")

        spent = stopwatch.seconds()
        state = State(
            global_model=result.model,
            rule=scenario.aggregate.state(),
            attack=scenario.attack.state(),
            rounds=rounds,
            seconds={phase: state.seconds[phase] + spent[phase] for phase in PHASES},
            diverged=diverged,
        )
        after_round(state)
    return state


def _entry(
    number: int, rates: dict, clients: list[Client], result: aggregation.Aggregation
) -> dict:
    """A round as a record holds it."""
    weights = result.weights
    return {
        "round": number,
        **rates,
        "clients": [client.number for client in clients],
        "weights": None if weights is None else [round(w, 6) for w in weights.tolist()],
        "excluded": [clients[row].number for row in result.excluded],
    }
