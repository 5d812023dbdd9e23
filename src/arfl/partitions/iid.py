"""iid: a random permutation cut into equal parts."""

import numpy as np

from arfl.dataset import PreparedDataset
from arfl.errors import UserError
from arfl.partition import number_of_clients, scheme


@scheme
def iid(
    dataset: PreparedDataset, n_clients: int | None, generator: np.random.Generator
) -> list[np.ndarray]:
    """Equal parts of a random permutation; what does not divide evenly is left over."""
    n_clients = number_of_clients("iid", n_clients)
    size = len(dataset.train_y) // n_clients
    if size == 0:
        raise UserError(
            f"{dataset.name} has {len(dataset.train_y)} training samples, "
            f"too few for {n_clients} clients; choose fewer clients"
        )
    order = generator.permutation(len(dataset.train_y))
    return list(order[: size * n_clients].reshape(n_clients, size))
