"""Readings of the text: each number against one that is computed from the cells' ids by hand."""

import csv
import math
import statistics
from functools import cache
from pathlib import Path

import pytest
import yaml
from scipy import stats

from arfl.grid import Grid
from arfl.reporting import figures, frames, paper, readings, tables, targets

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "workflow" / "resources" / "paper"
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
RULES = ("fedavg", "median", "trimmed_mean", "repeated_median", "foolsgold", "residual_reweighting")
with (PAPER / "figure3.csv").open(encoding="utf-8") as stream:
    PRINTED = {(r["aggregator"], r["x"]): float(r["value"]) for r in csv.DictReader(stream)}
NUMBERS = paper.load(PAPER, readings.PRINTED)
BASE = "protocol paper"


def plain(cell, protocol):
    """A fake accuracy: the printed number plus a step, a seed's own shift, a change's own shift."""
    shift = 0.01 * (cell.seed - 2) + 0.002 * RULES.index(cell.aggregator)
    changed = 0.05 if cell.changes else 0.0
    step = 0.03 if protocol == "released" else 0.01
    return PRINTED[cell.aggregator, str(cell.n_attackers)] + step + shift + changed


@cache
def planned(protocol):
    """The cells of target readings with what is known of each before training."""
    grid, rows = Grid(SHIPPED | {"scale": "paper", "protocol": protocol}), []
    for point in grid.points["readings"]:
        cell = point.cell
        row = cell.describe() | {"cell_id": cell.id, "target": "readings", "run": grid.run}
        row |= {"panel": point.panel, "x_name": point.x_name, "x": point.x, "scale": "paper"}
        row |= {"protocol": protocol, "settings": grid.settings(cell), "dataset": "mnist"}
        row |= {"label": grid.aggregators[cell.aggregator]["label"], "state": "missing"}
        rows.append((cell, row | {"record": grid.record_path(cell)}))
    return rows


def frame(accuracy=plain, without=(), kind="complete"):
    """What `collect` would write for target readings of both runs, and id -> accuracy."""
    rows, truth = [], {}
    for protocol in ("paper", "released"):
        for cell, row in planned(protocol):
            run = row["run"]
            if not any(part in f"{run}/{cell.id}" for part in without):
                value = truth[run, cell.id] = accuracy(cell, protocol)
                row = row | {"state": "done", "accuracy": value, "accuracy_late": value - 0.02}
                row |= {"late_rounds": 50, "n_clients": 100, "data_name": "mnist"}
                row |= {"data_kind": kind, "device": "cpu", "device_name": "one", "python": "3"}
            rows.append(row)
    return frames.frame("cells", rows), truth


def path(n, rule, seed, task="", attack="", own=""):
    attack = f"label_flip{attack}" if n else "none"
    return f"mnist_shards{task}/{attack}/attackers-{n}/{rule}{own}/seed-{seed}"


def rms(truth, run, cells, seeds=(1, 2, 3), late=0.0):
    """Root mean square over (rule, n): the mean over the seeds against the printed number."""
    squares = []
    for (rule, n), options in cells.items():
        values = [truth[run, path(n, rule, seed, **options)] - late for seed in seeds]
        squares.append((statistics.fmean(values) - PRINTED[rule, str(n)]) ** 2)
    return math.sqrt(statistics.fmean(squares))


def everywhere(of):
    return {(rule, n): of(rule, n) for rule in RULES for n in (0, 1, 10)}


