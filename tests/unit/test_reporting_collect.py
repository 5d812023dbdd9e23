import hashlib
import json
import math
import shutil
import statistics
from pathlib import Path

import pandas as pd
import pytest
from reporting_records import Experiment, diverge, rewrite

from arfl import batches
from arfl.errors import UserError
from arfl.reporting import collect, frames


@pytest.fixture
def experiment(tmp_path):
    return Experiment(tmp_path, targets=("figure3", "table4"))


def collected(experiment, target):
    out = experiment.run_dir / "collected" / target
    collect.collect(experiment.plan_path, target, out / "collected.json")
    return frames.Collected(out / "collected.json")


def ids(frame):
    return set(frame.cell_id)


def test_every_plan_row_has_a_row_with_its_last_round(experiment):
    experiment.write()
    result = collected(experiment, "table4")
    assert len(result.cells) == len(experiment.targets["table4"]) == 6 * 4 * 3
    for row, planned in zip(result.cells.itertuples(), experiment.targets["table4"], strict=True):
        record = json.loads(Path(planned["record"]).read_text())
        assert row.state == "done"
        assert row.x == planned["x"]
        assert row.accuracy == record["rounds"][-1]["accuracy"]
        assert row.settings == record["settings"] | {"dataset": {}}
        assert row.attackers == record["clients"]["attackers"]
        assert row.dirty is False


def test_rounds_and_weights_carry_every_value(experiment):
    experiment.write()
    result = collected(experiment, "figure3")
    cell_id = "mnist_shards/label_flip/attackers-2/foolsgold/seed-1"
    record = json.loads(experiment.path(cell_id).read_text())
    rounds = result.rounds[result.rounds.cell_id == cell_id]
    assert list(rounds.accuracy) == [r["accuracy"] for r in record["rounds"]]
    weights = {(w.round, w.client): w for w in result.weights.itertuples() if w.cell_id == cell_id}
    assert len(weights) == 10 * 20
    assert weights[3, 7].weight == pytest.approx(record["rounds"][2]["weights"][7], rel=1e-5)
    attackers = {w.client for w in weights.values() if w.attacker}
    assert attackers == set(record["clients"]["attackers"])
    assert not any(i.endswith("fedavg/seed-1") for i in ids(result.weights))


def test_a_cell_that_weighs_all_clients_alike_has_no_weights(experiment):
    experiment.write()
    cell_id = "mnist_shards/label_flip/attackers-2/foolsgold/seed-1"
    path = experiment.path(cell_id)

    def alike(record):
        for entry in record["rounds"]:
            entry["weights"] = [0.05] * 20

    rewrite(path, alike)
    assert cell_id not in ids(collected(experiment, "figure3").weights)
    # one client left out of one round
    rewrite(path, lambda record: record["rounds"][6].update(weights=[0.0] + [1 / 19] * 19))
    assert (collected(experiment, "figure3").weights.cell_id == cell_id).sum() == 10 * 20


def test_a_round_of_some_clients_keeps_their_numbers(tmp_path):
    experiment = Experiment(tmp_path, seeds=(1,), targets=("loan",))
    experiment.write()
    cell_id = "loan_states/backdoor_naive/attackers-1/residual_reweighting/seed-1"
    record = json.loads(experiment.path(cell_id).read_text())
    weights = collected(experiment, "loan").weights.query("cell_id == @cell_id and round == 5")
    assert list(weights.client) == record["rounds"][4]["clients"]
    assert weights.weight.sum() == pytest.approx(1, abs=1e-4)


def test_partitions_are_kept_once_per_task_and_seed(experiment):
    experiment.write()
    rows = collected(experiment, "figure3").partitions
    assert len(rows) == 3 * 20
    record = json.loads(experiment.path("mnist_shards/none/attackers-0/median/seed-2").read_text())
    counts = list(rows[rows.seed == 2].class_counts)
    assert counts == record["clients"]["class_counts"]
    assert set(rows[rows.seed == 2].partition) == {record["partition"]}


