"""dirichlet: each class divided in proportions drawn from a Dirichlet distribution."""

import numpy as np

from arfl.dataset import PreparedDataset
from arfl.errors import UserError
from arfl.partition import number_of_clients, scheme

_ATTEMPTS = 100


@scheme
def dirichlet(
    dataset: PreparedDataset,
    n_clients: int | None,
    generator: np.random.Generator,
    *,
    concentration: float = 0.9,
) -> list[np.ndarray]:
    """Proportions from a symmetric Dirichlet distribution, class by class (Hsu et al. 2019).

    A client's samples are in the order of the dataset, where classes are mixed.
    """
    n_clients = number_of_clients("dirichlet", n_clients)
    labels = np.asarray(dataset.train_y)
    for _ in range(_ATTEMPTS):
        parts: list[list[np.ndarray]] = [[] for _ in range(n_clients)]
        for label in range(dataset.n_classes):
            members = generator.permutation(np.flatnonzero(labels == label))
            shares = generator.dirichlet(np.full(n_clients, concentration))
            borders = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            for part, piece in zip(parts, np.split(members, borders), strict=True):
                part.append(piece)
        divided = [np.sort(np.concatenate(part)) for part in parts]
        # A client without any sample cannot train; at the paper's settings no draw is rejected.
        if all(len(part) for part in divided):
            return divided
    raise UserError(
        f"{dataset.name}: Dirichlet({concentration}) leaves one of {n_clients} clients without "
        "samples in every draw; choose fewer clients or a larger concentration"
    )
