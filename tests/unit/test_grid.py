"""The grid: counts at paper scale, shared cells, merging, names, and messages."""

import copy
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from arfl import grid, registry
from arfl.errors import UserError
from arfl.grid import Grid

ROOT = Path(__file__).parents[2]
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
RULES = {"fedavg", "median", "trimmed_mean", "repeated_median", "foolsgold", "residual_reweighting"}


def shipped(scale="paper", protocol="paper", **change):
    return Grid(copy.deepcopy(SHIPPED) | {"scale": scale, "protocol": protocol} | change)


def small(targets, **change):
    """A configuration of two tasks, two aggregators, two attacks and two seeds."""
    shipped_task = SHIPPED["tasks"]["mnist_dirichlet"]
    plain = {
        key: shipped_task[key] for key in shipped_task if key not in ("attacks", "aggregators")
    }
    task = plain | {"rounds": 9, "epochs": 5, "n_clients": 10}
    config = {
        "scale": "paper",
        "protocol": "paper",
        "device": "cpu",
        "seeds": [1, 2],
        "aggregators": {
            "mean": {"label": "Mean", "rule": "fedavg"},
            "ours": {"rule": "residual_reweighting", "options": {"delta": 0.1, "lam": 2.0}},
        },
        "attacks": {
            "flip": {
                "rule": "label_flip",
                "options": {"source": 0},
                "training": {"epoch_factor": 2, "lr_factor": 1},
            },
            "noise": {
                "rule": "gaussian",
                "training": {"epoch_factor": 1, "lr_factor": 1},
                "no_effect": {"noise_std": 0},
            },
        },
        "tasks": {
            "easy": task
            | {
                "attacks": {"flip": {"source": 1, "target": 7}},
                "aggregators": {"ours": {"delta": 0.01}},
            },
            "hard": task
            | {"attacks": {"flip": {"target": 2}}, "attack_training": {"lr_factor": 0.2}},
        },
        "targets": targets,
        "resources": {name: {"minutes": 1, "mem_mb": 100} for name in ("easy", "hard")},
        "scales": {"paper": {}, "quick": {}, "reduced": {}},
        "protocols": {"paper": {}, "released": {}},
    }
    return Grid(grid.merge(config, change))


# The paper's grid


@pytest.mark.parametrize(
    ("target", "levels"),
    [
        ("figure3", {("", n): ("mnist", n) for n in range(11)}),
        ("table1", {("", n): ("cifar10", n) for n in range(5)}),
        ("table2", {("", n): ("amazon", n) for n in range(5)}),
        (
            "table3",
            {
                (f"{data}/backdoor_{kind}", None): (data, 1)
                for data in ("mnist", "cifar10")
                for kind in ("naive", "replacement")
            },
        ),
        ("table4", {("", std): ("mnist", 10 if std else 0) for std in (0, 1, 2, 3)}),
        ("loan", {(f"loan/backdoor_{k}", None): ("loan", 1) for k in ("naive", "replacement")}),
        ("figure4", {("cifar10/backdoor_naive", None): ("cifar10", 1)}),
    ],
)
def test_each_target_has_every_level_aggregator_and_seed_once(target, levels):
    points = shipped().points[target]
    wanted = {(*level, rule, seed) for level in levels for rule in RULES for seed in (1, 2, 3)}
    counted = Counter((p.panel, p.x, p.cell.aggregator, p.cell.seed) for p in points)
    assert set(counted) == wanted
    assert set(counted.values()) == {1}
    for point in points:
        assert (point.dataset, point.cell.n_attackers) == levels[point.panel, point.x]


def test_paper_scale_is_the_papers_training():
    tasks = shipped().tasks
    keys = ("model", "n_clients", "rounds", "epochs", "batch_size", "optimizer", "lr")
    described = {name: tuple(task[key] for key in keys) for name, task in tasks.items()}
    assert described == {
        "mnist_shards": ("cnn", 100, 200, 5, 128, "sgd", 0.01),
        "mnist_dirichlet": ("cnn", 10, 200, 5, 64, "sgd", 0.01),
        "cifar10_dirichlet": ("resnet18", 10, 100, 5, 64, "sgd", 0.01),
        "amazon_iid": ("fasttext", 10, 10, 5, 64, "adam", 0.05),
        "loan_states": ("loannet", None, 100, 5, 64, "sgd", 0.01),
    }
    assert tasks["loan_states"]["clients_per_round"] == 10


def attack_of(grid_, target, panel, x):
    (cell,) = {
        p.cell
        for p in grid_.points[target]
        if (p.panel, p.x, p.cell.aggregator, p.cell.seed) == (panel, x, "fedavg", 1)
    }
    settings = grid_.settings(cell)
    training, task = settings["attack"]["training"], settings["task"]
    epochs, lr = task["epochs"] * training["epoch_factor"], task["lr"] * training["lr_factor"]
    return settings["attack"]["rule"], settings["attack"]["options"], epochs, pytest.approx(lr)


