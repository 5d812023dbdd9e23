import csv
import json
import math
import statistics
from pathlib import Path

import pytest
import scipy.stats
from reporting_records import AGGREGATORS, Experiment, papers_of, rewrite

from arfl.errors import UserError
from arfl.reporting import collect, compare, paper, tables, targets

PAPER = Path(__file__).parents[2] / "workflow" / "resources" / "paper"


def printed(target, aggregator):
    with open(PAPER / f"{target}.csv") as file:
        return [float(r["value"]) for r in csv.DictReader(file) if r["aggregator"] == aggregator]


def test_averages_of_the_csv_are_the_averages_the_paper_prints():
    with open(PAPER / "printed_averages.csv") as file:
        averages = list(csv.DictReader(file))
    assert len(averages) == 18
    for row in averages:
        mean = statistics.fmean(printed(row["target"], row["aggregator"]))
        # Both the entries and their average are rounded to 0.01 %.
        assert mean == pytest.approx(float(row["value"]), abs=1.0001e-4), row


@pytest.mark.parametrize(
    ("target", "per_aggregator"),
    [("figure3", 11), ("table1", 5), ("table2", 5), ("table3", 8), ("table4", 4)],
)
def test_every_printed_number_is_there(target, per_aggregator):
    for aggregator in AGGREGATORS:
        assert len(printed(target, aggregator)) == per_aggregator


def test_a_sample_of_printed_numbers():
    def value(target, **keys):
        found = paper.load(PAPER, target).values
        for key, wanted in keys.items():
            found = found[found[key] == wanted]
        return found.value.item()

    naive, success = "cifar10/backdoor_naive", "attack_success_rate"
    assert value("table3", panel=naive, aggregator="residual_reweighting", metric=success) == 0.0965
    loan = "loan/backdoor_naive"
    assert value("loan", panel=loan, aggregator="foolsgold", metric=success) == 0.9996
    assert value("table2", aggregator="repeated_median", metric="accuracy", x=2.0) == 0.2322


@pytest.fixture
def written(tmp_path):
    def write(experiment, target):
        entry = targets.of_plan(experiment.plan())[target]
        out = experiment.run_dir / "collected" / entry.folder
        collect.collect(experiment.plan_path, entry.folder, out / "collected.json")
        prefix = experiment.run_dir / "tables" / target
        tables.write(out / "collected.json", entry, papers_of(experiment), prefix)
        with open(f"{prefix}.csv") as file:
            rows = list(csv.DictReader(file))
        return rows, Path(f"{prefix}.md").read_text(), Path(f"{prefix}.tex").read_text()

    return write


def accuracies(experiment, cell_format):
    records = [json.loads(experiment.path(cell_format.format(s)).read_text()) for s in (1, 2, 3)]
    return [r["rounds"][-1]["accuracy"] for r in records]


def test_an_entry_is_recomputed_from_its_records(tmp_path, written):
    experiment = Experiment(tmp_path, scale="paper", n_rounds=2, targets=("table4",))
    experiment.write()
    rows, markdown, latex = written(experiment, "table4")
    row = next(r for r in rows if r["aggregator"] == "foolsgold" and r["column"] == "2")
    cell = "mnist_shards/gaussian.noise_std-2/attackers-10/foolsgold/seed-{}"
    values = accuracies(experiment, cell)
    mean, std = statistics.fmean(values), statistics.stdev(values)
    assert float(row["measured"]) == pytest.approx(mean)
    assert float(row["std"]) == pytest.approx(std)
    assert float(row["difference"]) == pytest.approx(mean - 0.8696)
    # scipy.stats as the independent witness of the rule's quantile.
    half = scipy.stats.t.ppf(0.975, 2) * std * math.sqrt(1 / 3 + 1 / 3) + 0.00005
    assert float(row["allowance"]) == pytest.approx(half)
    assert row["beyond"] == str(abs(mean - 0.8696) > half).lower()
    assert f"{100 * mean:.2f} ± {100 * std:.2f}" in markdown
    assert rf"{100 * mean:.2f} $\pm$ {100 * std:.2f}" in latex


def test_the_average_is_over_seeds_of_averages_over_the_sweep(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("table4",))
    experiment.write()
    rows, _, _ = written(experiment, "table4")
    row = next(r for r in rows if r["aggregator"] == "median" and r["column"] == "average")
    levels = (f"gaussian.noise_std-{n}/attackers-2" for n in (1, 2, 3))
    cells = ("none/attackers-0", *levels)
    sweep = [accuracies(experiment, f"mnist_shards/{c}/median/seed-{{}}") for c in cells]
    means = [statistics.fmean(seed) for seed in zip(*sweep, strict=True)]
    assert float(row["measured"]) == pytest.approx(statistics.fmean(means))
    assert float(row["std"]) == pytest.approx(statistics.stdev(means))
    assert float(row["paper"]) == pytest.approx(0.6826, abs=1e-4)


