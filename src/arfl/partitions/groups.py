"""groups: one client per group that the data itself knows, such as US states."""

import numpy as np

from arfl.dataset import PreparedDataset
from arfl.errors import UserError
from arfl.partition import scheme


@scheme
def groups(
    dataset: PreparedDataset, n_clients: int | None, generator: np.random.Generator
) -> list[np.ndarray]:
    """One client per group, in the order of the dataset (the paper's states, section 4.3)."""
    if dataset.train_group is None:
        raise UserError(f"{dataset.name} knows no groups; choose another partition scheme")
    names = dataset.group_names
    if n_clients not in (None, len(names)):
        raise UserError(
            f"{dataset.name} has {len(names)} groups and the scheme 'groups' makes one client of "
            f"each, not {n_clients}; leave n_clients out or set it to {len(names)}"
        )
    group = np.asarray(dataset.train_group)
    parts = [np.flatnonzero(group == number) for number in range(len(names))]
    empty = [name for name, part in zip(names, parts, strict=True) if len(part) == 0]
    if empty:
        raise UserError(
            f"{dataset.name}: no training samples in group {', '.join(empty)}; prepare the dataset "
            "again from data that has some"
        )
    return parts