def test_attackers_train_as_the_paper_says():
    paper = shipped()
    assert attack_of(paper, "figure3", "", 3) == (
        "label_flip",
        {"source": 1, "target": 7},
        10,
        0.1,
    )
    assert attack_of(paper, "table1", "", 3) == (
        *("label_flip", {"source": "cat", "target": "dog"}, 10, 0.1),
    )
    assert attack_of(paper, "table2", "", 3) == ("label_flip", {"source": "all"}, 10, 0.05)
    assert attack_of(paper, "table4", "", 2) == ("gaussian", {"noise_std": 2}, 5, 0.01)
    naive = {"poisoned_per_batch": 20, "trigger_value": "white"}
    replacing = naive | {"active_round": 6, "scale": 100}
    loan_target = "Does not meet the credit policy. Status:Fully Paid"
    for data, target, lr in (
        ("mnist", 2, 0.1),
        ("cifar10", "bird", 0.1),
        ("loan", loan_target, 0.002),
    ):
        table = "loan" if data == "loan" else "table3"
        for kind, options in (("naive", naive), ("replacement", replacing)):
            expected = ("backdoor", options | {"target": target}, 10, lr)
            assert attack_of(paper, table, f"{data}/backdoor_{kind}", None) == expected


def test_options_of_ours_are_the_papers():
    paper = shipped()
    for target, delta in (("figure3", 0.01), ("table1", 0.1), ("table2", 0.1), ("loan", 0.1)):
        for point in paper.points[target]:
            if point.cell.aggregator == "residual_reweighting":
                options = paper.settings(point.cell)["aggregator"]["options"]
                assert options == {"variant": "paper", "lam": 2.0, "delta": delta}


def test_the_released_protocol_differs_where_the_released_code_does():
    released = shipped(protocol="released")
    assert released.run == "paper-released"
    for name, task in released.tasks.items():
        assert (task["train_share"], task["max_batches_per_epoch"]) == (0.7, 31)
        assert task["clients_per_round"] == {"mnist_shards": 10, "loan_states": 10}.get(name)
        sampling = "fixed" if name == "loan_states" else "each_round"
        assert task["client_sampling"] == sampling
        assert task["min_source_share"] == (1.0 if name == "mnist_shards" else None)
    assert attack_of(released, "figure3", "", 3)[2:] == (10, 0.1)
    _, options, _, _ = attack_of(released, "table3", "mnist/backdoor_replacement", None)
    assert (options["scale"], options["trigger_value"]) == (10, "one")
    _, options, _, lr = attack_of(released, "loan", "loan/backdoor_naive", None)
    assert lr == 0.002
    assert (options["target"], options["poisoned_per_batch"]) == ("Fully Paid", 10)
    for rule in ("repeated_median", "residual_reweighting"):
        assert released.aggregators[rule]["options"]["variant"] == "released"
    foolsgold = released.aggregators["foolsgold"]["options"]
    assert foolsgold == {"update": "gradients", "buffers": "frozen"}
    for points in released.points.values():
        for cell in {p.cell for p in points if p.cell.aggregator == "residual_reweighting"}:
            if not cell.changed("aggregator"):
                assert released.settings(cell)["aggregator"]["options"]["delta"] == 0.1


@pytest.mark.parametrize(
    ("protocol", "inactive"), [("paper", "honest"), ("released", "as_attacker")]
)
def test_how_attackers_train_while_they_wait(protocol, inactive):
    made = shipped(protocol=protocol)
    for point in made.points["table3"]:
        training = made.settings(point.cell)["attack"]["training"]
        waits = point.cell.attack == "backdoor_replacement"
        assert training["inactive"] == (inactive if waits else "honest")


def test_where_the_text_is_silent_the_paper_protocol_says_what_it_takes():
    paper = shipped()
    assert paper.tasks["mnist_shards"]["min_source_share"] == 0.5
    assert {task["client_sampling"] for task in paper.tasks.values()} == {"each_round"}
    assert paper.aggregators["foolsgold"]["options"]["update"] == "models"
    assert paper.value("attacks.label_flip.training.lr_factor") == 10


