"""Training that was cut off goes on where it stood, and a finished record is not trained again."""

import copy
import json
import signal

import numpy as np
import pytest
import small_data
import torch

from arfl import cell as cells
from arfl import checkpoint, federation, record, registry
from arfl import dataset as datasets
from arfl import partition as partitions

CPU = torch.device("cpu")
BLOBS = small_data.blobs(180)
SIX = small_data.partition(np.array_split(np.random.default_rng(1).permutation(180), 6), BLOBS)

NOISE = {"attack": "gaussian", "attack_options": {"noise_std": 0.5}}
CASES = {rule: (rule, {}) for rule in registry.names("aggregators")} | {
    "foolsgold of gradients": ("foolsgold", {"update": "gradients"})
}


def scenario(rule, options):
    """Four of six clients a round, so that FoolsGold's memory is not that of a round's clients."""
    settings = small_data.settings(
        rule, rounds=4, clients_per_round=4, dropout=0.3, momentum=0.9, **NOISE
    )
    settings["aggregator"]["options"] = options
    return federation.Scenario(settings, 2, 1, BLOBS, SIX, CPU)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_resumed_after_any_round_the_training_ends_the_same(tmp_path, case):
    path = tmp_path / "state.npz"
    whole = scenario(*case)
    states = []
    end = federation.train(whole, whole.start(), states.append)
    assert len(end.rounds) == len(states) == 4
    for number, state in enumerate(states, start=1):
        checkpoint.save(path, "key", state, number)
        loaded, resumed = checkpoint.load(path, "key", CPU)
        assert resumed == number
        assert loaded.rounds == end.rounds[:number]
        assert loaded.seconds == state.seconds
        again = federation.train(scenario(*case), loaded)
        assert again.rounds == end.rounds
        assert torch.equal(again.global_model, end.global_model)
        assert again.rule.keys() == end.rule.keys()
        for name, value in end.rule.items():
            assert torch.equal(again.rule[name], value)


def test_without_what_foolsgold_remembers_the_training_would_end_otherwise():
    whole = scenario("foolsgold", {})
    states = []
    end = federation.train(whole, whole.start(), states.append)
    forgetful = copy.copy(states[1])
    forgetful.rule = {}
    assert federation.train(scenario("foolsgold", {}), forgetful).rounds != end.rounds


def test_what_attackers_remember_and_a_divergence_are_saved(tmp_path):
    state = federation.State(
        torch.randn(5),
        attack={"direction": torch.randn(2, 5, dtype=torch.float64), "turn": torch.tensor(3)},
        diverged={"round": 1, "cause": "made"},
    )
    checkpoint.save(tmp_path / "state.npz", "key", state, 0)
    loaded, _ = checkpoint.load(tmp_path / "state.npz", "key", CPU)
    assert loaded.rule == {}
    assert loaded.attack.keys() == state.attack.keys()
    for name, value in state.attack.items():
        assert torch.equal(loaded.attack[name], value)
        assert loaded.attack[name].dtype == value.dtype
    assert loaded.diverged == state.diverged
    assert torch.equal(loaded.global_model, state.global_model)