# What the cells of a reading are called, by rule and number of attackers.
MOMENTUM = everywhere(lambda rule, n: {"task": ".momentum-0.9"})
BY_CHANCE = everywhere(
    lambda rule, n: {
        "task": (".attackers_every_round-false" if n else "") + ".clients_per_round-10"
    }
)
RATE = everywhere(lambda rule, n: {"attack": ".lr_factor-1" if n else ""})
GRADIENTS = everywhere(lambda rule, n: {"own": ".update-gradients" if rule == "foolsgold" else ""})


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        (BASE, everywhere(lambda rule, n: {})),
        (f"{BASE}, momentum 0.9", MOMENTUM),
        (f"{BASE}, 10 train a round, attackers by chance", BY_CHANCE),
        (f"{BASE}, attackers' rate ×1", RATE),
        (f"{BASE}, FoolsGold: from summed gradients", GRADIENTS),
    ],
)
def test_distances_are_those_of_the_cells_that_a_reading_consists_of(words, cells):
    collected, truth = frame()
    far = readings.distances(readings.values(collected, NUMBERS))
    far = far[far.words == words].set_index(["aggregator", "measure"])
    for measure, late in (("last", 0.0), ("late", 0.02)):
        row = far.loc[readings.ALL_RULES, measure]
        assert row.rms == pytest.approx(rms(truth, "paper", cells, late=late))
        assert (row.n_printed, row.n_measured, row.n_missing, row.n_seeds) == (18, 18, 0, 3)
        parts = [
            rms(truth, "paper", cells, [s for s in (1, 2, 3) if s != out], late)
            for out in (1, 2, 3)
        ]
        jackknife = math.sqrt(2 / 3 * sum((p - statistics.fmean(parts)) ** 2 for p in parts))
        assert row.se == pytest.approx(jackknife)
        for rule in RULES:
            of_rule = {key: value for key, value in cells.items() if key[0] == rule}
            expected = rms(truth, "paper", of_rule, late=late)
            assert far.loc[rule, measure].rms == pytest.approx(expected)


def test_numbers_stand_beside_the_printed_ones_within_the_rule_for_a_mark():
    collected, truth = frame()
    entries = readings.entries(readings.values(collected, NUMBERS))
    here = entries[(entries.words == f"{BASE}, momentum 0") & (entries.measure == "last")]
    assert len(here) == 18
    for row in here.itertuples():
        ids = [path(int(row.column), row.aggregator, s, ".momentum-0") for s in (1, 2, 3)]
        values = [truth["paper", one] for one in ids]
        assert row.paper == PRINTED[row.aggregator, row.column]
        assert row.difference == pytest.approx(statistics.fmean(values) - row.paper)
        factor = stats.t.ppf(0.975, 2) * math.sqrt(1 / 3 + 1 / 3)
        assert row.allowance == pytest.approx(factor * statistics.stdev(values) + 0.005)
        assert row.fits == (abs(row.difference) <= row.allowance)
    assert set(entries[entries.measure == "last"].fits) >= {True, False}


def test_the_protocol_is_one_of_the_readings_and_only_what_touches_a_rule_is_its_own():
    collected, _ = frame()
    seeds = readings.values(collected, NUMBERS)
    own = seeds[seeds.own].groupby("words").aggregator.agg(lambda rules: set(rules))
    assert own["protocol paper"] == own["protocol released"] == set(RULES)
    assert own["protocol released, all train"] == set(RULES)
    assert own["protocol released, Ours: δ = 0.01"] == {"residual_reweighting"}
    assert own["protocol paper, Repeated Median: the code's variant"] == {"repeated_median"}
    rate = seeds[seeds.words == "protocol paper, attackers' rate ×1"]
    assert set(rate[~rate.own].n_attackers) == {0}
    assert seeds.groupby(["words", "aggregator", "column"]).size().unique().tolist() == [3]


def answers(accuracy, measure="last", **options):
    collected, _ = frame(accuracy, **options)
    found = readings.features(readings.values(collected, NUMBERS))
    found = found[(found.words == BASE) & (found.measure == measure)]
    return {row.feature: (row.answer, row.why) for row in found.itertuples()}