def test_a_partition_of_its_own_is_kept_beside_the_others(experiment):
    experiment.write()
    path = experiment.path("mnist_shards/none/attackers-0/median/seed-2")
    rewrite(path, lambda record: record.update(partition="ab" * 32))
    rows = collected(experiment, "figure3").partitions
    assert len(rows) == 4 * 20
    assert (rows.partition == "ab" * 32).sum() == 20


def test_weights_of_long_runs_are_thinned_but_keep_both_ends(tmp_path):
    experiment = Experiment(tmp_path, n_rounds=200, seeds=(1,), targets=("hyperparameters",))
    experiment.write()
    rounds = set(collected(experiment, "hyperparameters").weights["round"])
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
        (change(rounds__0__accuracy=None), "rounds[0].accuracy must be number, not None"),
        (
            change(rounds__3__attack_success_rate=1.5),
            "rounds[3].attack_success_rate must be smaller than or equal to 1, not 1.5",
        ),
        (change(seeds__noise=1), "its random streams are not those of seed"),
        (change(settings__scale="paper"), "scale is 'paper'"),
        (change(settings__task__epochs=5), "its task.epochs is 5, not 2 as planned"),
        (change(settings__task__lr=0.1), "its task.lr is 0.1, not None as planned"),
        (change(settings__attack=None), "its attack is None, not {'rule': 'label_flip'"),
        (change(cell__id="another"), "record of another"),
        (change(provenance={}), "provenance lacks backends, command, commit"),
        (change(rounds=None), "rounds must be array, not None"),
        (drop_rounds, "its rounds are not 1 to 10"),
        (change(rounds__2__weights=[0.5, 0.5]), "round 3 has not one weight for each client"),
        (leave_the_digest, "does not match its digest"),
        (make_a_folder, "no file"),
    ],
)
def test_a_broken_record_is_named_with_its_reason(experiment, breaker, reason):
    experiment.write()
    cell_id = "mnist_shards/label_flip/attackers-2/median/seed-2"
    breaker(experiment.path(cell_id))
    result = collected(experiment, "figure3")
    row = next(c for c in result.cells.itertuples() if c.cell_id == cell_id)
    assert row.state == "broken"
    assert reason in row.reason
    assert math.isnan(row.accuracy)
    assert cell_id not in ids(result.rounds)
    assert (result.cells.state == "done").sum() == len(result.cells) - 1


def test_a_missing_record_is_named(experiment):
    experiment.write()
    experiment.path("mnist_shards/none/attackers-0/fedavg/seed-3").unlink()
    cells = collected(experiment, "figure3").cells
    states = dict(zip(cells.cell_id, cells.state, strict=True))
    assert states["mnist_shards/none/attackers-0/fedavg/seed-3"] == "missing"
    assert list(states.values()).count("missing") == 1


def test_views_hold_every_cell_once(experiment):
    experiment.write()
    ids = list(collected(experiment, "all").cells.cell_id)
    # Clean cells are shared by figure 3 and table 4: 6 rules x (3 + 4 - 1) points x 3 seeds.
    assert len(ids) == len(set(ids)) == 6 * 6 * 3


def test_an_unknown_target_lists_the_known(experiment):
    experiment.write()
    with pytest.raises(UserError, match="no target 'table9'; it has all, figure3, table4"):
        collected(experiment, "table9")


