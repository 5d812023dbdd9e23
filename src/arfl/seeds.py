"""Random streams by role, so that what one part draws never shifts what another draws.

All aggregators of one (scenario, seed) share partition, attackers, initial model, batch order and
noise because each comes from a stream named by (seed, role, indices) and by nothing else.
"""

import zlib

import numpy as np

ROLES = (
    "partition",
    "attackers",
    "initial_model",
    "client_sampling",
    "batch_order",
    "augmentation",
    "dropout",
    "noise",
)


def _sequence(seed: int, role: str, indices: tuple[int, ...]) -> np.random.SeedSequence:
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}; known roles: {', '.join(ROLES)}")
    # The role enters by the checksum of its name: adding a role to ROLES moves no other stream.
    return np.random.SeedSequence((seed, zlib.crc32(role.encode()), *indices))


def generator(seed: int, role: str, *indices: int) -> np.random.Generator:
    """NumPy generator of the stream (seed, role, indices).

    Args:
        seed: the cell's seed, a non-negative integer.
        role: one of `ROLES`.
        indices: further coordinates of the stream, for example the round and the client.

    Raises:
        ValueError: if the role is not one of `ROLES`.

    Examples:
        >>> first = generator(1, "batch_order", 3, 7).integers(1000, size=3)
        >>> again = generator(1, "batch_order", 3, 7).integers(1000, size=3)
        >>> (first == again).all()
        np.True_
    """
    return np.random.default_rng(_sequence(seed, role, indices))


def integer(seed: int, role: str, *indices: int) -> int:
    """A 63-bit seed for a generator of another library, from the same stream."""
    return int(_sequence(seed, role, indices).generate_state(1, np.uint64)[0] >> np.uint64(1))
