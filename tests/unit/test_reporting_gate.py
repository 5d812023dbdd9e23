"""Attempts to obtain a wrong verdict, each of which once succeeded."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from reporting_records import PAPER, Experiment, papers, rewrite
from test_reporting_claims import decided, findings, table1

from arfl import dataset, record
from arfl.datasets import synthetic_loans
from arfl.errors import UserError
from arfl.reporting import captions, claims, collect, compare, evidence, frames, paper
from arfl.reporting import findings as findings_page


class FiveAttackers(Experiment):
    """Table 3 with five attackers of ten instead of the paper's one."""

    def _backdoors(self, dataset):
        rows = super()._backdoors(dataset)
        for row in rows:
            old = row["cell"]["id"]
            new = old.replace("attackers-1", "attackers-5")
            row["cell"] |= {"n_attackers": 5, "id": new}
            row["record"] = str(self.path(new))
            self.shares[new], self.datasets[new] = self.shares[old], self.datasets[old]
        return rows


def test_another_number_of_attackers_is_named(tmp_path):
    experiment = FiveAttackers(tmp_path, scale="paper", noise=0.0005, n_rounds=2,
                               targets=("table3",))  # fmt: skip
    claim = decided(experiment, "mnist-naive-highest", "table3")
    assert claim.verdict == "undecided"
    assert "attackers" in claim.reason


def test_an_x_that_is_not_the_number_of_attackers_is_named(tmp_path):
    experiment = Experiment(tmp_path, scale="paper", noise=0.0005, n_rounds=2,
                            targets=("figure3",))  # fmt: skip
    for row in experiment.targets["figure3"]:
        if 0 < row["x"] < 10:
            row["x"] = 10 - row["x"]
    # 10 is left alone, so that the cells at 1 to 9 stand in each other's place.
    assert decided(experiment, "mnist-flip-best-everywhere", "figure3").verdict == "undecided"


def test_the_order_of_a_sweep_changes_no_verdict(tmp_path):
    def accuracy(cell, share):
        return 0.93 - 0.12 * (cell["n_attackers"] == 10)

    verdicts = []
    for order in (lambda r: r["x"], lambda r: -r["x"]):
        experiment = Experiment(tmp_path / str(len(verdicts)), scale="paper", noise=0.0005,
                                n_rounds=2, accuracy=accuracy, targets=("figure3",))  # fmt: skip
        experiment.targets["figure3"].sort(key=order)
        verdicts.append(decided(experiment, "mnist-flip-hurts-fedavg", "figure3").verdict)
    assert verdicts == ["reproduced", "reproduced"]


def test_an_option_of_a_dataset_is_compared_with_the_papers(tmp_path):
    experiment = Experiment(tmp_path, scale="paper", n_rounds=2, targets=("loan",))
    original = experiment.plan
    experiment.plan = lambda: original() | {"datasets": {"loan": {"trigger_margin": 1000}}}
    claim = decided(experiment, "loan-fedavg-falls", "loan")
    assert "datasets.loan.trigger_margin is 1000, not 1 as in the paper" in claim.reason


def test_another_option_makes_other_data(tmp_path):
    made = []
    for seed in (0, 0, 1):
        # An option that a module does not use for its arrays must be told apart as well.
        preparation = synthetic_loans.prepare(tmp_path)
        changed = {"seed": seed} if seed else {}
        dataset.write("synthetic_loans", preparation, tmp_path / "made", changed)
        made.append(dataset.load(tmp_path / "made", verify=True).meta)
    described = [record.describe_data(meta, "loan") for meta in made]
    assert record.is_same_data(*described[:2])
    assert not record.is_same_data(*described[1:])