@pytest.mark.parametrize("scale", SHIPPED["scales"])
@pytest.mark.parametrize("protocol", SHIPPED["protocols"])
def test_every_scale_has_every_target_and_unique_names_for_paths(scale, protocol):
    made = shipped(scale, protocol)
    assert set(made.points) == set(shipped().points)
    cells = {point.cell for points in made.points.values() for point in points}
    assert len({cell.id for cell in cells}) == len(cells) == len(made.cells)
    assert len({made.record_path(cell) for cell in cells}) == len(cells)
    for cell in cells:
        assert re.fullmatch(r"[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+){4}", cell.id), cell.id
        assert ".." not in cell.id
        assert made.record_path(cell) == f"results/{made.run}/cells/{cell.id}.json"
        assert made.resources(cell)["minutes"] >= 1
        assert made.cell(cell.id) == cell


def test_no_stand_in_outside_scale_quick():
    for scale in ("reduced", "paper"):
        assert all(task["data"] == task["dataset"] for task in shipped(scale).tasks.values())
    quick = shipped("quick")
    used = {point.cell.task for points in quick.points.values() for point in points}
    assert {quick.tasks[task]["data"] for task in used} == {
        *("digits", "synthetic_reviews", "synthetic_loans"),
    }


# Cells that targets share


FLIPS = {"task": "easy", "attack": "flip", "n_attackers": [0, 2]}
NOISE = {
    "task": "easy",
    "attack": "noise",
    "n_attackers": [3],
    "vary": {"of": "attack", "option": "noise_std", "values": [0, 0.5]},
}


def sweep(of, option, values, **change):
    """A panel that varies one option."""
    vary = {"of": of, "option": option, "values": values}
    return {"task": "easy", "attack": "flip", "n_attackers": [2], "vary": vary} | change


def test_no_attackers_and_no_noise_are_one_cell():
    made = small({"a": [FLIPS], "b": [NOISE]})
    clean = [{p.cell for p in made.points[t] if p.x == 0} for t in ("a", "b")]
    assert clean[0] == clean[1]
    for cell in clean[0]:
        assert (cell.attack, cell.n_attackers, cell.changes) == ("none", 0, ())
        assert made.settings(cell)["attack"] is None
    # one clean, one flipped and one noisy level x 2 aggregators x 2 seeds
    assert len(made.cells) == 12
    assert [p.x for p in made.points["b"][:4]] == [0] * 4


def test_a_noise_level_is_an_option_of_its_cells_alone():
    made = small({"b": [NOISE]})
    noisy = [p.cell for p in made.points["b"] if p.x]
    assert all(made.settings(cell)["attack"]["options"] == {"noise_std": 0.5} for cell in noisy)
    assert {cell.part("attack") for cell in noisy} == {"noise.noise_std-0.5"}
    assert "options" not in made.config["attacks"]["noise"]


def test_a_swept_option_at_its_configured_value_is_the_configured_cell():
    varied = sweep("aggregator", "delta", [0.01, 0.1], panel="delta", aggregators=["ours"])
    made = small({"a": [FLIPS], "h": [varied]})
    ours = {p.cell for p in made.points["a"] if p.cell.aggregator == "ours" and p.x == 2}
    by_value = {v: {p.cell for p in made.points["h"] if p.x == v} for v in (0.01, 0.1)}
    # the task's own delta, 0.01, and not the general one
    assert by_value[0.01] == ours
    assert not by_value[0.1] & ours
    assert {p.x_name for p in made.points["h"]} == {"delta"}
    for cell in by_value[0.1]:
        assert cell.changes == (("aggregator", "delta", "0.1"),)
        assert cell.changed("aggregator") == {"delta": 0.1}
        assert made.settings(cell)["aggregator"]["options"] == {"delta": 0.1, "lam": 2.0}
    for cell in ours:
        assert made.settings(cell)["aggregator"]["options"] == {"delta": 0.01, "lam": 2.0}


def test_each_number_of_attackers_of_a_sweep_is_a_panel_with_what_goes_along():
    vary = {"of": "task", "option": "epochs", "values": [5, 1], "also": {"batch_size": 7}}
    [*points] = small({"a": [FLIPS | {"panel": "e", "n_attackers": [0, 2], "vary": vary}]}).points[
        "a"
    ]
    assert [p.panel for p in points] == ["e/0"] * 8 + ["e/2"] * 8
    assert [p.x for p in points] == ([5] * 4 + [1] * 4) * 2
    assert {p.x_name for p in points} == {"epochs"}
    changes = {(p.panel, p.x): p.cell.changed("task") for p in points}
    assert changes == {
        ("e/0", 5): {"batch_size": 7},
        ("e/2", 5): {"batch_size": 7},
        ("e/0", 1): {"epochs": 1, "batch_size": 7},
        ("e/2", 1): {"epochs": 1, "batch_size": 7},
    }
    assert {p.cell.attack for p in points if p.panel == "e/0"} == {"none"}


