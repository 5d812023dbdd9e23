"""The lines that a long cell writes to its log."""

import logging

import pytest

from arfl import progress
from arfl.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def entry(number, excluded=(), success=None):
    return {
        "round": number,
        "accuracy": 0.5 + number / 1000,
        "attack_success_rate": success,
        "excluded": list(excluded),
    }


def test_a_line_every_ten_seconds_and_at_the_end(clock, caplog):
    caplog.set_level(logging.INFO)
    report = Progress("a/cell", 40)
    for number in range(1, 41):
        clock[0] += 4
        report(entry(number))
    reported = [record.args[1] for record in caplog.records]
    # rounds of four seconds: after twelve, again and again, and after the last
    assert reported == [*range(3, 40, 3), 40]


def test_the_estimate_is_the_mean_of_the_rounds_so_far(clock, caplog):
    caplog.set_level(logging.INFO)
    report = Progress("a/cell", 100)
    clock[0] += 3600
    report(entry(25, success=0.125))
    assert caplog.messages == [
        "a/cell: round 25/100, accuracy 52.5 %, attack success 12.5 %, 1:00:00 elapsed, "
        "about 3:00:00 left"
    ]


def test_models_left_out_are_named_at_once(clock, caplog):
    report = Progress("a/cell", 100)
    report(entry(1, excluded=[4, 7]))
    (message,) = caplog.messages
    assert message == "round 1: left out for non-finite values: clients [4, 7]"
