"""The leaderboard: scores, ranks and files from a hand-made cells.csv."""

import itertools

import numpy as np
import pandas as pd
import pytest

from arfl.errors import UserError
from arfl.reporting import leaderboard

RULES = {"good": "Good", "fair": "Fair", "leaky": "Leaky", "gone": "Gone", "new": "New"}
ACCURACY = {
    ("good", "none"): 0.9, ("good", "ipm"): 0.8, ("good", "backdoor"): 0.85,
    ("fair", "none"): 0.95, ("fair", "ipm"): 0.7, ("fair", "backdoor"): 0.9,
    ("leaky", "none"): 0.99, ("leaky", "ipm"): 0.98, ("leaky", "backdoor"): 0.97,
    ("gone", "none"): 0.9, ("gone", "backdoor"): 0.9,
}  # fmt: skip
SUCCESS = {"good": 0.1, "fair": 0.2, "leaky": 0.75, "gone": 0.1}


@pytest.fixture
def cells():
    rows = []
    for rule, attack, seed in itertools.product(RULES, ("none", "ipm", "backdoor"), (1, 2)):
        accuracy = ACCURACY.get((rule, attack))
        state = "done" if accuracy else ("diverged" if rule == "gone" else "missing")
        trained = state == "done"
        success = SUCCESS[rule] if trained and attack == "backdoor" else None
        # what label flipping measures without attackers is no success of anyone
        success = 0.5 if trained and attack == "none" else success
        rows.append(
            {
                "panel": attack,
                "aggregator": rule,
                "label": RULES[rule],
                "seed": seed,
                "state": state,
                "accuracy": accuracy and accuracy + 0.01 * (seed - 1),
                "attack_success_rate": success,
                "seconds_aggregation": 0.5 if trained else None,
                "n_rounds": 100 if trained else None,
                "data_note": "made" if trained else None,
                "scale": "quick",
            }
        )
    return pd.DataFrame(rows)


def test_rules_are_ranked_by_their_worst_case(cells):
    table = leaderboard.ranks(leaderboard.scores(cells))
    assert table.index.tolist() == ["good", "fair", "leaky", "gone", "new"]
    assert table["rank"].tolist()[:4] == [1, 2, 3, 4]
    assert np.isnan(table["rank"]["new"])
    np.testing.assert_allclose(table.worst[:3], [0.805, 0.705, 0.25])
    np.testing.assert_allclose(table.worst_low[:2], [0.8, 0.7])
    np.testing.assert_allclose(table.worst_high[:2], [0.81, 0.71])
    assert table.worst_attack[:3].tolist() == ["ipm", "ipm", "backdoor"]
    assert table.worst["gone"] == float("-inf")
    assert table.n_seeds.tolist() == [2, 2, 2, 2, 0]
    assert table.seconds_per_round["good"] == pytest.approx(0.005)


def test_a_seed_with_a_missing_attack_does_not_count(cells):
    lacking = (cells.aggregator == "good") & (cells.panel == "ipm") & (cells.seed == 2)
    cells.loc[lacking, ["state", "accuracy"]] = ["missing", None]
    table = leaderboard.ranks(leaderboard.scores(cells))
    assert table.n_seeds["good"] == 1
    assert table.worst["good"] == pytest.approx(0.8)


def test_the_files_say_what_was_found(cells, tmp_path):
    cells.to_csv(tmp_path / "cells.csv", index=False)
    leaderboard.write(tmp_path / "cells.csv", tmp_path / "out")
    text = (tmp_path / "out" / "ranks.md").read_text()
    assert "| 1 | 1 | Good | 80.5 (80.0 to 81.0) | IPM | 85.5 | 5.0 | 2 |" in text
    assert "| 4 | 4 | Gone | diverged" in text
    assert "| – | – | New | – | – | – | – | 0 |" in text
    assert "8 of 30 cells are missing" not in text
    assert "6 of 30 cells are missing" in text
    assert pd.read_csv(tmp_path / "out" / "ranks.csv")["rank"].tolist()[:3] == [1, 2, 3]
    for name in ("heatmap.png", "heatmap.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 5000


def test_the_heat_map_shows_the_worst_case_first_and_then_the_worst_attacks(cells):
    scored = leaderboard.scores(cells)
    figure = leaderboard.heat_map(scored, leaderboard.ranks(scored), "made")
    axis = figure.axes[0]
    assert [t.get_text() for t in axis.get_xticklabels()] == [
        "worst\ncase", "IPM", "backdoor", "none",
    ]  # fmt: skip
    assert [t.get_text() for t in axis.get_yticklabels()] == [*RULES.values()]
    assert axis.texts[0].get_text() == "80.5"


def test_a_file_that_is_none_is_one_message(tmp_path):
    with pytest.raises(UserError, match=r"cells\.csv"):
        leaderboard.write(tmp_path / "cells.csv", tmp_path)
    (tmp_path / "cells.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="columns missing: panel"):
        leaderboard.write(tmp_path / "cells.csv", tmp_path)