def test_a_caption_at_scale_paper_names_settings_that_are_not_the_papers(tmp_path):
    experiment = Experiment(tmp_path, scale="paper", n_rounds=2, targets=("figure3",))
    folder = papers(tmp_path, n_rounds=200)
    experiment.write()
    out = tmp_path / "collected.json"
    collect.collect(experiment.plan_path, "figure3", out)
    cells = evidence.collected(out, folder).cells
    found = {f.id: f for f in claims.ledger({"figure3": frames.Collected(out)}, folder)}
    assert "rounds is 2, not 200" in found["mnist-flip-best-average"].reason
    marks = compare.compare(cells, paper.load(PAPER, "figure3")).beyond
    assert captions.warning(cells).startswith("Not the paper's experiment (scale paper with other")
    assert captions.warning(evidence.collected(out, papers(tmp_path)).cells) == ""
    assert marks.isna().all()


def test_rules_of_a_seed_on_other_partitions_decide_nothing(tmp_path):
    experiment = table1(tmp_path)
    experiment.write()
    for path in (tmp_path / "results").rglob("residual_reweighting/seed-*.json"):
        rewrite(path, lambda r: r.update(partition="f" * 64))
    assert decided(experiment).verdict == "undecided"


def test_a_commit_with_another_partition_is_not_the_same_code(tmp_path):
    # One rule by another commit, linked by a like cell with the same fingerprint: which, by its
    # own words, says nothing of arfl.partition and arfl.dataset.
    experiment = table1(tmp_path, targets=("table1", "figure4"))
    experiment.write()

    def change(r):
        r["provenance"].update(commit="fedcba")
        r["partition"] = "e" * 64

    for pattern in ("label_flip/*/median/seed-*.json", "backdoor_naive/*/fedavg/seed-1.json"):
        for path in (tmp_path / "results").rglob(pattern):
            rewrite(path, change)
    claim = findings(experiment, "table1", "figure4")["cifar10-flip-best-average"]
    assert claim.verdict == "undecided"


def test_a_seed_without_the_metric_is_no_seed(tmp_path):
    experiment = Experiment(tmp_path, scale="paper", n_rounds=2, targets=("table3",))
    experiment.write()
    for path in (tmp_path / "results").rglob("seed-3.json"):
        rewrite(path, lambda r: [e.update(attack_success_rate=None) for e in r["rounds"]])
    claim = decided(experiment, "naive-succeeds-under-fedavg", "table3")
    assert claim.verdict == "undecided", claim.numbers


def test_rounds_without_the_metric_are_no_maximum(tmp_path):
    experiment = Experiment(tmp_path, scale="paper", n_rounds=10, targets=("figure4",))
    experiment.write()
    for path in (tmp_path / "results").rglob("residual_reweighting/seed-3.json"):
        rewrite(path, lambda r: [e.update(attack_success_rate=None) for e in r["rounds"][3:]])
    assert decided(experiment, "cifar10-naive-stable", "figure4").verdict == "undecided"


def test_manifests_of_two_runs_are_refused(tmp_path):
    here = {}
    for name, scale, target in (("a", "quick", "table3"), ("b", "paper", "table1")):
        experiment = Experiment(tmp_path / name, scale=scale, noise=0.0005, n_rounds=2,
                                targets=(target,))  # fmt: skip
        experiment.write()
        here[name] = tmp_path / name / "collected.json"
        collect.collect(experiment.plan_path, target, here[name])
    with pytest.raises(UserError):
        claims.evaluate(here.values(), papers(tmp_path), tmp_path / "claims")


def test_two_manifests_of_one_target_are_refused(tmp_path):
    here = []
    for name, accuracy in (("a", 0.5), ("b", 0.9)):
        experiment = table1(tmp_path / name, accuracy=lambda cell, share, a=accuracy: a)
        experiment.write()
        here.append(tmp_path / name / "collected.json")
        collect.collect(experiment.plan_path, "table1", here[-1])
    with pytest.raises(UserError):
        claims.evaluate(here, papers(tmp_path), tmp_path / "claims")


