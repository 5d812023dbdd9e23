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

from arfl import grid
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
            "noise": {"rule": "gaussian", "training": {"epoch_factor": 1, "lr_factor": 1}},
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
        "resources": {"easy": {"minutes": 1, "mem_mb": 100}},
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
        0.01,
    )
    assert attack_of(paper, "table1", "", 3) == (
        *("label_flip", {"source": "cat", "target": "dog"}, 10, 0.01),
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
    assert attack_of(released, "figure3", "", 3)[2:] == (10, 0.1)
    _, options, _, _ = attack_of(released, "table3", "mnist/backdoor_replacement", None)
    assert (options["scale"], options["trigger_value"]) == (10, "one")
    assert attack_of(released, "loan", "loan/backdoor_naive", None)[3] == 0.002
    for rule in ("repeated_median", "residual_reweighting"):
        assert released.aggregators[rule]["options"]["variant"] == "released"


@pytest.mark.parametrize("scale", grid.SCALES)
@pytest.mark.parametrize("protocol", grid.PROTOCOLS)
def test_every_scale_has_every_target_and_unique_names_for_paths(scale, protocol):
    made = shipped(scale, protocol)
    assert set(made.points) == set(shipped().points)
    cells = {point.cell for points in made.points.values() for point in points}
    assert len({cell.id for cell in cells}) == len(cells) == len(made.cells)
    assert len({made.record_path(cell) for cell in cells}) == len(cells)
    for cell in cells:
        assert re.fullmatch(r"[a-z0-9_.-]+(/[a-z0-9_.-]+){4}", cell.id), cell.id
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
NOISE = {"task": "easy", "attack": "noise", "n_attackers": [3], "noise_std": [0, 0.5]}


def test_no_attackers_and_no_noise_are_one_cell():
    made = small({"a": [FLIPS], "b": [NOISE]})
    clean = [{p.cell for p in made.points[t] if p.x == 0} for t in ("a", "b")]
    assert clean[0] == clean[1]
    for cell in clean[0]:
        assert (cell.attack, cell.n_attackers, cell.noise_std) == ("none", 0, None)
        assert made.settings(cell)["attack"] is None
    # one clean, one flipped and one noisy level x 2 aggregators x 2 seeds
    assert len(made.cells) == 12
    assert [p.x for p in made.points["b"][:4]] == [0] * 4


def test_a_noise_level_is_an_option_of_its_cells_alone():
    made = small({"b": [NOISE]})
    noisy = [p.cell for p in made.points["b"] if p.x]
    assert all(made.settings(cell)["attack"]["options"] == {"noise_std": 0.5} for cell in noisy)
    assert {cell.level for cell in noisy} == {"attackers-3-noise-0.5"}
    assert "options" not in made.config["attacks"]["noise"]


def test_a_swept_option_at_its_configured_value_is_the_configured_cell():
    sweep = {
        "panel": "delta",
        "task": "easy",
        "attack": "flip",
        "n_attackers": [2],
        "aggregator": "ours",
        "option": "delta",
        "values": [0.01, 0.1],
    }
    made = small({"a": [FLIPS], "h": [sweep]})
    ours = {p.cell for p in made.points["a"] if p.cell.aggregator == "ours" and p.x == 2}
    by_value = {v: {p.cell for p in made.points["h"] if p.x == v} for v in (0.01, 0.1)}
    # the task's own delta, 0.01, and not the general one
    assert by_value[0.01] == ours
    assert not by_value[0.1] & ours
    assert {p.x_name for p in made.points["h"]} == {"delta"}
    for cell in by_value[0.1]:
        assert cell.options == (("delta", 0.1),)
        assert made.settings(cell)["aggregator"]["options"] == {"delta": 0.1, "lam": 2.0}
    for cell in ours:
        assert made.settings(cell)["aggregator"]["options"] == {"delta": 0.01, "lam": 2.0}


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
    assert easy["training"] == {"epoch_factor": 2, "lr_factor": 1}
    assert hard["training"] == {"epoch_factor": 2, "lr_factor": 0.2}
    assert not {"attacks", "attack_training", "aggregators"} & set(by_task["easy"]["task"])


# Messages


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        ({"task": "esay"}, "targets.a: unknown task 'esay'; known: easy, hard"),
        ({"attack": "flop"}, "targets.a: unknown attack 'flop'; known: flip, noise"),
        (
            {"aggregator": "krum", "option": "delta", "values": [1]},
            "targets.a: unknown aggregator 'krum'; known: mean, ours",
        ),
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


def test_rules_are_the_files_of_their_package():
    from arfl import aggregators, attacks

    assert set(grid.rules("aggregators")) == RULES == set(aggregators.names())
    assert grid.rules("attacks") == attacks.names()


# Cells by name


def test_a_cell_of_no_target_can_be_named():
    made = small({"a": [FLIPS]})
    cell = made.cell("hard/noise/attackers-4-noise-1.5/ours/seed-77")
    assert (cell.task, cell.attack, cell.n_attackers, cell.noise_std) == ("hard", "noise", 4, 1.5)
    assert (cell.aggregator, cell.options, cell.seed) == ("ours", (), 77)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("easy/flip/attackers-2/mean", "is not the id of a cell"),
        ("esay/flip/attackers-2/mean/seed-1", "unknown task 'esay'"),
        ("easy/flop/attackers-2/mean/seed-1", "unknown attack 'flop'"),
        ("easy/flip/attackers-2/krum/seed-1", "unknown aggregator 'krum'"),
        ("easy/flip/attackers-0/mean/seed-1", "ask for that cell"),
        ("easy/flip/attackers-02/mean/seed-1", "ask for that cell"),
        ("easy/noise/attackers-3-noise-0/mean/seed-1", "ask for that cell"),
        ("easy/noise/attackers-3-noise-1.0/mean/seed-1", "ask for that cell"),
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
    ],
)
def test_an_incomplete_entry_is_one_message(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        small({}, **change)


def test_another_partition_scheme_replaces_the_options_of_the_old_one():
    grid_ = small({}, scales={"paper": {"tasks": {"easy": {"partition": {"name": "iid"}}}}})
    assert grid_.tasks["easy"]["partition"] == {"name": "iid"}
    assert grid_.tasks["hard"]["partition"] == {"name": "dirichlet", "concentration": 0.9}


def test_equal_numbers_give_one_cell():
    def panel(values):
        return {
            "task": "easy",
            "attack": "flip",
            "n_attackers": [1],
            "aggregator": "ours",
            "option": "lam",
            "values": values,
        }

    assert list(small({"t": [panel([1])]}).cells) == list(small({"t": [panel([1.0])]}).cells)
