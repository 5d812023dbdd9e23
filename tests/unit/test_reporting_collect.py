import json
from pathlib import Path

import pytest
from reporting_records import Experiment, diverge, rewrite

from arfl.errors import UserError
from arfl.reporting import collect


@pytest.fixture
def experiment(tmp_path):
    return Experiment(tmp_path, targets=("figure3", "table4"))


def collected(experiment, target):
    out = experiment.run_dir / "collected" / target
    collect.collect(experiment.plan_path, target, out)
    return collect.Collected(out)


def test_every_plan_row_has_a_row_with_its_last_round(experiment):
    experiment.write()
    result = collected(experiment, "table4")
    assert len(result.cells) == len(experiment.targets["table4"]) == 6 * 4 * 3
    for row, planned in zip(result.cells, experiment.targets["table4"], strict=True):
        record = json.loads(Path(planned["record"]).read_text())
        assert row.state == "done"
        assert row.x == planned["x"]
        assert row.accuracy == record["rounds"][-1]["accuracy"]
        assert row.settings == record["settings"]
        assert row.attackers == record["clients"]["attackers"]
        assert row.dirty is False


def test_rounds_and_weights_carry_every_value(experiment):
    experiment.write()
    result = collected(experiment, "figure3")
    cell_id = "mnist_shards/label_flip/attackers-2/foolsgold/seed-1"
    record = json.loads(experiment.path(cell_id).read_text())
    rounds = [r for r in result.rounds if r.cell_id == cell_id]
    assert [r.accuracy for r in rounds] == [r["accuracy"] for r in record["rounds"]]
    weights = {(w.round, w.client): w for w in result.weights if w.cell_id == cell_id}
    assert len(weights) == 10 * 20
    assert weights[3, 7].weight == pytest.approx(record["rounds"][2]["weights"][7], rel=1e-5)
    attackers = {w.client for w in weights.values() if w.attacker}
    assert attackers == set(record["clients"]["attackers"])
    assert not any(w.cell_id.endswith("fedavg/seed-1") for w in result.weights)


def test_a_cell_that_weighs_all_clients_alike_has_no_weights(experiment):
    experiment.write()
    cell_id = "mnist_shards/label_flip/attackers-2/foolsgold/seed-1"
    path = experiment.path(cell_id)

    def alike(record):
        for entry in record["rounds"]:
            entry["weights"] = [0.05] * 20

    rewrite(path, alike)
    assert not any(w.cell_id == cell_id for w in collected(experiment, "figure3").weights)
    # one client left out of one round
    rewrite(path, lambda record: record["rounds"][6].update(weights=[0.0] + [1 / 19] * 19))
    weights = [w for w in collected(experiment, "figure3").weights if w.cell_id == cell_id]
    assert len(weights) == 10 * 20


def test_a_round_of_some_clients_keeps_their_numbers(tmp_path):
    experiment = Experiment(tmp_path, seeds=(1,), targets=("loan",))
    experiment.write()
    cell_id = "loan_backdoor/backdoor_naive/attackers-1/residual_reweighting/seed-1"
    record = json.loads(experiment.path(cell_id).read_text())
    weights = [w for w in collected(experiment, "loan").weights if w.cell_id == cell_id]
    assert [w.client for w in weights if w.round == 5] == record["rounds"][4]["clients"]
    assert sum(w.weight for w in weights if w.round == 5) == pytest.approx(1, abs=1e-4)


def test_partitions_are_kept_once_per_task_and_seed(experiment):
    experiment.write()
    rows = collected(experiment, "figure3").partitions
    assert len(rows) == 3 * 20
    record = json.loads(experiment.path("mnist_shards/none/attackers-0/median/seed-2").read_text())
    counts = [r.class_counts for r in rows if r.seed == 2]
    assert counts == record["clients"]["class_counts"]


def test_weights_of_long_runs_are_thinned_but_keep_both_ends(tmp_path):
    experiment = Experiment(tmp_path, n_rounds=200, seeds=(1,), targets=("hyperparameters",))
    experiment.write()
    rounds = {w.round for w in collected(experiment, "hyperparameters").weights}
    assert len(rounds) == collect.WEIGHT_ROUNDS
    assert {1, 200} <= rounds


def break_json(path):
    path.write_text(path.read_text()[:-5])


def change(**updates):
    def update(record):
        for dotted, value in updates.items():
            *parents, last = dotted.split("__")
            place = record
            for key in parents:
                place = place[int(key) if key.isdigit() else key]
            place[last] = value

    return lambda path: rewrite(path, update)


