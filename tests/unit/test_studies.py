"""The studies against closed forms, limits and the rates that the theorem states."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from arfl.aggregators import residual_reweighting
from arfl.errors import UserError
from arfl.studies import confidence, displacement, theory


def test_confidence_curve_has_the_zones_of_figure_2():
    columns = confidence.curves([2.0], [0.1], [10])
    e, w = np.array(columns["normalised_residual"]), np.array(columns["confidence"])
    assert columns["rank"][0] == 5
    root = math.sqrt(1 - 25 / 385)
    edge = 2 * math.sqrt(2 / 10) * root
    assert (w[np.abs(e) <= edge] == 1).all()
    falling = (np.abs(e) > edge) & (np.abs(e) < edge / 0.1)
    np.testing.assert_allclose(w[falling], edge / np.abs(e[falling]), rtol=1e-12)
    assert (w[np.abs(e) > edge / 0.1] == 0).all()
    assert np.array_equal(w == 0, np.array(columns["corrected"]) == 1)
    np.testing.assert_array_equal(w, w[::-1])


def test_released_confidence_keeps_what_it_corrects():
    columns = confidence.curves([2.0], [0.1], [10], variant="released")
    w, corrected = np.array(columns["confidence"]), np.array(columns["corrected"])
    assert corrected.any()
    assert (w[corrected == 1] > 0).all()


def test_confidence_curves_refuse_what_the_rule_refuses():
    with pytest.raises(UserError, match="delta"):
        confidence.curves(deltas=[1.0])


def test_theory_is_deterministic_by_seed():
    arguments = {"n_clients": [10], "n_samples": [20], "n_draws": 50}
    assert theory.simulate(**arguments, seed=3) == theory.simulate(**arguments, seed=3)
    assert theory.simulate(**arguments, seed=3) != theory.simulate(**arguments, seed=4)


def test_theory_without_attackers_approaches_the_error_of_the_mean():
    columns = theory.simulate([100], [1000], [0.0], [0.01], n_draws=4000)
    # Mean absolute error of a normal mean with standard deviation 1 / sqrt(S K).
    expected = math.sqrt(2 / math.pi) / math.sqrt(1000 * 100)
    assert columns["error_mean"][0] == pytest.approx(expected, rel=0.05)
    assert expected <= columns["error"][0] <= 1.3 * expected


def test_theory_discards_attackers_that_are_far():
    columns = theory.simulate([50], [100], [0.0, 0.1, 0.4], [0.1], attack="far", n_draws=500)
    assert max(columns["error"]) < 0.1
    assert columns["error_mean"][1] > 1e4


def test_theory_error_follows_one_over_root_s_at_a_fixed_share():
    columns = theory.simulate([50], [100, 10000], [0.2], [0.1], n_draws=1000)
    assert columns["error"][0] / columns["error"][1] == pytest.approx(10, rel=0.15)


def test_theory_error_grows_with_the_share_and_stays_below_the_rate():
    columns = theory.simulate([50], [100], [0.0, 0.1, 0.2, 0.3, 0.4], [0.1], n_draws=500)
    assert columns["error"] == sorted(columns["error"])
    assert all(e < r for e, r in zip(columns["error"], columns["rate"], strict=True))


def test_theory_rule_agrees_with_the_whole_rule_where_they_are_the_same():
    # Two clients' medians and lines fit exactly; all confidences are 1 in both.
    values = np.array([[1.0, 2.0]])
    whole, _ = residual_reweighting(torch.from_numpy(values.T.copy()))
    assert theory.aggregate(values, 2.0, 0.1)[0] == pytest.approx(whole.item(), rel=1e-12)


def test_theory_refuses_values_out_of_range():
    with pytest.raises(UserError, match="corruption"):
        theory.simulate(corruption=[0.5])
    with pytest.raises(UserError, match="attack"):
        theory.simulate(attack="near")


def test_displacement_with_many_attackers_exceeds_the_one_parameter_models():
    made = displacement.displacements([(10, 2), (10, 4)], (0.01, 0.1), n_parameters=64, n_draws=2)
    assert made["n_clients"] == [10] * 4
    assert made["bound"] == pytest.approx([1 / (d * math.sqrt(10)) for d in made["delta"]])
    for most, moved, model in zip(
        made["moved_most"], made["moved"], made["one_parameter"], strict=True
    ):
        assert most > moved
        assert most > model
    assert all(0 < weight < 0.5 for weight in made["weight"])
    again = displacement.displacements([(10, 2)], (0.01,), n_parameters=64, n_draws=2)
    assert again["moved_most"][0] == made["moved_most"][0]


def test_the_committed_displacements_are_what_the_study_gives():
    path = Path(__file__).parents[2] / "records/reduced/beyond/displacement.csv"
    committed = pd.read_csv(path)
    made = pd.DataFrame(displacement.displacements([(10, 1)]))
    expected = committed[(committed.n_clients == 10) & (committed.n_attackers == 1)]
    pd.testing.assert_frame_equal(made, expected.reset_index(drop=True), rtol=1e-4)
    assert list(zip(committed.n_clients, committed.n_attackers, strict=True))[::2] == [
        *displacement.COMBINATIONS
    ]
