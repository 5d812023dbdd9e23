"""The page beyond the paper: from the committed records, and from small ones made here."""

import copy
import json
import lzma
import shutil
import statistics
from pathlib import Path

import pytest
import yaml

from arfl import cell as cells
from arfl.cli import main
from arfl.errors import UserError
from arfl.grid import Grid
from arfl.reporting import beyond, collect
from arfl.reporting.frames import Collected

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "workflow" / "resources" / "paper"
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
RUNS = sorted((ROOT / "records").glob("*/beyond"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The committed records' page, made again."""
    folder = tmp_path_factory.mktemp("beyond")
    out = folder / "docs" / "beyond.md"
    arguments = ["--runs", *map(str, RUNS), "--paper", str(PAPER), "--out", str(out)]
    assert main(["beyond", *arguments, "--pictures", str(out.parent / "figures")]) == 0
    return out


def test_the_committed_page_is_what_the_committed_records_give(written):
    committed = (ROOT / "docs/beyond.md").read_text(encoding="utf-8")
    assert written.read_text(encoding="utf-8") == committed, (
        "run `make figures` and commit what it changes"
    )
    assert " nan" not in committed


def records(run):
    """Every record of a run, read by the standard library alone."""
    lines = [
        line
        for path in sorted(run.glob("*.jsonl.xz"))
        for line in lzma.decompress(path.read_bytes()).decode().splitlines()
    ]
    return {content["cell"]["id"]: content for content in map(json.loads, lines)}


def of_ten_attacked_by_one(run):
    return [
        content
        for name, content in records(run).items()
        if name.startswith("mnist_dirichlet/adaptive/attackers-1/residual_reweighting/")
    ]


def test_accuracy_and_weight_are_those_of_the_records(written):
    found = of_ten_attacked_by_one(ROOT / "records/reduced/beyond")
    assert len(found) == 3
    accuracies = [100 * content["rounds"][-1]["accuracy"] for content in found]
    told = f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}"
    weights = []
    for content in found:
        (attacker,) = content["clients"]["attackers"]
        weights.append(
            statistics.mean(
                entry["weights"][entry["clients"].index(attacker)] for entry in content["rounds"]
            )
        )
    weight = f"{100 * statistics.mean(weights):.1f}"
    lines = written.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("### Dirichlet"))
    rows = [line.split(" | ") for line in lines[start:] if line.startswith("|")]
    measured = next(row for row in rows if row[0] == "| Ours")
    assert measured[3] == told
    assert next(row for row in rows if "weight of all attackers" in row)[3] == weight


def test_the_records_bear_out_what_the_readme_says():
    assert "two such attackers\nare enough against" in (ROOT / "README.md").read_text()
    last = {
        name: content["rounds"][-1]["accuracy"] if content["diverged"] is None else 0.0
        for name, content in records(ROOT / "records/reduced/beyond").items()
        if name.startswith("mnist_dirichlet/adaptive/")
    }
    attacked = [last[name] for name in last if "attackers-2/residual_reweighting" in name]
    withstood = [last[name] for name in last if "attackers-4/median" in name]
    assert len(attacked) == len(withstood) == 3
    assert max(attacked) < 0.2 < 0.9 < min(withstood)


def test_the_records_bear_out_the_place_that_the_readme_gives():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "residual reweighting is fifth of ten (one seed): 65.8 % at worst" in text
    assert "where Multi-Krum keeps 85.5 %" in text
    plan = json.loads((ROOT / "records/reduced/beyond/plan.json").read_text(encoding="utf-8"))
    have = records(ROOT / "records/reduced/beyond")
    scores = {}
    for row in plan["targets"]["leaderboard"]:
        cell = row["cell"]
        if cell["seed"] != 1:
            continue
        content = have[cell["id"]]
        last = content["rounds"][-1] if content["diverged"] is None else {"accuracy": 0.0}
        success = last.get("attack_success_rate")
        score = min(last["accuracy"], 1.0 if success is None else 1 - success)
        scores.setdefault(cell["aggregator"], {})[row["panel"]] = score
    worst = {rule: min(of_rule.values()) for rule, of_rule in scores.items()}
    assert {len(of_rule) for of_rule in scores.values()} == {7}
    assert sorted(worst, key=worst.get, reverse=True)[4] == "residual_reweighting"
    ours = scores["residual_reweighting"]
    assert min(ours, key=ours.get) == "adaptive"
    assert f"{100 * worst['residual_reweighting']:.1f}" == "65.8"
    assert f"{100 * worst['multi_krum']:.1f}" == "85.5"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.parent.name)