def test_incomplete_seeds_are_told(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("table4",))
    experiment.write()
    experiment.path("mnist_shards/gaussian.noise_std-1/attackers-2/fedavg/seed-2").unlink()
    for seed in (1, 2, 3):
        experiment.path(
            f"mnist_shards/gaussian.noise_std-3/attackers-2/median/seed-{seed}"
        ).unlink()
    rows, markdown, _ = written(experiment, "table4")
    by_key = {(r["aggregator"], r["column"]): r for r in rows}
    assert by_key["fedavg", "1"]["n_done"] == by_key["fedavg", "average"]["n_done"] == "2"
    assert by_key["median", "3"]["measured"] == by_key["median", "3"]["difference"] == ""
    assert "(2/3 seeds)" in markdown
    assert "(0/3 seeds)" not in markdown
    assert "–: no record yet" in markdown
    assert "68 of 72 cells done" in markdown


def test_a_single_seed_is_never_marked(tmp_path, written):
    experiment = Experiment(tmp_path, seeds=(1,), targets=("table4",))
    experiment.write()
    rows, markdown, _ = written(experiment, "table4")
    assert {r["beyond"] for r in rows} == {r["std"] for r in rows} == {""}
    assert "one seed" in markdown
    assert "± standard deviation" not in markdown
    assert "▲ |" not in markdown
    assert "▼ |" not in markdown


def test_attackers_are_compared_at_the_same_share(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("figure3",))
    experiment.write()
    rows, markdown, _ = written(experiment, "figure3")
    row = next(r for r in rows if r["aggregator"] == "fedavg" and r["column"] == "2")
    assert (row["paper_column"], float(row["paper"])) == ("10", 0.8330)
    assert "2 (paper's 10)" in markdown


def test_a_point_without_records_stands_beside_the_same_share(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("figure3",))
    experiment.write()
    for path in (tmp_path / "results").rglob("label_flip/attackers-2/fedavg/seed-*.json"):
        path.unlink()
    rows, _, _ = written(experiment, "figure3")
    row = next(r for r in rows if r["aggregator"] == "fedavg" and r["column"] == "2")
    assert (row["paper_column"], row["paper"], row["measured"]) == ("10", "0.833", "")


def test_versions_are_mixed_only_where_like_cells_disagree(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("table4",))
    experiment.write()
    for aggregator, stale in (("median", "seed-*"), ("fedavg", "seed-1")):
        for path in (tmp_path / "results").rglob(f"{aggregator}/{stale}.json"):
            rewrite(path, lambda r: r["provenance"].update(fingerprint="0ldc0de"))
        _, markdown, _ = written(experiment, "table4")
        mixed = "Records of 2 versions of the numeric code are mixed." in markdown
        # All of the median's cells have one version; FedAvg's have two.
        assert mixed == (aggregator == "fedavg")


def test_a_cell_without_attackers_has_no_attack_success_rate_to_miss(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("figure3",))
    experiment.write()
    rows, _, _ = written(experiment, "figure3")
    clean = [r for r in rows if r["metric"] == "attack_success_rate" and r["column"] == "0"]
    assert {r["n_planned"] for r in clean} == {"0"}


def test_a_large_difference_has_the_reading_of_its_protocol_or_is_called_open(tmp_path, written):
    accuracy = {"fedavg": 0.5, "median": 0.2}
    for protocol, blamed in (("paper", "follows Equation 2"), ("released", "here the rel")):
        experiment = Experiment(
            tmp_path / protocol, scale="paper", protocol=protocol, targets=("figure3", "table4"),
            accuracy=lambda cell, _: accuracy.get(cell["aggregator"], 0.3),
        )  # fmt: skip
        experiment.write()
        lines = written(experiment, "figure3")[1].splitlines()
        of_rule = [line for line in lines if line.startswith("- Repeated median differs")]
        assert len(of_rule) == 1
        assert blamed in of_rule[0]
    # Nothing is known of FedAvg in Table 4, and its seeds differ by little.
    notes = written(experiment, "table4")[1].splitlines()
    assert any(n.startswith("- FedAvg differs") and "Open: no reading" in n for n in notes)


def test_quick_scale_says_so_and_paper_scale_does_not(tmp_path, written):
    quick = Experiment(tmp_path, targets=("table3",))
    quick.write()
    for text in written(quick, "table3")[1:]:
        assert "Not the paper's experiment (scale quick, stand-in data)" in text
        assert "digits (stand-in for mnist and cifar10" in text
    full = Experiment(tmp_path, scale="paper", targets=("table3",))
    full.write()
    for text in written(full, "table3")[1:]:
        assert "Not the paper's experiment" not in text
        assert "Scale paper" in text