def test_a_feature_is_explained_refuted_or_open_by_its_own_interval():
    falls = ("FedAvg falls with one attacker", "FedAvg falls with ten")
    unlike, near = "Repeated Median unlike Median", "FoolsGold near 88 % with ten"
    printed = answers(lambda cell, _: PRINTED[cell.aggregator, str(cell.n_attackers)])
    assert printed == dict.fromkeys((*falls, unlike, near), ("yes", ""))
    assert answers(lambda cell, _: 0.8) == dict.fromkeys((*falls, unlike, near), ("no", ""))
    # Seeds that differ alike in all cells say nothing against a contrast, but against a level.
    shifted = answers(
        lambda cell, _: PRINTED[cell.aggregator, str(cell.n_attackers)] + 0.04 * (cell.seed - 2)
    )
    assert [shifted[name][0] for name in (*falls, unlike)] == ["yes"] * 3
    assert shifted[near] == ("open", "the seeds' spread, looks like yes")

    # A fall of 4.3 points on average, half of the printed 8.55: t and spread decide.
    def fall(cell, _):
        return 0.9 - (cell.n_attackers > 0) * (0.045 + 0.003 * (cell.seed - 2))

    half_width = stats.t.ppf(0.95, 2) * 0.003 / math.sqrt(3)
    assert 0.045 - half_width < 0.0855 / 2 < 0.045
    assert answers(fall)[falls[0]] == ("open", "the seeds' spread, looks like yes")


def test_few_seeds_and_missing_cells_leave_a_feature_open():
    found = answers(plain, without=("paper/mnist_shards/none/attackers-0/fedavg",))
    assert found["FedAvg falls with ten"] == ("open", "cells are missing")
    found = answers(plain, without=("seed-2", "seed-3"))
    assert {answer for answer, _ in found.values()} == {"open"}
    assert found["FedAvg falls with ten"][1] == "1 of 3 seeds, looks like yes"


def test_the_verdict_names_the_best_and_says_open_where_cells_are_missing():
    def best_with_momentum(cell, protocol):
        printed = PRINTED[cell.aggregator, str(cell.n_attackers)]
        good = protocol == "released" and ("task", "momentum", "0") in cell.changes
        return printed + 0.001 * (cell.seed - 2) + (0.0 if good else 0.1)

    collected, _ = frame(best_with_momentum)
    words = readings.verdict(readings.values(collected, NUMBERS))
    assert words[0].startswith(
        "The reading that fits best is protocol released, momentum 0 (last round): it lies 0.0 "
    )
    assert "not told apart" not in words[0]
    assert "18 can be compared, with 24 of the 24 readings. Each of these fits" in words[2]
    collected, _ = frame(best_with_momentum, without=("momentum-0/",))
    words = readings.verdict(readings.values(collected, NUMBERS))
    assert words[0].startswith("Which reading fits best is open: 18 of 20 have all their cells.")
    assert "These fit none: FedAvg at 0, 1 and 10; Median at 0, 1 and 10; Trimmed" in words[2]
    collected, _ = frame(without=("seed-",))
    words = readings.verdict(readings.values(collected, NUMBERS))
    assert words[:2] == [
        "Which reading fits best is open: none of the 20 that are planned for all rules has all "
        "its cells.",
        "Which printed numbers fit no reading is open: none is measured by 3 seeds.",
    ]


def test_readings_that_the_seeds_cannot_tell_apart_are_named():
    collected, _ = frame(lambda cell, _: PRINTED[cell.aggregator, str(cell.n_attackers)] + 0.01)
    words = readings.verdict(readings.values(collected, NUMBERS))[0]
    assert words.startswith("Which reading fits best is open: all 20 have their cells, but the ")
    assert "not told apart from it: protocol paper, 10 train" in words.replace(
        "protocol paper (mean of the last rounds, 1.0); ", ""
    )


def test_stand_ins_have_nothing_beside_them():
    collected, _ = frame(kind="stand-in")
    seeds = readings.values(collected, NUMBERS)
    assert seeds.paper.isna().all()
    assert readings.verdict(seeds)[0].startswith("No reading is judged")
    _, laid_out = readings.table(collected, NUMBERS)
    assert [block.heading for block in laid_out.blocks][:2] == ["FedAvg", "Median"]


