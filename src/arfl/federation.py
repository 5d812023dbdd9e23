"""The federated training of one cell: the round loop."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from arfl import aggregators, attacks, metrics, models, seeds
from arfl.datasets import PreparedDataset
from arfl.device_data import DeviceData
from arfl.errors import UserError
from arfl.local_training import Client, LocalSettings, train_clients
from arfl.partition import Partition

_EVALUATION_BATCH = 1000


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

    def totals(self) -> dict[str, float]:
        """Phase -> seconds; waits for the GPU once."""
        if self._cuda:
            torch.cuda.synchronize()
        totals: dict[str, float] = {}
        for phase, start, stop in self._laps:
            seconds = start.elapsed_time(stop) / 1000 if self._cuda else stop - start
            totals[phase] = totals.get(phase, 0.0) + seconds
        return totals


def choose_attackers(
    class_counts: np.ndarray, n_attackers: int, source_class: int | None, seed: int
) -> list[int]:
    """Which clients attack.

    The attackers of a smaller number are among those of a larger one, so that a sweep over the
    number of attackers adds clients and exchanges none.

    Args:
        class_counts: (n_clients, n_classes) samples of each class at each client.
        n_attackers: how many.
        source_class: if not None, only clients that hold this class are eligible.
        seed: the cell's seed.

    Raises:
        UserError: if too few clients are eligible.
    """
    eligible = class_counts.sum(1) > 0
    if source_class is not None:
        eligible = class_counts[:, source_class] > 0
    candidates = seeds.generator(seed, "attackers").permutation(np.flatnonzero(eligible))
    if n_attackers > len(candidates):
        held = "samples" if source_class is None else f"class {source_class}"
        raise UserError(
            f"{n_attackers} attackers are asked for, but only {len(candidates)} clients hold "
            f"{held}; lower the number of attackers or raise n_clients"
        )
    return sorted(int(k) for k in candidates[:n_attackers])


def _round_clients(
    task: dict, attackers: list[int], partition: Partition, seed: int, round_number: int
) -> list[int]:
    """The clients of a round, sorted.

    When they are sampled, ``attackers_every_round`` puts the attackers among them and draws the
    rest from the same permutation whatever the number of attackers.

    Raises:
        UserError: if the attackers do not fit into a round.
    """
    n_clients, per_round = len(partition.indices), task["clients_per_round"]
    if per_round is None or per_round >= n_clients:
        return list(range(n_clients))
    drawn = seeds.generator(seed, "client_sampling", round_number).permutation(n_clients)
    first = attackers if task["attackers_every_round"] else []
    if len(first) > per_round:
        raise UserError(
            f"{len(first)} attackers shall take part in every round, but clients_per_round is "
            f"{per_round}; lower the number of attackers or set attackers_every_round to false"
        )
    others = [int(k) for k in drawn if k not in first]
    return sorted((first + others)[:per_round])


def _evaluate(model, data: DeviceData, global_model: Tensor, attack: attacks.Attack) -> dict:
    """Accuracy and success rates of the global model on the test set, as fractions."""
    accuracy, success, success_excluding = (metrics.Tally.empty(data.device) for _ in range(3))
    tensors = model.layout.views(global_model.unsqueeze(0))

    def predict(x: Tensor) -> Tensor:
        logits = model.forward(tensors, x.unsqueeze(0), training=False, generator=None)[0]
        return metrics.predictions(logits, model.binary)

    with torch.no_grad():
        for start in range(0, data.n_test, _EVALUATION_BATCH):
            x, y = data.test_batch(start, start + _EVALUATION_BATCH)
            predicted = predict(x)
            accuracy.add(predicted == y)
            probe = attack.probe(x, y)
            if probe is not None:
                hit = (predicted if probe.x is x else predict(probe.x)) == probe.target
                success.add(hit, probe.counted)
                success_excluding.add(hit, probe.counted & (y != probe.target))
    return {
        "accuracy": accuracy.rate(),
        "attack_success_rate": success.rate(),
        "attack_success_rate_excl_target": success_excluding.rate(),
    }


def _training_samples(partition: Partition, share: float) -> list[np.ndarray]:
    """Each client's samples, cut to the first ``share`` of them in their order in the dataset."""
    return [samples[: round(share * len(samples))] for samples in partition.indices]


