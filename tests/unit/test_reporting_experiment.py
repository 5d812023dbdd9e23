"""What the ledger holds for the paper's experiment is what config.yaml trains at scale paper.

After a change of config.yaml that is meant, ``python tests/unit/test_reporting_experiment.py``
writes the file anew; its difference in git is what the change does to the verdicts.
"""

import csv
import json
from pathlib import Path

import yaml

from arfl.grid import Grid
from arfl.reporting import evidence

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "workflow" / "resources" / "paper"
TARGETS = [
    "figure3", "table1", "table2", "table3", "table4", "loan", "figure4", "hyperparameters",
]  # fmt: skip
RULES = ["fedavg", "median", "trimmed_mean", "repeated_median", "foolsgold", "residual_reweighting"]


def described():
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    with open(PAPER.parent / "assumptions.csv") as file:
        assumptions = list(csv.DictReader(file))
    plans = {
        protocol: Grid(config | {"scale": "paper", "protocol": protocol}).plan()
        | {"assumptions": assumptions}
        for protocol in ("paper", "released")
    }
    return evidence.describe(plans, TARGETS, RULES)


def test_the_papers_experiment_is_that_of_the_configuration():
    assert json.loads((PAPER / "experiment.json").read_text()) == described()


def test_its_sweeps_and_settings_are_those_of_the_text():
    experiment = evidence.load(PAPER)
    figure3 = experiment.of("paper", "figure3")
    assert set(figure3.aggregator) == set(experiment.rules) == set(RULES)
    assert sorted(set(figure3.x)) == list(range(11))
    settings = experiment.settings[figure3.task_settings.iloc[0]]
    # Section 4.2 and A.2: 100 participants, 200 rounds, 5 epochs, batch size 128, rate 0.01.
    keys = ("n_clients", "rounds", "epochs", "batch_size", "lr")
    assert [settings[key] for key in keys] == [100, 200, 5, 128, 0.01]
    table1 = experiment.of("paper", "table1")
    # A.2, A.4: 10 participants, 100 rounds, batch size 64.
    settings = experiment.settings[table1.task_settings.iloc[0]]
    assert [settings[key] for key in keys] == [10, 100, 5, 64, 0.01]
    assert sorted(set(experiment.of("paper", "table4").x)) == [0, 1, 2, 3]
    released = experiment.of("released", "figure3")
    assert not set(released.task_settings) & set(figure3.task_settings)


if __name__ == "__main__":
    text = json.dumps(described(), indent=0, sort_keys=True)
    (PAPER / "experiment.json").write_text(text + "\n")
