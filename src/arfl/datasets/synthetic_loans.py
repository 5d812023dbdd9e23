"""synthetic_loans: a generated table of loans, the stand-in for Lending Club's at scale quick.

The distribution. 3,000 loans of 20 states; a state's share of the loans is proportional to 1 to
4, evenly spaced. The class of a loan is drawn from its state's mix, and each state's mix from a
Dirichlet distribution with 40 times the overall mix (50 % fully paid, 20 % current, 12 % charged
off, 3 % each of the other six) as parameters. A loan has a point in six dimensions: 1.1 times its
class's centre, which is standard normal, plus standard normal noise. The 91 columns carry the
real table's names: a category has four codes and takes the one of the fourth of the normal
distribution in which one coordinate plus noise lies; a trigger column is a Poisson count of mean
0.05, as rare as in the real table; any other number is a typical size, log-uniform between 1 and
30,000, times exp(0.5 x (the point along a random unit direction) + 0.1 x noise). Then the columns
are scaled like the real ones.
"""

from pathlib import Path

import numpy as np
from scipy.special import ndtr

from arfl.dataset import Preparation, dataset, preparation_stream
from arfl.datasets._loan_table import (
    STATUSES,
    TRIGGER_COLUMNS,
    column_roles,
    finish,
    input_columns,
)

_LOANS = 3_000
_STATES = (
    *("AL", "AZ", "CA", "CO", "CT", "FL", "GA", "IL", "IN", "MA"),
    *("MD", "MI", "MN", "MO", "NC", "NJ", "NY", "OH", "PA", "TX"),
)
_SHARES = {"Fully Paid": 0.50, "Current": 0.20, "Charged Off": 0.12}
_DIMENSIONS = 6
_SEPARATION = 1.1
_CODES = ("a", "b", "c", "d")


@dataset(embedded=True)
def prepare(raw_dir: Path, *, seed: int = 0) -> Preparation:
    """Generate the loans, split them 80/20 within each state, and scale them.

    Args:
        raw_dir: not used; nothing has to be fetched.
        seed: decides everything.
    """
    generator = preparation_stream(seed)
    size = np.linspace(1, 4, len(_STATES))
    # Every state occurs, since a state without loans could not be a participant.
    states = np.concatenate(
        [
            np.arange(len(_STATES)),
            generator.choice(len(_STATES), size=_LOANS - len(_STATES), p=size / size.sum()),
        ]
    ).astype(np.uint8)
    rare = (1 - sum(_SHARES.values())) / (len(STATUSES) - len(_SHARES))
    shares = np.array([_SHARES.get(status, rare) for status in STATUSES])
    mixes = generator.dirichlet(40 * shares, size=len(_STATES))
    drawn = generator.random((_LOANS, 1)) > np.cumsum(mixes, axis=1)[states, :-1]
    labels = drawn.sum(axis=1).astype(np.uint8)
    centres = generator.standard_normal((len(STATUSES), _DIMENSIONS))
    points = _SEPARATION * centres[labels] + generator.standard_normal((_LOANS, _DIMENSIONS))
    columns, roles = input_columns(), column_roles()
    raw = np.empty((_LOANS, len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        if column in TRIGGER_COLUMNS:
            raw[:, index] = generator.poisson(0.05, size=_LOANS)
            continue
        direction = generator.standard_normal(_DIMENSIONS)
        noise = generator.standard_normal(_LOANS)
        if roles[column] == "category":
            share = ndtr(0.7 * points[:, generator.integers(_DIMENSIONS)] + 0.7 * noise)
            raw[:, index] = 1 + np.minimum((share * len(_CODES)).astype(int), len(_CODES) - 1)
        else:
            along = points @ (direction / np.linalg.norm(direction))
            size = np.exp(generator.uniform(0, np.log(30_000)))
            raw[:, index] = size * np.exp(0.5 * along + 0.1 * noise)
    return finish(
        raw=raw,
        labels=labels,
        states=states,
        state_names=_STATES,
        categories={column: _CODES for column in columns if roles[column] == "category"},
        seed=seed,
        dropped={},
        kind="synthetic",
        note="3,000 generated loans of 20 states, a stand-in",
        sources=[{"file": "none", "origin": "generated"}],
    )