@pytest.mark.parametrize(
    ("name", "same"),
    [
        # all train, so that nobody is drawn
        ("easy.attackers_every_round-false/flip/attackers-2", "easy/flip/attackers-2"),
        (
            "easy.attackers_every_round-false.clients_per_round-10/flip/attackers-2",
            "easy.clients_per_round-10/flip/attackers-2",
        ),
        # nobody attacks, so that no attackers are drawn or chosen
        (
            "easy.attackers_every_round-false.clients_per_round-4/none/attackers-0",
            "easy.clients_per_round-4/none/attackers-0",
        ),
    ],
)
def test_an_option_that_decides_nothing_in_a_cell_is_no_change(name, same):
    made = small({"a": [FLIPS]})
    with pytest.raises(UserError, match=f"does nothing that {same}/mean/seed-1 does not"):
        made.cell(f"{name}/mean/seed-1")
    assert made.cell(f"{same}/mean/seed-1").id == f"{same}/mean/seed-1"
    decides = "easy.attackers_every_round-false.clients_per_round-4/flip/attackers-2/mean/seed-1"
    assert made.cell(decides).changed("task")["attackers_every_round"] is False


@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_readings_are_single_steps_and_their_own_value_is_figure_3s_cell(protocol):
    made = shipped(protocol=protocol)
    printed = {p.cell for p in made.points["figure3"]}
    readings = made.points["readings"]
    # Every panel holds the run's own value: what the others are one step away from. Only attackers
    # in every round suppose that not all train.
    for panel in {p.panel for p in readings}:
        here = {p.cell for p in readings if p.panel == panel}
        if protocol == "released" or panel != "attackers_every_round":
            assert here & printed, panel
    plain = [p.cell for p in readings if p.cell not in printed]
    # Besides it, at most one option of a cell differs from the run's own.
    beside = ({c[:2] for c in cell.changes} - {("task", "attackers_every_round")} for cell in plain)
    assert max(map(len, beside)) == 1
    # ... among them each point of Figure 3 at 0, 1 and 10 attackers
    assert {c for c in printed if c.n_attackers in (0, 1, 10)} <= {p.cell for p in readings}
    other = shipped(protocol="released" if protocol == "paper" else "paper")
    swept = {p.x_name for p in readings} | {"variant"}
    for name in ("fedavg", "repeated_median", "foolsgold", "residual_reweighting"):
        ours, theirs = (
            g.settings(g.cell(f"mnist_shards/label_flip/attackers-1/{name}/seed-1"))
            for g in (made, other)
        )
        differing = {key for key in ours["task"] if ours["task"][key] != theirs["task"][key]}
        options = ours["aggregator"]["options"]
        differing |= {k for k in options if options[k] != theirs["aggregator"]["options"][k]}
        # A participant has 600 images, 5 batches; the network has no batch norm.
        assert differing - swept <= {"max_batches_per_epoch", "buffers"}


def test_figure4_and_the_sensitivity_use_cells_of_the_tables():
    made = shipped()
    cells = {target: {p.cell for p in points} for target, points in made.points.items()}
    assert cells["figure4"] <= cells["table3"]
    assert cells["table4"] & cells["figure3"] == {c for c in cells["table4"] if not c.n_attackers}
    tuned = {p.cell for p in made.points["hyperparameters"] if (p.panel, p.x) == ("delta", 0.01)}
    assert tuned
    assert tuned <= cells["figure3"]


# Merging


def test_mappings_are_merged_and_the_rest_is_replaced():
    base = {"a": {"x": 1, "y": {"z": 2}}, "list": [1, 2], "kept": None}
    change = {"a": {"y": {"w": 3}}, "list": [3], "new": {"k": 1}}
    given = copy.deepcopy((base, change))
    merged = grid.merge(base, change)
    assert merged == {
        "a": {"x": 1, "y": {"z": 2, "w": 3}},
        "list": [3],
        "kept": None,
        "new": {"k": 1},
    }
    merged["a"]["y"]["w"] = merged["new"]["k"] = 9
    merged["list"].append(9)
    assert (base, change) == given


def test_the_protocol_is_laid_over_the_scale():
    change = {
        "scale": "quick",
        "protocol": "released",
        "scales": {"quick": {"tasks": {"easy": {"rounds": 2, "epochs": 1}}}},
        "protocols": {"released": {"tasks": {"easy": {"epochs": 3}}}},
    }
    made = small({"a": [FLIPS]}, **change)
    assert made.run == "quick-released"
    easy, hard = made.tasks["easy"], made.tasks["hard"]
    assert (easy["rounds"], easy["epochs"], easy["n_clients"]) == (2, 3, 10)
    assert (hard["rounds"], hard["epochs"]) == (9, 5)
    cell = made.points["a"][0].cell
    assert made.settings(cell)["scale"] == "quick"
    assert made.settings(cell)["protocol"] == "released"
    assert made.settings(cell)["task"]["epochs"] == 3