def test_the_table_and_the_figure_show_what_was_measured_and_name_the_rest():
    collected, truth = frame(without=("paper-released",))
    _, laid_out = readings.table(collected, NUMBERS)
    text = tables.markdown(laid_out)
    values = [truth["paper", path(1, "fedavg", s, ".train_share-0.7")] for s in (1, 2, 3)]
    shown = f"{100 * statistics.fmean(values):.2f} ± {100 * statistics.stdev(values):.2f}"
    row = next(line for line in text.splitlines() if line.startswith("| protocol paper, 70 % of"))
    assert "| last round |" in row
    fedavg = text[text.index("## FedAvg") : text.index("## Median")]
    assert shown in fedavg
    assert "| the paper | printed | 94.80 | 86.25 | 83.30 |  |" in fedavg
    assert "Ours" not in fedavg
    assert "No records yet: protocol released; protocol released, all train" in text
    drawn = figures.readings(collected, NUMBERS, targets.KNOWN["readings"])
    labels = [axis.get_title(loc="left") for axis in drawn.figure.axes if axis.get_visible()]
    assert labels == ["FedAvg", "Median", "Trimmed Mean", "Repeated Median", "FoolsGold", "Ours"]
    names = [tick.get_text() for tick in drawn.figure.axes[0].get_yticklabels()]
    assert names[:2] == ["paper", "paper, 10 train a round, attackers by chance"]
    lines = {round(float(line.get_xdata()[0]), 6) for line in drawn.figure.axes[0].lines}
    assert {94.8, 86.25, 83.3} <= lines
    nothing, _ = frame(without=("seed-",))
    assert figures.readings(nothing, NUMBERS, targets.KNOWN["readings"]) is None


def test_no_participant_has_31_batches():
    # So that this difference between the protocols is no reading of Figure 3.
    task = SHIPPED["tasks"]["mnist_shards"]
    images = task["partition"]["shard_size"] * task["partition"]["shards_per_client"]
    limit = SHIPPED["protocols"]["released"]["tasks"]["mnist_shards"]["max_batches_per_epoch"]
    assert math.ceil(images / task["batch_size"]) == 5 < limit


def test_an_effect_is_the_change_within_a_seed():
    collected, truth = frame(without=("paper/mnist_shards.momentum-0/none/attackers-0/fedavg",))
    found = readings.effects(readings.values(collected, NUMBERS))
    found = found.set_index(["before", "after", "label", "column"])
    steps = [
        truth["paper", path(10, "fedavg", s, attack=".lr_factor-1")]
        - truth["paper", path(10, "fedavg", s)]
        for s in (1, 2, 3)
    ]
    row = found.loc[BASE, "attackers' rate ×1", "FedAvg", "10"]
    assert row["mean"] == pytest.approx(statistics.fmean(steps))
    assert row["std"] == pytest.approx(statistics.stdev(steps))
    assert row.n_seeds == 3
    # Nobody attacks: no effect, and none is claimed. Without its cell there is none either.
    assert (BASE, "attackers' rate ×1", "FedAvg", "0") not in found.index
    assert (BASE, "momentum 0", "FedAvg", "0") not in found.index
    between = found.loc[BASE, "protocol released", "Ours", "1"]
    assert between["mean"] == pytest.approx(0.02)


def test_a_diverged_cell_is_no_number():
    collected, _ = frame()
    lost = collected.cell_id == path(10, "fedavg", 1, ".momentum-0.9")
    collected.loc[lost, "state"] = "diverged"
    collected.loc[lost, ["accuracy", "accuracy_late"]] = float("nan")
    far = readings.distances(readings.values(collected, NUMBERS))
    here = far[(far.words == f"{BASE}, momentum 0.9") & (far.aggregator == readings.ALL_RULES)]
    assert set(here.n_missing) == {1}
    rows = readings.entries(readings.values(collected, NUMBERS))
    one = rows[(rows.words == f"{BASE}, momentum 0.9") & (rows.aggregator == "fedavg")]
    assert one[one.column == "10"].n_diverged.tolist() == [1, 1]
