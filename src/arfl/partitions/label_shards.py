"""label_shards: samples sorted by label, cut into shards of which each client gets a few."""

import numpy as np

from arfl.dataset import PreparedDataset
from arfl.errors import UserError
from arfl.partition import number_of_clients, scheme

_SWAP_ATTEMPTS = 100_000


@scheme
def label_shards(
    dataset: PreparedDataset,
    n_clients: int | None,
    generator: np.random.Generator,
    *,
    shard_size: int = 300,
    shards_per_client: int = 2,
) -> list[np.ndarray]:
    """Shards of the label-sorted samples, dealt so that a client's shards hold distinct classes.

    The paper's MNIST setting (section 4.2; McMahan et al. 2017). A client's samples are its shards
    one after another.
    """
    # MNIST's digits are not multiples of 300, so the shards run over the label-sorted samples as a
    # whole and the few at the borders hold two digits; shards within digits would be 194, not 200.
    labels = np.asarray(dataset.train_y)
    n_clients = number_of_clients("label_shards", n_clients)
    n_shards = n_clients * shards_per_client
    if n_shards * shard_size > len(labels):
        raise UserError(
            f"{dataset.name} has {len(labels)} training samples, too few for {n_clients} clients x "
            f"{shards_per_client} shards of {shard_size}; choose fewer clients or smaller shards"
        )
    chosen = generator.permutation(len(labels))[: n_shards * shard_size]
    shards = chosen[np.argsort(labels[chosen], kind="stable")].reshape(n_shards, shard_size)
    held = np.zeros((n_shards, dataset.n_classes), dtype=np.int64)
    for shard, row in enumerate(labels[shards]):
        held[shard, row] = 1
    # A class lies in shards that follow one another, so dealing them in turn would set it apart
    # whenever no class has more shards than there are clients: that is all that must be asked.
    most = held.sum(axis=0).argmax()
    if held[:, most].sum() > n_clients:
        raise UserError(
            f"{dataset.name}: class {dataset.class_names[most]!r} fills {held[:, most].sum()} "
            f"shards, more than the {n_clients} clients that may hold one each; choose larger "
            "shards or more clients"
        )
    hands = _deal_distinct(held, n_clients, generator)
    if hands is None:
        raise UserError(
            f"{dataset.name}: found no way to give {n_clients} clients {shards_per_client} shards "
            f"of distinct classes each in {_SWAP_ATTEMPTS:,} swaps; choose another seed or fewer "
            "shards per client"
        )
    return [shards[hand].ravel() for hand in hands]


def _deal_distinct(
    held: np.ndarray, n_clients: int, generator: np.random.Generator
) -> np.ndarray | None:
    """Deal shards so that no client holds a class in two of its shards.

    Deals at random and then swaps shards of a client in conflict with shards of random others
    wherever that does not make matters worse.

    Args:
        held: 1 where a shard holds a class, (n_shards, n_classes).
        n_clients: how many hands to deal.

    Returns:
        Shard numbers (n_clients, shards per client), or None if no deal was found.
    """
    hands = generator.permutation(len(held)).reshape(n_clients, -1)

    def conflicts(hand: np.ndarray) -> int:
        return int(np.maximum(held[hand].sum(axis=0) - 1, 0).sum())

    count = np.array([conflicts(hand) for hand in hands])
    for _ in range(_SWAP_ATTEMPTS):
        if not count.any():
            return hands
        first = generator.choice(np.flatnonzero(count))
        second = generator.integers(n_clients)
        if first == second:
            continue
        slots = generator.integers(hands.shape[1], size=2)
        pair = hands[[first, second]]
        pair[0, slots[0]], pair[1, slots[1]] = pair[1, slots[1]], pair[0, slots[0]]
        swapped = np.array([conflicts(hand) for hand in pair])
        if swapped.sum() <= count[[first, second]].sum():
            hands[[first, second]], count[[first, second]] = pair, swapped
    return None