def test_a_task_changes_an_attacks_options_and_training():
    made = small({"a": [FLIPS, FLIPS | {"task": "hard"}]})
    by_task = {p.cell.task: made.settings(p.cell) for p in made.points["a"] if p.x == 2}
    easy, hard = by_task["easy"]["attack"], by_task["hard"]["attack"]
    assert easy["options"] == {"source": 1, "target": 7}
    assert hard["options"] == {"source": 0, "target": 2}
    assert easy["training"] == {"epoch_factor": 2, "lr_factor": 1, "inactive": "honest"}
    assert hard["training"] == {"epoch_factor": 2, "lr_factor": 0.2, "inactive": "honest"}
    assert not {"attacks", "attack_training", "aggregators"} & set(by_task["easy"]["task"])


# Messages


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        ({"task": "esay"}, "targets.a: unknown task 'esay'; known: easy, hard"),
        ({"attack": "flop"}, "targets.a: unknown attack 'flop'; known: flip, noise"),
        (
            {"aggregators": ["mean", "krum"]},
            "targets.a: unknown aggregator 'krum'; known: mean, ours",
        ),
        (
            {"vary": {"of": "task", "option": "batchsize", "values": [1]}},
            "targets.a: unknown option of a task 'batchsize'; known: ",
        ),
        (
            {"vary": {"of": "task", "option": "model", "values": ["vgg"]}},
            "easy.model-vgg.model is 'vgg', but src/arfl/networks has ",
        ),
        ({"dataset": "minst"}, "targets.a: dataset is 'minst', but src/arfl/datasets has "),
    ],
)
def test_unknown_names_in_a_target_are_one_message(panel, message):
    with pytest.raises(UserError, match=re.escape(message)):
        small({"a": [FLIPS | panel]})


@pytest.mark.parametrize(
    ("package", "name", "rule", "known"),
    [("aggregators", "mean", "krum", RULES), ("attacks", "flip", "sybil", {"gaussian"})],
)
def test_an_unknown_rule_is_one_message(package, name, rule, known):
    with pytest.raises(UserError, match=f"{package}.{name}.rule.*{rule}") as raised:
        small({"a": [FLIPS]}, **{package: {name: {"rule": rule}}})
    assert all(name in str(raised.value) for name in known)


def test_options_of_an_unknown_dataset_are_one_message():
    with pytest.raises(UserError, match="datasets is 'amazn', but src/arfl/datasets has amazon, "):
        small({"a": [FLIPS]}, datasets={"amazn": {"balance": True}})


def test_a_file_that_is_no_python_is_told_before_anything_is_planned(monkeypatch):
    def broken(module):
        raise UserError(f"{module}, line 3: invalid syntax; correct the file")

    monkeypatch.setattr(grid, "check_syntax", broken)
    with pytest.raises(UserError, match=r"arfl\.aggregators\.fedavg, line 3: invalid syntax"):
        small({"a": [FLIPS]})


def test_rules_are_the_files_of_their_package():
    assert set(registry.names("aggregators")) == RULES | {"flame"}
    assert set(registry.names("attacks")) > {"backdoor", "gaussian", "label_flip"}
    assert {"mnist", "loan", "digits"} < set(registry.names("datasets"))


# Cells by name


def test_a_cell_of_no_target_can_be_named():
    made = small({"a": [FLIPS]})
    cell = made.cell("hard.batch_size-7/noise.noise_std-1.5/attackers-4/ours.lam--3/seed-77")
    assert (cell.task, cell.attack, cell.n_attackers) == ("hard", "noise", 4)
    assert (cell.aggregator, cell.seed) == ("ours", 77)
    assert cell.changes == (
        ("aggregator", "lam", "-3"),
        ("attack", "noise_std", "1.5"),
        ("task", "batch_size", "7"),
    )
    settings = made.settings(cell)
    assert settings["task"]["batch_size"] == 7
    assert settings["attack"]["options"] == {"noise_std": 1.5}
    assert settings["aggregator"]["options"]["lam"] == -3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("easy/flip/attackers-2/mean", "is not the id of a cell"),
        ("esay/flip/attackers-2/mean/seed-1", "unknown task 'esay'"),
        ("easy/flop/attackers-2/mean/seed-1", "unknown attack 'flop'"),
        ("easy/flip/attackers-2/krum/seed-1", "unknown aggregator 'krum'"),
        ("easy/flip/attackers-0/mean/seed-1", "ask for that cell"),
        ("easy/flip/attackers-02/mean/seed-1", "ask for that cell"),
        ("easy/noise.noise_std-0/attackers-3/mean/seed-1", "ask for that cell"),
        ("easy/noise.noise_std-1.0/attackers-3/mean/seed-1", "ask for that cell"),
        ("easy/flip.target-7/attackers-3/mean/seed-1", "ask for that cell"),
        ("easy/flip/attackers-3/ours.lam-1.delta-0.5/seed-1", "ask for that cell"),
        ("easy/none.x-1/attackers-0/mean/seed-1", "without an attack"),
        ("easy/none/attackers-2/mean/seed-1", "without an attack"),
        ("easy/flip./attackers-2/mean/seed-1", "does not read name.option-value"),
        ("easy/flip.target/attackers-2/mean/seed-1", "does not read name.option-value"),
        ("easy/flip.target-$(x)/attackers-2/mean/seed-1", "cannot be swept"),
        ("easy/flip.target-1e999/attackers-2/mean/seed-1", "use finite numbers"),
        ("easy.batchsize-1/flip/attackers-2/mean/seed-1", "unknown option of a task 'batchsize'"),
        ("easy/flip/attackers-2/mean/seed-99999999999999999999999", "is not the id of a cell"),
        ("easy/flip/attackers-2/mean/seed-4294967296", "seeds go up to 4294967295"),
        (f"easy/flip/attackers-{'9' * 5000}/mean/seed-1", "is not the id of a cell"),
    ],
)
def test_a_name_of_no_cell_is_one_message(name, message):
    with pytest.raises(UserError, match=message):
        small({"a": [FLIPS]}).cell(name)


