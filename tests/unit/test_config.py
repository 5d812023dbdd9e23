"""The shipped configuration is accepted; each mistake in it is one message."""

import copy
from pathlib import Path

import pytest
import yaml

from arfl import config
from arfl.errors import UserError

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


def changed(path, value):
    """The shipped configuration with the key at ``path`` set to ``value``."""
    result = copy.deepcopy(SHIPPED)
    *parents, last = path
    place = result
    for key in parents:
        place = place[key]
    place[last] = value
    return result


def test_the_shipped_configuration_is_accepted_and_not_changed():
    given = copy.deepcopy(SHIPPED)
    config.check(given, SCHEMA)
    assert given == SHIPPED


@pytest.mark.parametrize("scale", ["quick", "reduced", "paper"])
@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_every_scale_and_protocol_is_accepted(scale, protocol):
    config.check(SHIPPED | {"scale": scale, "protocol": protocol}, SCHEMA)


TASK = ("tasks", "mnist_shards")
PANEL = {"task": "mnist_shards", "attack": "label_flip"}
VARIED = PANEL | {"n_attackers": [1], "vary": {"of": "task", "option": "lr", "values": [1]}}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # unknown keys, at every depth
        (("sclae",), "quick", "config: unknown key sclae; did you mean 'scale'?"),
        (("colour",), 1, "config: unknown key colour; known: aggregators, attacks, "),
        ((*TASK, "batchsize"), 8, "tasks.mnist_shards.batchsize; did you mean 'batch_size'?"),
        (
            ("scales", "quick", "tasks", "mnist_shards", "epoch"),
            1,
            "unknown key scales.quick.tasks.mnist_shards.epoch; did you mean 'epochs'?",
        ),
        (("scales", "tiny"), {}, "unknown key scales.tiny; known: paper, quick, reduced"),
        (("protocols", "papers"), {}, "unknown key protocols.papers; did you mean 'paper'?"),
        (("aggregators", "median", "option"), {}, "aggregators.median.option; did you mean 'opti"),
        ((1,), 2, "config: 1: the key 1 is no text; put it in quotes"),
        ((*TASK, True), 2, "config: tasks.mnist_shards.True: the key True is no text"),
        ((*TASK, "attacks", None), 2, "config: tasks.mnist_shards.attacks.None: the key None is"),
        # wrong values
        (("scale",), "huge", "config: scale: 'huge' is not one of ['quick', 'reduced', 'paper']"),
        (("device",), "gpu", "config: device: 'gpu' is not one of ['auto', 'cpu', 'cuda']"),
        (("missing_cells",), "skip", "config: missing_cells: 'skip' is not one of "),
        (("seeds",), [], "config: seeds: [] "),
        (("seeds",), [1, 1], "config: seeds: [1, 1] has non-unique elements"),
        (("seeds",), [-1], "config: seeds.0: -1 is less than the minimum of 0"),
        (("seeds",), 3, "config: seeds: 3 is not of type 'array'"),
        (("seeds",), ["1"], "config: seeds.0: '1' is not of type 'integer'"),
        (("target_seeds",), {"loan": []}, "config: target_seeds.loan: [] "),
        ((*TASK, "rounds"), "12", "config: tasks.mnist_shards.rounds: '12' is not of type"),
        ((*TASK, "rounds"), 0, "config: tasks.mnist_shards.rounds: 0 is less than the minimum"),
        ((*TASK, "lr"), 0, "config: tasks.mnist_shards.lr: 0 is less than or equal to"),
        ((*TASK, "momentum"), 1, "config: tasks.mnist_shards.momentum: 1 is greater than or"),
        ((*TASK, "model"), "Vgg", "config: tasks.mnist_shards.model: 'Vgg' does not match"),
        ((*TASK, "client_sampling"), "once", "client_sampling: 'once' is not one of"),
        ((*TASK, "min_source_share"), 0, "min_source_share: 0 is less than or equal to"),
        (("seeds",), [10**23], "config: seeds.0: 1000"),
        (("checkpoint_minutes",), 0, "config: checkpoint_minutes: 0 is less than or equal to"),
        (("job_minutes",), 0.5, "config: job_minutes: 0.5 is not"),
        (("attacks", "gaussian", "training", "inactive"), "idle", "inactive: 'idle' is not one of"),
        # numbers that are none
        ((*TASK, "lr"), float("nan"), "config: tasks.mnist_shards.lr: nan is not a finite number"),
        (
            ("scales", "quick", "tasks", "mnist_shards", "lr"),
            float("inf"),
            "config: scales.quick.tasks.mnist_shards.lr: inf is not a finite number",
        ),
        (
            ("attacks", "gaussian", "options"),
            {"noise_std": -float("inf")},
            "config: attacks.gaussian.options.noise_std: -inf is not a finite number",
        ),
        (("seeds",), [float("nan")], "config: seeds.0: nan is not a finite number"),
        ((*TASK, "lr"), "1e-7", "'1e-7' is not of type 'number'; write the number as 1.0e-07"),
        ((*TASK, "augment"), "yes", "config: tasks.mnist_shards.augment: 'yes' is not of type"),
        ((*TASK, "partition"), {}, "config: tasks.mnist_shards.partition: 'name' is a required"),
        (("tasks",), None, "config: tasks: None is not of type 'object'"),
        (("tasks", "Bad/Name"), {}, "config: tasks: 'Bad/Name' does not match"),
        (("attacks", "label_flip", "training"), {"epoch_factor": 0.5}, "epoch_factor: 0.5 is not"),
        (("aggregators", "median", "options"), {"a": [1]}, "aggregators.median.options.a: [1] is"),
        (
            ("targets", "figure3"),
            [PANEL],
            "config: targets.figure3.0: 'n_attackers' is a required property",
        ),
        (
            ("targets", "figure3"),
            [VARIED | {"vary": VARIED["vary"] | {"also": {"epochs": 0}}}],
            "config: targets.figure3.0.vary.also.epochs: 0 is less than the minimum of 1",
        ),
        (
            ("targets", "figure3"),
            [VARIED | {"vary": {"of": "aggregator", "option": "delta", "values": [1]}}],
            "config: targets.figure3.0: 'aggregators' is a required property",
        ),
        (
            ("targets", "figure3"),
            [VARIED | {"vary": {"of": "task", "option": "lr"}}],
            "config: targets.figure3.0.vary: 'values' is a required property",
        ),
        (
            ("targets", "figure3"),
            [VARIED | {"vary": {"of": "tasks", "option": "lr", "values": [1]}}],
            "config: targets.figure3.0.vary.of: 'tasks' is not one of",
        ),
        (
            ("targets", "figure3"),
            [VARIED | {"vary": {"of": "task", "option": "batch_size", "values": [8, -1]}}],
            "config: targets.figure3.0.vary.values.1: -1 is less than the minimum of 1",
        ),
        (
            ("scales", "quick", "targets"),
            {"x": [VARIED | {"vary": {"of": "task", "option": "augment", "values": [3]}}]},
            "config: scales.quick.targets.x.0.vary.values.0: 3 is not of type 'boolean'",
        ),
        (
            ("targets", "figure3"),
            [VARIED | {"vary": {"of": "attack", "option": "scale", "values": [float("inf")]}}],
            "config: targets.figure3.0.vary.values.0: inf is not a finite number",
        ),
        (
            ("targets", "table4"),
            [PANEL | {"n_attackers": [1], "noise_std": [0, 1]}],
            "config: unknown key targets.table4.0.noise_std; known: ",
        ),
        (("targets", "figure3"), [PANEL | {"n_attackers": 3}], "figure3.0.n_attackers: 3 is not"),
        (("resources", "mnist_shards"), {"minutes": 1}, "'mem_mb' is a required property"),
        (
            ("beyond",),
            {"x": [VARIED | {"vary": {"of": "task", "option": "batch_size", "values": ["big"]}}]},
            "config: beyond.x.0.vary.values.0: 'big' is not of type 'integer'",
        ),
        # what a pattern or a type alone would not say
        (("targets",), {"my_table": [PANEL]}, "A target's name: lower-case letters and digits"),
        (("aggregators",), {"my-rule": {}}, "; A name that can stand in a path: lower-case"),
        (("targets", "figure3"), PANEL, "; write a list: [ ] around it, or a dash before it"),
        (
            ("targets", "figure3"),
            [PANEL | {"n_attackers": [1], "aggregators": "median"}],
            "; The rules of this panel, `all` or a list",
        ),
    ],
)
def test_a_mistake_is_one_message_that_names_its_key(path, value, message):
    wrong = changed(path, value)
    with pytest.raises(UserError) as raised:
        config.check(wrong, SCHEMA)
    assert message in str(raised.value)
    assert str(raised.value).startswith("config: ")
    assert len(str(raised.value)) < 400


def test_a_missing_key_is_named():
    for key in SHIPPED.keys() - {"beyond", "container", "target_seeds"}:
        rest = {k: v for k, v in SHIPPED.items() if k != key}
        with pytest.raises(UserError, match=f"config: top level: '{key}' is a required property"):
            config.check(rest, SCHEMA)