def drop_rounds(path):
    rewrite(path, lambda record: record.update(rounds=record["rounds"][:4]))


def make_it_nan(path):
    record = json.loads(path.read_text())
    record["rounds"][9]["accuracy"] = float("nan")
    path.write_text(json.dumps(record))


def leave_the_digest(path):
    path.write_text(path.read_text().replace("test machine", "another machine"))


def make_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("breaker", "reason"),
    [
        (break_json, "not valid JSON"),
        (change(format=7), "format 7"),
        (make_it_nan, "not a finite number"),
        (change(rounds__0__accuracy=None), "rounds.0.accuracy: None is not of type 'number'"),
        (
            change(rounds__3__attack_success_rate=1.5),
            "rounds.3.attack_success_rate: 1.5 is greater",
        ),
        (change(settings__scale="paper"), "scale is 'paper'"),
        (change(settings__task__epochs=5), "its task.epochs is 5, not 2 as planned"),
        (change(settings__task__lr=0.1), "its task.lr is 0.1, not None as planned"),
        (change(settings__attack=None), "its attack is None, not {'rule': 'label_flip'"),
        (change(cell__id="another"), "record of another"),
        (change(provenance={}), "provenance: 'commit' is a required property"),
        (change(rounds=None), "rounds: None is not of type 'array'"),
        (drop_rounds, "its rounds are not 1 to 10"),
        (change(rounds__2__weights=[0.5, 0.5]), "round 3 has not one weight for each client"),
        (leave_the_digest, "does not match its digest"),
        (make_a_folder, "Is a directory"),
    ],
)
def test_a_broken_record_is_named_with_its_reason(experiment, breaker, reason):
    experiment.write()
    cell_id = "mnist_shards/label_flip/attackers-2/median/seed-2"
    breaker(experiment.path(cell_id))
    result = collected(experiment, "figure3")
    row = next(c for c in result.cells if c.cell_id == cell_id)
    assert row.state == "broken"
    assert reason in row.reason
    assert row.accuracy is None
    assert not any(r.cell_id == cell_id for r in result.rounds)
    assert sum(c.done for c in result.cells) == len(result.cells) - 1


def test_a_diverged_cell_is_neither_done_nor_broken(experiment):
    experiment.write()
    cell_id = "mnist_shards/label_flip/attackers-2/foolsgold/seed-2"
    diverge(experiment.path(cell_id), 5)
    result = collected(experiment, "figure3")
    row = next(c for c in result.cells if c.cell_id == cell_id)
    assert row.state == "diverged"
    assert not row.done
    assert row.diverged == "in round 5: the global model holds a NaN or an infinity"
    assert row.reason == f"diverged {row.diverged}"
    assert row.accuracy is row.attack_success_rate is None
    assert row.n_rounds == 4
    assert not any(r.cell_id == cell_id for r in (*result.rounds, *result.weights))
    assert sum(c.done for c in result.cells) == len(result.cells) - 1


def test_what_a_cell_changes_is_kept(experiment):
    experiment.write()
    changes = {c.cell_id: c.changes for c in collected(experiment, "table4").cells}
    assert changes["mnist_shards/gaussian.noise_std-2/attackers-2/median/seed-1"] == {
        "task": {},
        "attack": {"noise_std": 2},
        "aggregator": {},
    }


def test_a_missing_record_is_named(experiment):
    experiment.write()
    experiment.path("mnist_shards/none/attackers-0/fedavg/seed-3").unlink()
    states = {c.cell_id: c.state for c in collected(experiment, "figure3").cells}
    assert states["mnist_shards/none/attackers-0/fedavg/seed-3"] == "missing"
    assert list(states.values()).count("missing") == 1


def test_views_hold_every_cell_once(experiment):
    experiment.write()
    ids = [c.cell_id for c in collected(experiment, "timing").cells]
    # Clean cells are shared by figure 3 and table 4: 6 rules x (3 + 4 - 1) points x 3 seeds.
    assert len(ids) == len(set(ids)) == 6 * 6 * 3


def test_an_unknown_target_lists_the_known(experiment):
    experiment.write()
    with pytest.raises(UserError, match="no target 'table9'; it has figure3, table4"):
        collected(experiment, "table9")


def test_a_csv_of_another_shape_is_a_clear_error(tmp_path):
    (tmp_path / "cells.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="collect again"):
        _ = collect.Collected(tmp_path).cells
