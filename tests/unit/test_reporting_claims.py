import csv
import json
import statistics
from pathlib import Path

import pytest
import scipy.stats
import yaml
from reporting_records import LEVELS, Experiment

from arfl.errors import UserError
from arfl.reporting import claims, collect, paper

PAPER = Path(__file__).parents[2] / "workflow" / "resources" / "paper"


def findings(experiment, *targets):
    experiment.write()
    collected = {}
    for target in targets:
        out = experiment.run_dir / "collected" / target
        collect.collect(experiment.plan_path, target, out)
        collected[target] = collect.Collected(out)
    return {f.id: f for f in claims.ledger(collected, PAPER)}


def flat(level_of):
    """An accuracy that depends on the rule alone."""
    return lambda cell, share: level_of.get(cell["aggregator"], 0.8)


def test_the_ledger_is_complete_and_its_ids_are_unique():
    ledger = claims.read(PAPER / "claims.yaml")
    assert len({c.id for c in ledger}) == len(ledger) >= 25
    assert {c.target for c in ledger} == {
        "figure3", "table1", "table2", "table3", "table4", "figure4", "loan", "hyperparameters",
    }  # fmt: skip


def test_quick_scale_never_gives_a_verdict_and_says_what_the_records_show(tmp_path):
    found = findings(Experiment(tmp_path, noise=0.0005), *Experiment.all_targets())
    assert {f.verdict for f in found.values()} == {"undecided"}
    claim = found["mnist-flip-best-average"]
    assert "scale is quick, not paper" in claim.reason
    assert "data: stand-in" in claim.reason
    assert claim.at_hand == "holds"
    assert found["loan-above-fedavg"].reason.endswith("data: synthetic")


def test_paper_scale_with_complete_data_decides(tmp_path):
    experiment = Experiment(tmp_path, scale="paper", noise=0.0005, n_rounds=2,
                            targets=("table1",))  # fmt: skip
    found = findings(experiment, "table1")
    assert found["cifar10-flip-best-average"].verdict == "reproduced"
    assert found["cifar10-flip-best-average"].reason == ""
    # FoolsGold is far above 20 % in the invented records.
    assert found["cifar10-flip-foolsgold-fails"].verdict == "not reproduced"
    # Nothing was collected for the other targets.
    assert found["loan-above-fedavg"].verdict == "undecided"
    assert found["loan-above-fedavg"].at_hand == "no records"


def test_one_worse_rule_refutes(tmp_path):
    levels = LEVELS | {"trimmed_mean": 0.96}
    experiment = Experiment(tmp_path, scale="paper", noise=0.0005, n_rounds=2,
                            accuracy=flat(levels), targets=("table4",))  # fmt: skip
    claim = findings(experiment, "table4")["gaussian-best-average"]
    assert claim.verdict == "not reproduced"
    assert "trimmed mean" in claim.numbers


def test_a_margin_within_the_seeds_spread_is_undecided(tmp_path):
    levels = LEVELS | {"trimmed_mean": LEVELS["residual_reweighting"] - 0.001}
    experiment = Experiment(tmp_path, scale="paper", noise=0.01, n_rounds=2,
                            accuracy=flat(levels), targets=("table1",))  # fmt: skip
    claim = findings(experiment, "table1")["cifar10-flip-best-average"]
    assert (claim.verdict, claim.at_hand) == ("undecided", "unclear")
    assert claim.reason == "the seeds do not settle it"


def test_the_interval_is_recomputed_from_the_records(tmp_path):
    experiment = Experiment(tmp_path, scale="paper", n_rounds=2, targets=("figure3",))
    claim = findings(experiment, "figure3")["mnist-flip-foolsgold-6-percent"]
    margins = []
    for seed in (1, 2, 3):
        means = {}
        for rule in ("residual_reweighting", "foolsgold"):
            cells = ["none/attackers-0", *(f"label_flip/attackers-{k}" for k in range(1, 11))]
            values = [
                json.loads(
                    experiment.path(f"mnist_shards/{c}/{rule}/seed-{seed}").read_text()
                )["rounds"][-1]["accuracy"]
                for c in cells
            ]  # fmt: skip
            means[rule] = statistics.fmean(values)
        margins.append(means["residual_reweighting"] - means["foolsgold"] - 0.055)
    mean = statistics.fmean(margins)
    half = scipy.stats.t.ppf(0.975, 2) * statistics.stdev(margins) / 3**0.5
    expected = f"{100 * mean:+.2f}".replace("-", "−")
    assert f"margin {expected} points ± {100 * half:.2f} (95 % interval, 3 seeds)" in claim.numbers
    assert claim.at_hand == ("holds" if mean > half else "unclear")


