"""The last lines of a run."""

import csv
import json

from arfl import closing

FIELDS = ("panel", "state", "attack", "n_attackers", "n_clients", "aggregator", "label")
METRICS = ("data_kind", "accuracy", "attack_success_rate")


def cells(folder, target, *rows):
    path = folder / "collected" / target / "cells.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([FIELDS + METRICS, *rows])


def row(aggregator, n_attackers, accuracy, success="", panel="a", state="done", kind="stand-in"):
    label = {"fedavg": "FedAvg", "residual_reweighting": "Ours"}[aggregator]
    cell = (panel, state, "label_flip", n_attackers, 10, aggregator, label)
    return (*cell, kind, accuracy, success)


def test_verdicts_and_the_means_over_seeds_of_the_first_panel(tmp_path):
    ledger = {"cells": 9, "cells_done": 8, "claims": []}
    ledger["claims"] = [{"verdict": v} for v in ("undecided", "reproduced", "undecided")]
    (tmp_path / "claims.json").write_text(json.dumps(ledger))
    cells(
        tmp_path,
        "table3",
        row("fedavg", 1, 0.9, 0.98),
        row("fedavg", 1, 0.9, 0.90),
        row("residual_reweighting", 1, 0.9, 0.10),
        row("residual_reweighting", 1, 0.9, 0.77, panel="b"),
    )
    cells(
        tmp_path,
        "figure3",
        row("fedavg", 0, 0.99, kind="complete"),
        row("fedavg", 2, 0.5, kind="complete"),
        row("residual_reweighting", 2, 0.75, kind="complete"),
        row("residual_reweighting", 3, "", state="missing"),
    )
    assert closing.lines(tmp_path) == [
        "8 of 9 cells; of the paper's 3 statements 1 reproduced, 2 undecided",
        "table3 (label_flip, 1 of 10 attack; data: stand-in): attack success "
        "FedAvg 94 %, Ours 10 %",
        "figure3 (label_flip, 2 of 10 attack): accuracy FedAvg 50 %, Ours 75 %",
    ]


def test_what_is_not_there_is_left_out(tmp_path):
    assert closing.lines(tmp_path) == []
    (tmp_path / "claims.json").write_text("{")
    cells(tmp_path, "table3", row("fedavg", 1, 0.9, 0.98))  # nothing to set beside it
    cells(tmp_path, "figure3")
    assert closing.lines(tmp_path) == []