def test_backdoor_tables_have_both_definitions(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("loan",))
    experiment.write()
    rows, markdown, _ = written(experiment, "loan")
    by_key = {(r["panel"], r["aggregator"], r["metric"]): r for r in rows}
    row = by_key["loan/backdoor_naive", "fedavg", "attack_success_rate"]
    assert float(row["paper"]) == 0.9971
    assert float(row["measured"]) == pytest.approx(0.9)
    row = by_key["loan/backdoor_naive", "fedavg", "attack_success_rate_excl_target"]
    assert row["paper"] == ""
    assert float(row["measured"]) == pytest.approx(0.8 / 0.9)
    assert "target class left out" in markdown


def test_latex_is_balanced_and_escaped(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("table3",))
    experiment.write()
    _, _, latex = written(experiment, "table3")
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    assert latex.count(r"\begin{") == latex.count(r"\end{")
    for line in latex.splitlines():
        if line.endswith(r"\\"):
            assert line.count(" & ") == 4
    assert "%" not in latex.replace(r"\%", "").replace("% needs", "").replace("!}{%", "!}{")
    assert latex.isascii()


def test_timing_gives_medians_per_round(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("table4",))
    experiment.write()
    rows, _, _ = written(experiment, "timing")
    row = next(r for r in rows if r["aggregator"] == "fedavg")
    cells = [c for c in experiment.targets["table4"] if c["cell"]["aggregator"] == "fedavg"]
    seconds = [json.loads(Path(c["record"]).read_text())["seconds"] for c in cells]
    expected = statistics.median(s["aggregation"] for s in seconds) / 10
    assert float(row["aggregation_per_round"]) == pytest.approx(expected)


def test_a_target_without_a_table_is_refused(tmp_path):
    with pytest.raises(UserError, match="figure5 has no table"):
        tables.write(tmp_path, targets.KNOWN["figure5"], PAPER, tmp_path / "x")


def test_a_new_target_has_a_table_from_its_entry_alone(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("table4", "loan"))
    experiment.targets = {"mine": experiment.targets["table4"], "other": experiment.targets["loan"]}
    experiment.write()
    rows, markdown, _ = written(experiment, "mine")
    assert len(rows) == 6 * 4
    assert markdown.startswith("# Mine\n")
    assert targets.of_plan(experiment.plan())["mine"].plot == "swept"
    assert targets.of_plan(experiment.plan())["other"].plot == "bars"


def test_the_last_rounds_stand_beside_the_last(tmp_path, written):
    experiment = Experiment(tmp_path, n_rounds=20, targets=("table4",))
    experiment.write()
    rows, markdown, _ = written(experiment, "table4")
    row = next(r for r in rows if r["aggregator"] == "fedavg" and r["column"] == "1")
    paths = "mnist_shards/gaussian.noise_std-1/attackers-2/fedavg/seed-{}"
    late = [
        statistics.fmean(
            r["accuracy"]
            for r in json.loads(experiment.path(paths.format(s)).read_text())["rounds"][-5:]
        )
        for s in (1, 2, 3)
    ]
    assert float(row["late"]) == pytest.approx(statistics.fmean(late))
    assert "last 5 rounds" in markdown


def test_a_diverged_cell_is_no_number(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("table4",))
    experiment.write()

    def diverge(record):
        record["diverged"] = {"round": 4, "cause": "not finite"}
        record["rounds"] = record["rounds"][:3]

    for seed in (1, 2, 3):
        name = "mnist_shards/gaussian.noise_std-3/attackers-2/fedavg/seed-{}"
        rewrite(experiment.path(name.format(seed)), diverge)
    rows, markdown, _ = written(experiment, "table4")
    row = next(r for r in rows if r["aggregator"] == "fedavg" and r["column"] == "3")
    assert (row["measured"], row["n_diverged"]) == ("", "3")
    assert "diverged (3 of 3 seeds)" in markdown
    average = next(r for r in rows if r["aggregator"] == "fedavg" and r["column"] == "average")
    assert average["measured"] == ""


def test_stand_ins_are_never_marked_against_the_paper(tmp_path, written):
    for scale, marked in (("quick", False), ("paper", True)):
        experiment = Experiment(tmp_path / scale, scale=scale, n_rounds=2, targets=("table1",))
        experiment.write()
        rows, markdown, _ = written(experiment, "table1")
        assert ({r["beyond"] for r in rows} != {""}) == marked
        assert ("▼ |" in markdown) == marked


def test_the_same_cells_under_two_names_are_told(tmp_path, written):
    experiment = Experiment(tmp_path, targets=("table3",))
    for row in experiment.targets["table3"]:
        row["cell"] = row["cell"] | {"id": row["cell"]["id"].replace("cifar10", "mnist")}
        row["record"] = str(experiment.path(row["cell"]["id"]))
        experiment.datasets[row["cell"]["id"]] = "mnist"
        experiment.shares[row["cell"]["id"]] = 0.5
    experiment.write()
    assert "The same cells are shown for MNIST and CIFAR-10." in written(experiment, "table3")[1]


@pytest.mark.parametrize("degrees", [1, 2, 9])
def test_student_quantiles(degrees):
    assert compare.student_t(0.975, degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees))