def test_a_csv_of_another_shape_is_a_clear_error(tmp_path):
    (tmp_path / "cells.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"collected\.json does not exist"):
        _ = frames.Collected(tmp_path / "collected.json").cells
    digest = hashlib.sha256(b"a,b\n1,2\n").hexdigest()
    files = {"cells.csv": {"rows": 1, "sha256": digest}}
    (tmp_path / "collected.json").write_text(json.dumps({"target": "x", "files": files}))
    with pytest.raises(UserError, match="collect again"):
        _ = frames.Collected(tmp_path / "collected.json").cells
    (tmp_path / "collected.json").write_text("[]")
    with pytest.raises(UserError, match="collect again"):
        frames.Collected(tmp_path / "collected.json")


@pytest.mark.parametrize("name", ["cells", "rounds", "weights", "partitions"])
@pytest.mark.parametrize("damage", ["cut", "edited", "removed"])
def test_a_cut_or_edited_file_is_refused_by_its_name(experiment, name, damage):
    experiment.write()
    result = collected(experiment, "table4")
    path = experiment.run_dir / "collected" / "table4" / f"{name}.csv"
    lines = path.read_text().splitlines(keepends=True)
    if damage == "removed":
        path.unlink()
    elif damage == "cut":
        path.write_text("".join(lines[:-3]))
    else:
        path.write_text("".join([*lines[:-1], lines[-1].replace("1", "7", 1)]))
    with pytest.raises(UserError, match=rf"{name}\.csv .*collect again"):
        getattr(result, name)


def test_the_files_load_with_plain_pandas(experiment):
    experiment.write()
    result = collected(experiment, "table4")
    folder = experiment.run_dir / "collected" / "table4"
    plain = pd.read_csv(folder / "cells.csv")
    assert list(plain.accuracy) == list(result.cells.accuracy)
    assert list(plain.columns) == list(frames.COLUMNS["cells"])
    manifest = json.loads((folder / "collected.json").read_text())
    assert manifest["files"]["rounds.csv"]["rows"] == len(pd.read_csv(folder / "rounds.csv"))


def test_the_mean_of_the_last_rounds_is_that_of_the_records(tmp_path):
    experiment = Experiment(tmp_path, n_rounds=240, seeds=(1,), targets=("figure4",))
    experiment.write()
    for row in collected(experiment, "figure4").cells.itertuples():
        rounds = json.loads(Path(row.record).read_text())["rounds"][-50:]
        assert row.late_rounds == 50
        for rate in frames.RATES:
            expected = statistics.fmean(r[rate] for r in rounds)
            assert getattr(row, f"{rate}_late") == pytest.approx(expected)


def test_a_diverged_cell_is_neither_done_nor_broken(experiment):
    experiment.write()
    cell_id = "mnist_shards/label_flip/attackers-2/foolsgold/seed-2"
    diverge(experiment.path(cell_id), 5)
    result = collected(experiment, "figure3")
    row = next(c for c in result.cells.itertuples() if c.cell_id == cell_id)
    assert row.state == "diverged"
    assert row.diverged == "in round 5: the global model holds a NaN or an infinity"
    assert row.reason == f"diverged {row.diverged}"
    assert math.isnan(row.accuracy)
    assert math.isnan(row.attack_success_rate)
    assert row.n_rounds == 4
    assert cell_id not in ids(result.rounds) | ids(result.weights)
    assert (result.cells.state == "done").sum() == len(result.cells) - 1


def test_what_a_cell_changes_is_kept(experiment):
    experiment.write()
    cells = collected(experiment, "table4").cells
    changes = dict(zip(cells.cell_id, cells.changes, strict=True))
    assert changes["mnist_shards/gaussian.noise_std-2/attackers-2/median/seed-1"] == {
        "task": {},
        "attack": {"noise_std": 2},
        "aggregator": {},
    }


def test_packed_records_give_the_same_files(experiment):
    experiment.write()
    collected(experiment, "table4")
    folder = experiment.run_dir / "collected" / "table4"
    expected = {path.name: path.read_bytes() for path in folder.iterdir()}
    batches.pack(experiment.run_dir / "cells", experiment.folder / "packed")
    packed = batches.read(experiment.folder / "packed")
    shutil.rmtree(experiment.run_dir / "cells")
    collect.collect(experiment.plan_path, "table4", folder / "collected.json", packed)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null", '{"format": 2}', "\x00\xff"])
def test_no_record_stops_a_target(experiment, content, caplog):
    experiment.write()
    bad = experiment.path("mnist_shards/label_flip/attackers-2/median/seed-2")
    bad.write_text(content)
    folder = experiment.path("mnist_shards/label_flip/attackers-1/median/seed-2")
    folder.unlink()
    folder.mkdir()
    cells = collected(experiment, "figure3").cells
    assert (cells.state == "broken").sum() == 2
    assert "median/seed-2.json" in caplog.text
