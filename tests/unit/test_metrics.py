"""Rates counted by hand."""

import pytest
import torch

from arfl.metrics import Tally, predictions

CPU = torch.device("cpu")


def test_the_largest_logit_is_predicted():
    logits = torch.tensor([[0.1, 0.3, 0.2], [-5.0, -7.0, -6.0], [0.0, 0.0, 9.0]])
    assert predictions(logits, binary=False).tolist() == [1, 0, 2]


def test_a_positive_logit_is_class_one_of_a_binary_model():
    logits = torch.tensor([[-0.5], [0.5], [0.0], [30.0]])
    assert predictions(logits, binary=True).tolist() == [0, 1, 0, 1]


def test_hits_are_counted_over_batches_among_what_counts():
    tally = Tally.empty(CPU)
    assert tally.rate() is None
    tally.add(torch.tensor([True, False, True]))
    assert tally.rate() == pytest.approx(2 / 3)
    tally.add(torch.tensor([True, True, False]), torch.tensor([False, True, True]))
    assert tally.rate() == pytest.approx(3 / 5)
    tally.add(torch.tensor([True]), torch.tensor([False]))
    assert tally.rate() == pytest.approx(3 / 5)


def test_nothing_counted_has_no_rate():
    tally = Tally.empty(CPU)
    tally.add(torch.tensor([True, True]), torch.tensor([False, False]))
    assert tally.rate() is None


def test_tallies_do_not_share_their_counts():
    one, other = Tally.empty(CPU), Tally.empty(CPU)
    one.add(torch.tensor([True]))
    assert other.rate() is None