def test_a_checkpoint_of_something_else_or_a_broken_one_is_none(tmp_path):
    path = tmp_path / "state.npz"
    assert checkpoint.load(path, "key", CPU) is None
    checkpoint.save(path, "key", federation.State(torch.randn(500)), 2)
    assert checkpoint.load(path, "key", CPU) is not None
    assert checkpoint.load(path, "another", CPU) is None
    content = path.read_bytes()
    for kept in (0, 1, 30, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        assert checkpoint.load(path, "key", CPU) is None, kept
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    assert checkpoint.load(path, "key", CPU) is None
    path.write_bytes(b"no archive at all" * 100)
    assert checkpoint.load(path, "key", CPU) is None
    np.savez(path, other=np.zeros(3))
    assert checkpoint.load(path, "key", CPU) is None
    np.savez(path, rest=np.array(json.dumps([1, 2])))
    assert checkpoint.load(path, "key", CPU) is None
    np.save(path.with_suffix(".npy"), np.zeros(3))
    assert checkpoint.load(path.with_suffix(".npy"), "key", CPU) is None


# What `train` does for a cell


CELL = {
    "id": "t/noise/attackers-1/foolsgold/seed-1",
    "task": "t",
    "attack": "noise",
    "n_attackers": 1,
    "aggregator": "foolsgold",
    "seed": 1,
    "changes": {"task": {}, "attack": {}, "aggregator": {}},
}
SETTINGS = small_data.settings(
    "foolsgold", rounds=4, n_clients=4, dropout=0.3, partition={"name": "iid"}, **NOISE
) | {"scale": "quick", "protocol": "paper"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with prepared data and a partition."""
    folder = tmp_path_factory.mktemp("made")
    small_data.write_blobs(folder / "data")
    prepared = datasets.load(folder / "data")
    partitions.make(prepared, {"name": "iid"}, 4, 1).save(folder / "seed-1.npz")
    return folder


@pytest.fixture(autouse=True)
def handlers():
    """What an interrupted cell does with signals ends with the test."""
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(stop) for stop in stops]
    yield
    for stop, handler in zip(stops, before, strict=True):
        signal.signal(stop, handler)


def train(made, folder, settings=SETTINGS, minutes=10.0):
    """The record of the cell; the kept one and the checkpoint lie in ``folder / "kept"``."""
    (folder / "kept").mkdir(exist_ok=True)
    cells.train(
        CELL,
        settings,
        made / "data" / "meta.json",
        made / "seed-1.npz",
        "cpu",
        minutes,
        folder / "kept" / "cell.json",
        folder / "cell.json",
    )
    return record.read(folder / "cell.json")


def measured(content):
    """A record without what tells one training of a cell from another."""
    return {k: v for k, v in content.items() if k not in ("provenance", "seconds", "digest")}


def interrupt_after(monkeypatch, number):
    """The next training is interrupted when the state after this round has been noted."""
    whole = federation.train

    def interrupted(scenario, state, after_round):
        def then_stop(reached):
            after_round(reached)
            if len(reached.rounds) == number:
                raise KeyboardInterrupt

        return whole(scenario, state, then_stop)

    monkeypatch.setattr(federation, "train", interrupted)


@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_an_interrupted_cell_goes_on_from_its_checkpoint(monkeypatch, tmp_path, made, minutes):
    expected_in, folder = tmp_path / "expected", tmp_path / "cut"
    expected_in.mkdir()
    folder.mkdir()
    expected = train(made, expected_in)
    assert expected["provenance"]["resumed"] == 0
    assert [file.name for file in (expected_in / "kept").iterdir()] == ["cell.json"]

    for resumed, number in enumerate((2, 3)):
        with monkeypatch.context() as patch:
            interrupt_after(patch, number)
            with pytest.raises(KeyboardInterrupt):
                train(made, folder, minutes=minutes)
        assert [file.name for file in (folder / "kept").iterdir()] == ["cell.checkpoint.npz"]
        assert not (folder / "cell.json").exists()
        with np.load(folder / "kept" / "cell.checkpoint.npz") as stored:
            rest = json.loads(str(stored["rest"]))
        assert (len(rest["rounds"]), rest["resumed"]) == (number, resumed)

    begun = []
    whole = federation.train
    with monkeypatch.context() as patch:
        patch.setattr(
            federation,
            "train",
            lambda scenario, state, *more: begun.append(state) or whole(scenario, state, *more),
        )
        content = train(made, folder, minutes=minutes)
    assert [len(state.rounds) for state in begun] == [3]
    assert measured(content) == measured(expected)
    assert content["provenance"]["resumed"] == 2
    for phase in ("training", "aggregation", "evaluation"):
        assert content["seconds"][phase] > begun[0].seconds[phase]
    parts = [content["seconds"][phase] for phase in ("training", "aggregation", "evaluation")]
    assert content["seconds"]["total"] == pytest.approx(sum(parts))
    assert [file.name for file in (folder / "kept").iterdir()] == ["cell.json"]


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(monkeypatch, tmp_path, made):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(made, tmp_path)
    other = copy.deepcopy(SETTINGS)
    other["task"]["lr"] = 0.05
    assert train(made, tmp_path, other)["provenance"]["resumed"] == 0


class TrainedError(Exception):
    """Something was trained."""


def refuse(*_):
    raise TrainedError


def test_a_kept_record_is_taken_up_only_if_it_is_this_cells_and_whole(monkeypatch, tmp_path, made):
    first = train(made, tmp_path)
    kept = tmp_path / "kept" / "cell.json"
    assert kept.read_bytes() == (tmp_path / "cell.json").read_bytes()
    (tmp_path / "cell.json").unlink()
    monkeypatch.setattr(federation, "train", refuse)
    assert train(made, tmp_path) == first

    changed = copy.deepcopy(SETTINGS)
    changed["task"]["lr"] = 0.05
    with pytest.raises(TrainedError):
        train(made, tmp_path, changed)
    with monkeypatch.context() as patch:
        patch.setattr(cells, "code_of", lambda *_: "other code")
        with pytest.raises(TrainedError):
            train(made, tmp_path)

    text = kept.read_text(encoding="utf-8")
    edited = text.replace('"seed": 1', '"seed": 2', 1)
    forged = {**first, "data": first["data"] | {"kind": "complete"}}
    forged["digest"] = record.digest(forged)
    for content in (edited, json.dumps(forged), text[: len(text) // 2], ""):
        assert content != text
        kept.write_text(content, encoding="utf-8")
        with pytest.raises(TrainedError):
            train(made, tmp_path)
    kept.write_text(text, encoding="utf-8")
    assert train(made, tmp_path) == first