def run(
    settings: dict,
    n_attackers: int,
    seed: int,
    dataset: PreparedDataset,
    partition: Partition,
    device: torch.device,
    on_round: Callable[[dict], None] = lambda entry: None,
) -> dict:
    """Train one cell.

    Args:
        settings: ``task``, ``attack`` (None without one) and ``aggregator`` of a resolved cell,
            see `arfl.grid`.
        n_attackers: number of attackers among the clients.
        seed: the cell's seed.
        dataset: prepared data.
        partition: each client's samples.
        device: where data and models live.
        on_round: called with each round's entry as it is complete.

    Returns:
        ``clients``, ``rounds`` and ``seconds`` as a record holds them, see `arfl.record`.

    Raises:
        UserError: if the settings do not fit the data.
    """
    task = settings["task"]
    data = DeviceData(dataset, device, augment=task["augment"])
    samples = _training_samples(partition, task["train_share"])
    in_all = task["rounds"] * task["epochs"] * sum(map(len, samples))
    model = models.build(task["model"], dataset.meta, task["dropout"], in_all)
    attack, attacker_settings = attacks.Attack(), {}
    if settings["attack"] is not None:
        attack = attacks.make(
            settings["attack"]["rule"], dataset.meta, **settings["attack"]["options"]
        )
        attacker_settings = settings["attack"]["training"]
    attackers = choose_attackers(partition.class_counts, n_attackers, attack.source_class, seed)
    aggregate = aggregators.make(
        settings["aggregator"]["rule"], **settings["aggregator"]["options"]
    )
    local = LocalSettings(
        optimizer=task["optimizer"],
        momentum=task["momentum"],
        batch_size=task["batch_size"],
        max_batches_per_epoch=task["max_batches_per_epoch"],
    )

    def client(number: int, attacking: bool) -> Client:
        epochs, lr = task["epochs"], task["lr"]
        if attacking:
            epochs *= attacker_settings["epoch_factor"]
            lr *= attacker_settings["lr_factor"]
        return Client(number, samples[number], epochs, lr, poisoned=attacking)

    stream = torch.Generator().manual_seed(seeds.integer(seed, "initial_model"))
    global_model = model.initial(stream).to(device)
    rounds = []
    stopwatch = Stopwatch(device)
    for round_number in range(1, task["rounds"] + 1):
        numbers = _round_clients(task, attackers, partition, seed, round_number)
        attacking = [k in attackers and attack.active(round_number) for k in numbers]
        clients = [client(k, bad) for k, bad in zip(numbers, attacking, strict=True)]
        submitted = train_clients(
            model, data, global_model, clients, local, attack, seed, round_number
        )
        for row in np.flatnonzero(attacking):
            noise = torch.Generator().manual_seed(
                seeds.integer(seed, "noise", round_number, numbers[row])
            )
            submitted[row] = attack.submit(submitted[row], global_model, noise)
        stopwatch.lap("training")

        context = aggregators.Context(
            global_model=global_model,
            client_ids=tuple(numbers),
            sample_counts=tuple(len(c.samples) for c in clients),
            output_layer=model.layout.output_layer,
            buffers=model.layout.buffers,
        )
        aggregation = aggregate(submitted, context)
        global_model = aggregation.model
        stopwatch.lap("aggregation")

        entry = {"round": round_number} | _evaluate(model, data, global_model, attack)
        weights = aggregation.weights
        entry["clients"] = numbers
        entry["weights"] = None if weights is None else [round(w, 6) for w in weights.tolist()]
        entry["excluded"] = [numbers[row] for row in aggregation.excluded]
        rounds.append(entry)
        stopwatch.lap("evaluation")
        on_round(entry)
    seconds = stopwatch.totals()
    return {
        "clients": {
            "n": len(partition.indices),
            "attackers": attackers,
            "class_counts": partition.class_counts.tolist(),
        },
        "rounds": rounds,
        "seconds": seconds | {"total": sum(seconds.values())},
    }