def test_committed_records_are_of_this_code_and_plan(run):
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    grid = Grid(copy.deepcopy(CONFIG) | {"scale": run.parent.name})
    now = json.loads(json.dumps(grid.plan(beyond=True)))
    for key in ("targets", "settings"):
        assert plan[key] == now[key], "write it again: python -m arfl plan --beyond"
    planned = {
        row["cell"]["id"]: plan["settings"][row["settings"]]
        for rows in plan["targets"].values()
        for row in rows
    }
    for name, content in records(run).items():
        origin = content["provenance"]
        assert origin["dirty"] is False
        assert content["settings"] == planned[name]
        # The version of byzfl counts in its rules, and another one may be installed here.
        if not content["settings"]["aggregator"]["rule"].startswith("byzfl/"):
            assert origin["fingerprint"] == cells.code_of(content["settings"], "cpu"), name


def test_ranks_are_shown_once_a_rule_has_met_every_attack(tmp_path):
    run = ROOT / "records/reduced/beyond"
    shutil.copytree(run, tmp_path / "run")
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    have = records(run)
    rows = plan["targets"]["adaptive"]
    whole = [row for row in rows if row["panel"] == "dirichlet" and row["x"] in (0, 1)]
    plan["targets"] = {
        "leaderboard": [
            row | {"panel": {0: "none", 1: "adaptive"}[row["x"]], "x": None, "x_name": None}
            for row in whole
            if row["cell"]["id"] in have
        ]
    }
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan))
    out = tmp_path / "page.md"
    beyond.write([tmp_path / "run"], PAPER, out, tmp_path / "figures")
    text = out.read_text(encoding="utf-8")
    assert "](figures/leaderboard-reduced.svg)" in text
    assert (tmp_path / "figures" / "leaderboard-reduced.svg").stat().st_size > 5000
    assert "| 1 | 1 | Median | 96" in text
    assert "| FedAvg | diverged" in text


def test_what_a_wrong_number_of_attackers_changes_is_that_of_the_records(written):
    told = {}
    for name, content in records(ROOT / "records/quick/beyond").items():
        _, attack, _, rule, _ = name.split("/")
        if attack == "ipm" and rule.startswith("multi_krum.f-"):
            f = int(rule.partition("f-")[2])
            told.setdefault(f, []).append(100 * content["rounds"][-1]["accuracy"])
    means = {f: statistics.mean(values) for f, values in told.items()}
    assert set(means) == {0, 2, 4, 6, 8}
    assert all(len(values) == 3 for values in told.values())

    def signed(points):
        return f"{points:+.2f} points".replace("-", "−")

    change = {f: mean - means[4] for f, mean in means.items() if f != 4}
    least, most = min(change, key=change.get), max(change, key=change.get)
    assert (
        f"Multi-Krum: beside the true number, told {least} changes its accuracy by "
        f"{signed(change[least])}, told {most} by {signed(change[most])}."
    ) in written.read_text(encoding="utf-8")


def test_weights_are_summed_over_the_attackers(tmp_path):
    run = ROOT / "records/reduced/beyond"
    manifest = tmp_path / "collected.json"
    packed = {name: json.dumps(content) for name, content in records(run).items()}
    collect.collect(run / "plan.json", "adaptive", manifest, packed)
    given = beyond.attackers_weight(Collected(manifest))["dirichlet"]
    assert given["0"] == 0
    assert 0 < given["1"] < given["2"] < 1


def test_nothing_kept_is_one_message(tmp_path):
    with pytest.raises(UserError, match="no folder with packed records"):
        beyond.write([tmp_path], PAPER, tmp_path / "b.md", tmp_path)
