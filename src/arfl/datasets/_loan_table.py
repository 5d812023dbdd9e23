"""What the real and the generated loan table share: columns, classes, split, scales, trigger."""

import csv
import json
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np

from arfl.dataset import Preparation, preparation_stream, stratified_split

STATUSES = (
    "Charged Off",
    "Current",
    "Default",
    "Does not meet the credit policy. Status:Charged Off",
    "Does not meet the credit policy. Status:Fully Paid",
    "Fully Paid",
    "In Grace Period",
    "Late (16-30 days)",
    "Late (31-120 days)",
)
"""The paper's nine classes, in alphabetical order."""

TRIGGER_COLUMNS = (
    "num_tl_120dpd_2m",
    "num_tl_90g_dpd_24m",
    "pub_rec_bankruptcies",
    "pub_rec",
    "acc_now_delinq",
    "tax_liens",
)

_SCALES = ((1_000, 10_000), (100, 100), (10, 10))


def column_roles() -> dict[str, str]:
    """Role of each of the 145 raw columns, in the order of the file.

    The roles: ``number`` and ``category`` (the 91 inputs), ``label``, ``participant``, ``dropped``.
    """
    table = resources.files("arfl.datasets").joinpath("loan_columns.csv")
    with table.open(encoding="utf-8", newline="") as stream:
        return {row["column"]: row["role"] for row in csv.DictReader(stream)}


def input_columns() -> list[str]:
    """The 91 columns the network takes, in the order of the file."""
    return [column for column, role in column_roles().items() if role in ("number", "category")]


def finish(
    raw: np.ndarray,
    labels: np.ndarray,
    states: np.ndarray,
    state_names: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    seed: int,
    dropped: Mapping[str, int],
    trigger_margin: float = 1.0,
    **described: object,
) -> Preparation:
    """Split, scale and describe a table of loans.

    Args:
        raw: the inputs in raw units, missing values as 0 and categories as codes, float32 (n, 91);
            scaled in place.
        labels: indices into `STATUSES`, (n,).
        states: indices into ``state_names``, (n,).
        state_names: the states that occur.
        categories: per categorical column the names of the codes 1, 2, ...
        seed: decides the split.
        dropped: how many rows were left out, by reason.
        trigger_margin: see `arfl.datasets.loan.prepare`.
        described: ``kind``, ``note`` and ``sources`` of the `Preparation`.
    """
    columns = input_columns()
    roles = column_roles()
    # Every state keeps at least one loan to train on, so that it can be a participant.
    train, test = stratified_split(states, preparation_stream(seed))
    mean = np.array(
        [float(raw[train, index].mean(dtype=np.float64)) for index in range(len(columns))]
    )
    highest = raw.max(axis=0)
    divisors = np.array(
        [
            1 if roles[column] == "category" else _divisor(value)
            for column, value in zip(columns, mean, strict=True)
        ],
        dtype=np.float32,
    )
    raw /= divisors
    trigger = [columns.index(column) for column in TRIGGER_COLUMNS]
    schema = {
        "inputs": [
            {
                "column": column,
                "role": roles[column],
                "mean": round(float(mean[index]), 6),
                "maximum": float(highest[index]),
                "divided_by": int(divisors[index]),
                **({"codes": ["(missing)", *categories[column]]} if column in categories else {}),
            }
            for index, column in enumerate(columns)
        ],
        "label": "loan_status",
        "classes": list(STATUSES),
        "participant": "addr_state",
        "dropped_columns": [column for column, role in roles.items() if role == "dropped"],
        "dropped_rows": dict(dropped),
        "missing_value": 0,
        "trigger": {
            column: float(highest[columns.index(column)]) + trigger_margin
            for column in TRIGGER_COLUMNS
        },
    }
    return Preparation(
        train_x=raw[train],
        train_y=labels[train],
        test_x=raw[test],
        test_y=labels[test],
        train_group=states[train],
        class_names=STATUSES,
        group_names=state_names,
        trigger={
            "columns": trigger,
            "values": [
                float((highest[index] + trigger_margin) / divisors[index]) for index in trigger
            ],
        },
        details={"split_seed": seed, "dropped_rows": dict(dropped)},
        texts={"schema.json": json.dumps(schema, indent=1) + "\n"},
        **described,
    )


def _divisor(mean: float) -> int:
    """10, 100 or 10,000 for means above 10, 100 and 1,000."""
    return next((divisor for bound, divisor in _SCALES if mean > bound), 1)