@pytest.mark.parametrize(
    ("row", "refused"),
    [
        ("10,10,5.0,10,1", False),
        ("10,10,1.03,0.01,1", False),
        ("10,10,,0.01,1", True),
        ("10,10,0.5,,1", True),
        ("10,10,0.5,0.1,0", True),
        ("10,10,-5,0.1,1", True),
        ("10,10,much,0.1,1", True),
    ],
)
def test_the_theorem_is_open_where_the_simulation_does_not_settle_it(tmp_path, row, refused):
    path = tmp_path / "theory.csv"
    path.write_text(f"n_clients,n_samples,error,error_standard_error,rate\n{row}\n")
    if refused:
        with pytest.raises(UserError, match="no positive number"):
            claims.ledger({}, PAPER, path)
    else:
        found = {f.id: f for f in claims.ledger({}, PAPER, path)}["theorem-bound"]
        assert (found.verdict, found.reason) == ("undecided", "the simulation is too coarse")


def test_a_point_that_is_planned_twice_is_refused(tmp_path):
    experiment = table1(tmp_path)
    experiment.targets["table1"] += experiment.targets["table1"][:3]
    with pytest.raises(UserError, match="fedavg/seed-1 twice at one point of table1"):
        decided(experiment)


def test_a_record_copied_to_another_seed_with_its_streams_is_noticed(tmp_path):
    experiment = table1(tmp_path)
    experiment.write()
    for path in (tmp_path / "results").rglob("median/seed-2.json"):
        copied = json.loads(path.with_name("seed-1.json").read_text())
        rewrite(path, lambda r, c=copied: r.update(rounds=c["rounds"], seconds=c["seconds"]))
    claim = decided(experiment)
    assert claim.verdict == "undecided"
    assert "seeds 1 and 2 of cifar10_dirichlet/" in claim.reason
    assert "are copies of each other" in claim.reason


def test_a_record_without_its_streams_is_broken(tmp_path):
    experiment = table1(tmp_path)
    experiment.write()
    for path in (tmp_path / "results").rglob("seed-3.json"):
        rewrite(path, lambda r: r.update(seeds={}))
    assert decided(experiment).verdict == "undecided"


def test_the_clients_are_as_many_as_the_settings_say(tmp_path):
    experiment = table1(tmp_path)
    experiment.write()
    for path in (tmp_path / "results").rglob("seed-*.json"):
        rewrite(path, lambda r: r["clients"].update(
            n=5, attackers=list(range(r["cell"]["n_attackers"])),
            class_counts=r["clients"]["class_counts"][:5]))  # fmt: skip
    assert decided(experiment).verdict == "undecided"


@pytest.mark.parametrize(
    ("change", "drop"),
    [
        ({"test": "above"}, "level"),
        ({"level": 20}, None),
        ({"level": float("nan")}, None),
        ({"test": "between", "level": [0.9, 0.1]}, None),
        ({"test": "no_drop", "x": 1}, None),
        ({"test": "no_drop", "over_x": "average"}, None),
        ({"test": "exceeds", "against": "others", "by": 5}, None),
    ],
)
def test_a_statement_that_cannot_be_meant_is_refused(tmp_path, change, drop):
    entries = yaml.safe_load((PAPER / "claims.yaml").read_text())
    entry = next(e for e in entries if e["id"] == "cifar10-flip-foolsgold-fails") | change
    entry.pop(drop, None)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([entry]))
    with pytest.raises(UserError):
        claims.read(path, evidence.load(PAPER))


def test_toy_is_what_scale_or_data_alone_keep_from_a_verdict(tmp_path):
    experiment = Experiment(tmp_path, targets=("table1",))
    experiment.write()
    for path in (tmp_path / "results").rglob("median/seed-*.json"):
        rewrite(path, lambda r: r["provenance"].update(dirty=True))
    claim = decided(experiment)
    assert "local changes" in claim.reason
    assert claim.others != "toy"


def test_a_diverged_cell_has_a_record():
    cells = pd.DataFrame({"state": ["done", "diverged", "missing"], "protocol": "paper"})
    (text,) = findings_page._opening([SimpleNamespace(cells=cells)])
    assert "2 of 3 cells under protocol paper have a record" in text