# The plan, and how light the module is


def test_the_plan_lists_every_point_with_its_record():
    made = small({"a": [FLIPS], "b": [NOISE]})
    plan = json.loads(json.dumps(made.plan()))
    assert plan["aggregators"] == {"mean": {"label": "Mean"}, "ours": {"label": "ours"}}
    assert (plan["run"], plan["scale"], plan["protocol"], plan["seeds"]) == (
        *("paper", "paper", "paper", [1, 2]),
    )
    rows = plan["targets"]["b"]
    assert len(rows) == 2 * 2 * 2
    for row, point in zip(rows, made.points["b"], strict=True):
        assert row["x"] == point.x
        assert row["x_name"] == "noise_std"
        assert row["dataset"] == "mnist"
        assert row["record"] == f"results/paper/cells/{row['cell']['id']}.json"
        assert row["cell"]["id"] == point.cell.id


def test_a_cells_fingerprint_is_that_of_its_rules():
    made = small({"a": [FLIPS]})
    prints = {}
    for point in made.points["a"]:
        key = (point.cell.aggregator, point.cell.attack)
        prints.setdefault(key, set()).add(made.fingerprint(point.cell))
    assert all(len(values) == 1 for values in prints.values())
    assert len(set(itertools.chain(*prints.values()))) == 4