def test_two_seeds_or_a_missing_cell_leave_it_undecided(tmp_path):
    two = Experiment(tmp_path / "a", scale="paper", seeds=(1, 2), noise=0.0005, n_rounds=2,
                     targets=("table1",))  # fmt: skip
    claim = findings(two, "table1")["cifar10-flip-best-average"]
    assert (claim.verdict, claim.reason) == ("undecided", "2 seeds, 3 are needed")
    assert claim.at_hand == "holds"
    three = Experiment(tmp_path / "b", scale="paper", noise=0.0005, n_rounds=2,
                       targets=("table1",))  # fmt: skip
    three.write()
    path = three.path("cifar10_flip/label_flip/attackers-2/median/seed-1")
    path.write_text("{")
    claim = findings(three, "table1")["cifar10-flip-best-average"]
    assert claim.verdict == "undecided"
    assert "1 of 90 cells missing or broken" in claim.reason


def test_claims_about_rounds_look_at_every_round(tmp_path):
    experiment = Experiment(tmp_path, scale="paper", n_rounds=10, targets=("figure4",))
    found = findings(experiment, "figure4")
    # The invented success rate climbs to 90 %, but stays at 10 % for residual reweighting.
    assert found["cifar10-naive-baselines-fall"].verdict == "reproduced"
    assert found["cifar10-naive-stable"].verdict == "reproduced"
    # All climb alike: none is slower than FedAvg, and equality refutes "slower".
    assert found["cifar10-naive-baselines-slow"].verdict == "not reproduced"


def test_hyperparameters_compare_panels_and_single_values(tmp_path):
    def accuracy(cell, share):
        sensitive = ".delta-" in cell["id"]
        smaller = ".delta-0.01/" in cell["id"]
        return 0.9 + 0.03 * smaller if sensitive else 0.9

    experiment = Experiment(tmp_path, scale="paper", noise=0.0003, n_rounds=2,
                            accuracy=accuracy, targets=("hyperparameters",))  # fmt: skip
    found = findings(experiment, "hyperparameters")
    for claim in ("lambda-insensitive", "delta-more-sensitive", "delta-smaller-for-non-iid"):
        assert found[claim].verdict == "reproduced", found[claim]


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        ("mnist-flip-best-average", True),
        # 94.15 % against FedAvg's 94.80 % without attackers.
        ("mnist-flip-best-everywhere", False),
        ("mnist-flip-foolsgold-6-percent", True),
        ("cifar10-flip-best-average", True),
        ("amazon-flip-no-degradation", True),
        # 98.97 % against FedAvg's 99.08 %.
        ("mnist-naive-highest", False),
        ("mnist-replacement-highest", True),
        ("cifar10-naive-defended", True),
        ("gaussian-best-under-noise", True),
        ("loan-defended", True),
    ],
)
def test_the_papers_own_numbers(claim, holds):
    own = {f.id: f.papers_own for f in claims.ledger({}, PAPER)}
    assert own[claim] == ("holds" if holds else "does not hold")


def test_the_margin_on_the_papers_numbers_by_hand():
    claim = next(c for c in claims.read(PAPER / "claims.yaml") if c.id == "mnist-flip-robust")
    found = claims.find(claim, [], [], paper.load(PAPER, "figure3"))
    # Lowest at 7 and 9 attackers: 93.70 %, 0.45 below 94.15 %; allowed is 1.00.
    assert "margin +0.55 points" in found.papers_numbers


def test_the_files(tmp_path):
    experiment = Experiment(tmp_path, targets=("table4",))
    experiment.write()
    out = experiment.run_dir / "collected" / "table4"
    collect.collect(experiment.plan_path, "table4", out)
    claims.evaluate([out], PAPER, tmp_path / "claims")
    with open(tmp_path / "claims.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(claims.read(PAPER / "claims.yaml"))
    text = (tmp_path / "claims.md").read_text()
    assert f"0 reproduced, 0 not reproduced, {len(rows)} undecided." in text
    assert all("\n" not in f"{r['quote']}{r['reason']}{r['numbers']}" for r in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"test": "best"}, "unknown test 'best'"), ({"levels": 0.1}, "unexpected keyword")],
)
def test_a_mistyped_claim_is_a_clear_error(tmp_path, change, message):
    entry = yaml.safe_load((PAPER / "claims.yaml").read_text())[0] | change
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([entry]))
    with pytest.raises(UserError, match=message):
        claims.read(path)
