"""Progress of a long cell in its log, with an estimate of the time left."""

import logging
import time
from datetime import timedelta

_EVERY_SECONDS = 10.0


class Progress:
    """Logs a line at most every ten seconds, and one after the last round.

    Args:
        name: the cell's id.
        n_rounds: how many rounds it will have.
        n_done: how many it has already, where it goes on from a checkpoint.
    """

    def __init__(self, name: str, n_rounds: int, n_done: int = 0):
        self._name = name
        self._n_rounds, self._n_before = n_rounds, n_done
        self._start = self._last = time.monotonic()

    def __call__(self, entry: dict) -> None:
        """Take note of a finished round, given as the record keeps it."""
        now = time.monotonic()
        done = entry["round"]
        if entry["excluded"]:
            logging.warning(
                "round %d: left out for non-finite values: clients %s", done, entry["excluded"]
            )
        if done < self._n_rounds and now - self._last < _EVERY_SECONDS:
            return
        self._last = now
        elapsed = now - self._start
        left = elapsed / (done - self._n_before) * (self._n_rounds - done)
        success = entry["attack_success_rate"]
        logging.info(
            "%s: round %d/%d, accuracy %.1f %%%s, %s elapsed, about %s left",
            self._name,
            done,
            self._n_rounds,
            100 * entry["accuracy"],
            "" if success is None else f", attack success {100 * success:.1f} %",
            timedelta(seconds=round(elapsed)),
            timedelta(seconds=round(left)),
        )
