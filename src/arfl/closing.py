"""What a run ends with on the screen: three lines of what was found, from its results alone.

Standard library only: Snakemake's own process calls it, where the environments of jobs may be
other ones.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

_RULES = ("fedavg", "residual_reweighting")
_SHOWN = (
    ("table3", "attack_success_rate", "attack success"),
    ("figure3", "accuracy", "accuracy"),
)


def lines(run_folder: Path) -> list[str]:
    """Verdicts, and FedAvg beside the paper's rule in the first panels of two targets.

    Args:
        run_folder: ``results/<run>``; what it lacks is left out.
    """
    return [*_verdicts(run_folder / "claims.json"), *_numbers(run_folder / "collected")]


def _verdicts(ledger: Path) -> list[str]:
    try:
        content = json.loads(ledger.read_bytes())
        counts = Counter(claim["verdict"] for claim in content["claims"])
        trained = f"{content['cells_done']} of {content['cells']} cells"
    except (OSError, ValueError, LookupError, TypeError):
        return []
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    return [f"{trained}; of the paper's {sum(counts.values())} statements {verdicts}"]


def _numbers(collected: Path) -> list[str]:
    found = []
    for target, metric, words in _SHOWN:
        try:
            with open(collected / target / "cells.csv", newline="", encoding="utf-8") as stream:
                rows = [row for row in csv.DictReader(stream) if row["state"] == "done"]
            # The first panel, where most attack.
            rows = [row for row in rows if row["panel"] == rows[0]["panel"]]
            most = max((int(row["n_attackers"]) for row in rows), default=0)
            rows = [row for row in rows if int(row["n_attackers"]) == most]
            shares = [(_label(rows, rule), _mean(rows, rule, metric)) for rule in _RULES]
            scenario = f"{rows[0]['attack']}, {most} of {rows[0]['n_clients']} attack"
            kind = "" if rows[0]["data_kind"] == "complete" else f"; data: {rows[0]['data_kind']}"
        except (OSError, LookupError, ValueError):
            continue
        numbers = ", ".join(f"{label} {100 * share:.0f} %" for label, share in shares)
        found.append(f"{target} ({scenario}{kind}): {words} {numbers}")
    return found


def _label(rows: Iterable[dict], rule: str) -> str:
    return next((row["label"] for row in rows if row["aggregator"] == rule), rule)


def _mean(rows: Iterable[dict], rule: str, metric: str) -> float:
    """Over seeds; a ValueError where there is none."""
    return mean(float(row[metric]) for row in rows if row["aggregator"] == rule)