def test_the_workflow_imports_no_heavy_library():
    code = (
        "import sys, arfl.grid, arfl.fingerprint\n"
        "print([m for m in ('torch', 'numpy', 'pandas', 'numba') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(("device", "expected"), [("cuda", True), ("cpu", False)])
def test_a_gpu_is_asked_for_where_the_device_says_so(device, expected):
    assert grid.wants_gpu(device) == expected


@pytest.mark.parametrize("there", [(), ("/dev/nvidia0",), ("/proc/driver/nvidia/version",)])
def test_auto_asks_for_a_gpu_where_there_is_one(monkeypatch, there):
    monkeypatch.setattr(grid.os.path, "exists", lambda path: path in there)
    assert grid.wants_gpu("auto") == bool(there)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aggregators": {"new": {"label": "New"}}}, "aggregators.new lacks rule"),
        ({"attacks": {"new": {"rule": "gaussian"}}}, "attacks.new lacks training"),
        ({"tasks": {"new": {"dataset": "mnist"}}}, "tasks.new lacks data"),
        ({"tasks": {"easy": {"data": "mnits"}}}, "tasks.easy.data is 'mnits'"),
        ({"scales": {"paper": {"aggregators": {"mean": {"rule": "maen"}}}}}, "rule is 'maen'"),
        (
            {"aggregators": {"ours": {"label": "Mean"}}},
            "aggregators.mean and aggregators.ours have one label, 'Mean'",
        ),
    ],
)
def test_an_incomplete_entry_is_one_message(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        small({}, **change)


@pytest.mark.parametrize("section", ["targets", "beyond"])
def test_a_task_without_resources_is_told_before_anything_is_trained(section):
    tasks = {"new": SHIPPED["tasks"]["mnist_dirichlet"]}
    small({}, tasks=tasks)  # no cell needs it
    with pytest.raises(UserError, match=r"resources has no new; add .*, for example new: "):
        small(**{"targets": {}, "tasks": tasks, section: {"a": [FLIPS | {"task": "new"}]}})


def test_another_partition_scheme_replaces_the_options_of_the_old_one():
    grid_ = small({}, scales={"paper": {"tasks": {"easy": {"partition": {"name": "iid"}}}}})
    assert grid_.tasks["easy"]["partition"] == {"name": "iid"}
    assert grid_.tasks["hard"]["partition"] == {"name": "dirichlet", "concentration": 0.9}


def test_equal_numbers_give_one_cell():
    def cells(values):
        return list(small({"t": [sweep("aggregator", "lam", values, aggregators=["ours"])]}).cells)

    assert cells([1]) == cells([1.0])


# Sweeps of any option


def test_an_option_of_each_part_can_be_swept():
    panels = [
        sweep("attack", "target", [1, 7], panel="attack"),
        sweep("attack", "lr_factor", [1, 10], panel="training"),
        sweep("task", "batch_size", [16, 64], panel="task"),
        sweep("task", "concentration", [0.1, 0.9], panel="partition"),
        sweep("aggregator", "lam", [2, 3], panel="aggregator", aggregators=["ours"]),
    ]
    made = small({"a": panels, "b": [FLIPS]})
    unchanged = {p.cell for p in made.points["b"] if p.x == 2}

    def settings(panel, x):
        cells = {p.cell for p in made.points["a"] if (p.panel, p.x) == (panel, x)}
        assert len(cells) == (2 if panel == "aggregator" else 4)
        assert {p.x_name for p in made.points["a"] if p.panel == panel} != {None}
        # one of the two values is configured: those cells are the target b's
        assert (cells <= unchanged) == (x in (7, 64, 0.9) or (panel, x) in KEPT), (panel, x)
        return made.settings(cells.pop())

    KEPT = {("training", 1), ("aggregator", 2)}
    for x in (1, 7):
        assert settings("attack", x)["attack"]["options"]["target"] == x
    for x in (1, 10):
        assert settings("training", x)["attack"]["training"]["lr_factor"] == x
        assert "lr_factor" not in settings("training", x)["attack"]["options"]
    for x in (16, 64):
        assert settings("task", x)["task"]["batch_size"] == x
    for x in (0.1, 0.9):
        assert settings("partition", x)["task"]["partition"]["concentration"] == x
    for x in (2, 3):
        assert settings("aggregator", x)["aggregator"]["options"]["lam"] == x
    for cell in made.cells.values():
        parsed = small({}).cell(cell.id)
        assert parsed == cell
        assert small({}).settings(parsed) == made.settings(cell)


def test_a_sweep_changes_its_own_cells_alone():
    made = small({"a": [sweep("task", "batch_size", [16])], "b": [FLIPS]})
    made.settings(made.points["a"][0].cell)["task"]["partition"]["name"] = "other"
    made.settings(made.points["a"][0].cell)
    (size,) = {made.settings(p.cell)["task"]["batch_size"] for p in made.points["b"]}
    assert size == 64
    assert made.tasks["easy"]["partition"]["name"] == "dirichlet"


def test_cells_that_divide_the_data_alike_share_a_partition():
    panels = [
        FLIPS,
        sweep("task", "batch_size", [16]),
        sweep("task", "concentration", [0.1]),
        sweep("task", "n_clients", [20]),
    ]
    made = small({"a": panels}, seeds=[5])
    paths = {made.partition_path(cell) for cell in made.cells.values()}
    folder = "results/paper/partitions"
    assert paths == {
        f"{folder}/easy/seed-5.npz",
        f"{folder}/easy.concentration-0.1/seed-5.npz",
        f"{folder}/easy.n_clients-20/seed-5.npz",
    }
    assert made.task("easy.concentration-0.1")["partition"]["concentration"] == 0.1
    assert made.task("easy.n_clients-20")["n_clients"] == 20


def test_a_target_with_seeds_of_its_own_leaves_the_others_alone():
    made = small({"a": [FLIPS], "b": [FLIPS]}, target_seeds={"b": [2, 7, 9]})
    assert {point.cell.seed for point in made.points["a"]} == {1, 2}
    assert {point.cell.seed for point in made.points["b"]} == {2, 7, 9}
    assert {cell.seed for cell in made.cells.values()} == {1, 2, 7, 9}


def test_seeds_for_a_target_that_is_none_are_one_message():
    with pytest.raises(UserError, match="config: target_seeds: unknown target 'c'; known: a"):
        small({"a": [FLIPS]}, target_seeds={"c": [1]})


def test_without_an_attack_its_swept_option_means_nothing_but_the_others_do():
    panels = [
        sweep("attack", "target", [1], n_attackers=[0]),
        sweep("task", "batch_size", [16], n_attackers=[0]),
    ]
    assert {cell.id.rpartition("/")[0] for cell in small({"a": panels}).cells.values()} == {
        f"easy{change}/none/attackers-0/{rule}"
        for rule in ("mean", "ours")
        for change in ("", ".batch_size-16")
    }


VALUES = [
    *(0, 1, -1, 10, 2**53 + 1, 10**20, 0.1, -0.25, 0.1234567, 0.12345671, 1e-7, 1.5e-7, 1e-10),
    *(1e22, 1.7976931348623157e308, 5e-324, -1e-5, True, False, None, "a", "frozen", "E5", "A"),
]


def test_values_have_distinct_and_plain_names_that_can_be_read_back():
    texts = [grid.value_text(value) for value in VALUES]
    assert len(set(texts)) == len(VALUES)
    for value, text in zip(VALUES, texts, strict=True):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", text), text
        again = grid.text_value(text)
        assert again == value
        assert isinstance(again, bool) == isinstance(value, bool)
    for pair in ((1, 1.0), (0, -0.0), (10**20, 1e20), (1000, 1e3)):
        assert len({grid.value_text(value) for value in pair}) == 1


@pytest.mark.parametrize(
    "value", ["", "1", "1e5", "-a", "a b", "a/b", "..", "$(id)", "true", "null", "x.y-1", "é"]
)
def test_words_that_mislead_or_harm_in_a_path_are_refused(value):
    with pytest.raises(UserError, match="cannot be swept over"):
        grid.value_text(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(UserError, match="use finite numbers"):
        grid.value_text(value)


# Where a cell was trained


def test_a_record_from_another_device_is_kept_while_its_code_is_the_same(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid, "of_cell", lambda *rules: f"print-{rules[-1]}")
    on_cpu, on_gpu = (small({"a": [FLIPS]}, device=device) for device in ("cpu", "cuda"))
    cell = next(iter(on_cpu.cells.values()))
    assert (on_cpu.fingerprint(cell), on_gpu.fingerprint(cell)) == ("print-cpu", "print-cuda")
    path = tmp_path / on_gpu.record_path(cell)
    path.parent.mkdir(parents=True)
    record = {"settings": on_gpu.settings(cell), "provenance": {"fingerprint": "print-cuda"}}
    path.write_text(json.dumps(record))
    assert on_cpu.fingerprint(cell) == on_gpu.fingerprint(cell) == "print-cuda"
    # of other settings, of other code, broken
    for content in (
        json.dumps(record | {"settings": {}}),
        json.dumps(record).replace("print-cuda", "print-old"),
        "print-cuda",
    ):
        path.write_text(content)
        assert on_cpu.fingerprint(cell) == "print-cpu"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_source_share": 0.5}, "tasks.easy.min_source_share is a share of a shard"),
        ({"client_sampling": "fixed"}, "tasks.easy.client_sampling is fixed, but all"),
        ({"partition": {"name": "stripes"}}, "tasks.easy.partition.name is 'stripes'"),
        ({"dataset": "minst"}, "tasks.easy.dataset is 'minst'"),
        ({"model": "vgg"}, "tasks.easy.model is 'vgg'"),
    ],
)
def test_a_task_that_contradicts_itself_is_one_message(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        small({}, tasks={"easy": change})


def test_rules_beyond_the_paper_are_in_the_leaderboard_alone():
    for scale in SHIPPED["scales"]:
        made = shipped(scale)
        assert {cell.aggregator for cell in made.cells.values()} == RULES
        points = made.beyond["leaderboard"]
        assert {point.cell.aggregator for point in points} == set(SHIPPED["aggregators"])
        attacks = {point.panel: point.cell.attack for point in points}
        assert attacks.pop("none") == "none"
        assert all(panel == attack for panel, attack in attacks.items())
        assert set(made.plan()["aggregators"]) == RULES
        assert set(made.plan(beyond=True)["targets"]) == {"leaderboard", "adaptive", "declared"}
        # At most half of the clients may attack: more is beyond the theorem.
        for point in made.beyond["adaptive"]:
            n_clients = made.task(point.cell.part("task"))["n_clients"]
            assert point.cell.n_attackers < n_clients / 2


@pytest.mark.parametrize("name", ["byzfl/", "byzfl/Krum+", "other/Krum"])
def test_a_rule_of_another_library_has_its_form(name):
    with pytest.raises(UserError, match="does not read library/Class"):
        shipped(aggregators={"mine": {"rule": name}})


def test_a_target_without_panels_is_none():
    config = copy.deepcopy(SHIPPED)
    config["scales"]["quick"]["targets"] |= {"table1": [], "mine": []}
    made = Grid(config | {"scale": "quick"})
    assert {"table1", "mine"}.isdisjoint(made.points)
    assert "figure3" in made.points
    assert {"table1", "mine"}.isdisjoint(made.plan()["targets"])
