"""What a partition is: which training samples each client holds; its file, and its schemes.

A scheme is a file of `arfl.partitions` that decorates a function by `scheme`:
``(dataset, n_clients, generator, *, options)`` to one int64 index array per client. In config.yaml
it is a mapping with its ``name`` and its options, for example
``{name: label_shards, shard_size: 300, shards_per_client: 2}``.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from arfl import registry, seeds
from arfl.dataset import PreparedDataset
from arfl.errors import UserError
from arfl.files import atomic_path

_BROKEN_FILE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError),
    *(zipfile.BadZipFile, zlib.error),
)


def scheme(divide: Callable) -> Callable:
    """Decorate a scheme's function: it is registered under its file's name.

    Args:
        divide: ``(dataset, n_clients, generator, *, options)``, where ``n_clients`` is None if the
            configuration leaves it to the scheme. It returns, per client, the int64 indices of its
            training samples in the order in which they are dealt (``train_share`` keeps the first
            of them); no sample may occur twice.
    """
    return registry.register(divide)


@dataclass(frozen=True)
class Partition:
    """The samples of each client.

    Attributes:
        indices: per client, the int64 indices of its training samples in the order dealt; no
            sample occurs twice.
        class_counts: how many samples of each class each client holds, int64
            (n_clients, n_classes).
        description: dataset, its checksum, the scheme with all its options, n_clients and seed; for
            groups also their names, ``client_names``.
    """

    indices: list[np.ndarray]
    class_counts: np.ndarray
    description: dict

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the description, the clients' sample counts and their indices."""
        digest = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode())
        digest.update(np.array([len(part) for part in self.indices], dtype="<i8").tobytes())
        for part in self.indices:
            digest.update(part.astype("<i8").tobytes())
        digest.update(self.class_counts.astype("<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike) -> None:
        """Write the partition to one ``.npz`` file, atomically."""
        sizes = [len(part) for part in self.indices]
        # The stream is opened here because np.savez would add a suffix to a bare name.
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(
                stream,
                indices=np.concatenate(self.indices),
                offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
                class_counts=self.class_counts,
                scheme=np.array(json.dumps(self.description)),
                digest=np.array(self.digest),
            )


def load(path: str | os.PathLike, dataset: PreparedDataset | None = None) -> Partition:
    """Read a partition file.

    Args:
        path: a file that `Partition.save` wrote.
        dataset: if given, the data that the partition must have been made from.

    Raises:
        UserError: if the file is missing, broken or changed, or was made from other data.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            indices, offsets = stored["indices"], stored["offsets"]
            description = json.loads(str(stored["scheme"]))
            partition = Partition(
                np.split(indices, offsets[1:-1]), stored["class_counts"], description
            )
            digest = str(stored["digest"])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the partition step first") from None
    except _BROKEN_FILE as error:
        raise UserError(f"{path} is not a partition ({error}); delete it and run again") from None
    if partition.digest != digest:
        raise UserError(f"{path} does not match its own digest; delete it and run again")
    if dataset is not None and description["dataset_checksum"] != dataset.checksum:
        raise UserError(
            f"{path} was made from other data than {dataset.folder}; delete it and run again"
        )
    return partition


def check_made_for(
    partition: Partition, path: str | os.PathLike, scheme: Mapping, n_clients: int | None, seed: int
) -> None:
    """Refuse a partition of another scheme, number of clients or seed than a cell asks for.

    Raises:
        UserError: naming the file and the first thing that differs.
    """
    defaults = registry.options(registry.get("partitions", scheme["name"]))
    asked = defaults | {**scheme, "seed": seed}
    if n_clients is not None:
        asked["n_clients"] = n_clients
    for key, value in asked.items():
        if partition.description.get(key) != value:
            raise UserError(
                f"{path} is a partition with {key} {partition.description.get(key)!r}, but the "
                f"cell asks for {value!r}; delete it and run again"
            )


def make(
    dataset: PreparedDataset, scheme: Mapping[str, object], n_clients: int | None, seed: int
) -> Partition:
    """Divide the training samples of ``dataset`` among clients.

    Args:
        dataset: prepared data.
        scheme: ``name``, a file of `arfl.partitions`, and its options.
        n_clients: how many clients; None leaves it to the scheme (``groups``).
        seed: the cell's seed; equal arguments give equal partitions.

    Raises:
        UserError: for an unknown scheme or option and for data that cannot be divided so.
    """
    given = dict(scheme)
    name = given.pop("name", None)
    if name not in registry.names("partitions"):
        raise registry.unknown("partition scheme", name, registry.names("partitions"))
    registry.check_options("partitions", name, given)
    divide = registry.get("partitions", name)
    defaults = registry.options(divide)
    for option, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UserError(f"partition {name}: {option} must be above 0, not {value!r}")
        if isinstance(defaults[option], int) and not isinstance(value, int):
            raise UserError(f"partition {name}: {option} must be a whole number, not {value!r}")
    if n_clients is not None and n_clients < 1:
        raise UserError(f"a partition needs at least one participant, not {n_clients}")
    options = defaults | given
    parts = divide(dataset, n_clients, seeds.generator(seed, "partition"), **options)
    labels = np.asarray(dataset.train_y)
    indices = _checked(name, parts, len(labels))
    class_counts = np.stack([np.bincount(labels[i], minlength=dataset.n_classes) for i in indices])
    description = {
        "name": name,
        **options,
        "n_clients": len(indices),
        "seed": seed,
        "dataset": dataset.name,
        "dataset_checksum": dataset.checksum,
    }
    if n_clients is None:
        description["client_names"] = dataset.group_names
    return Partition(indices, class_counts.astype(np.int64), description)


def _checked(name: str, parts: object, n_samples: int) -> list[np.ndarray]:
    """What a scheme returned, as int64; anything but indices of samples is refused."""
    if not isinstance(parts, list | tuple | np.ndarray) or not len(parts):
        raise UserError(
            f"partition {name} must return one index array per client, not {type(parts).__name__}; "
            "correct the scheme"
        )
    indices = []
    for client, part in enumerate(parts):
        part = np.asarray(part)
        # an empty list has no integer type of its own
        if part.ndim != 1 or (part.size and part.dtype.kind not in "iu"):
            raise UserError(
                f"partition {name} must return whole numbers of shape (n,) for client {client}, "
                f"not {part.dtype} of shape {part.shape}; correct the scheme"
            )
        indices.append(part.astype(np.int64))
    dealt = np.concatenate(indices)
    outside = dealt[(dealt < 0) | (dealt >= n_samples)]
    if outside.size:
        raise UserError(
            f"partition {name} deals sample {outside[0]}, but the samples are 0 to "
            f"{n_samples - 1}; correct the scheme"
        )
    if len(np.unique(dealt)) < len(dealt):
        raise UserError(f"partition {name} deals a sample twice; correct the scheme")
    return indices


def number_of_clients(name: str, n_clients: int | None) -> int:
    """``n_clients``, for a scheme that cannot do without.

    Raises:
        UserError: naming the scheme, if it is None.
    """
    if n_clients is None:
        raise UserError(f"partition {name} needs the number of participants (n_clients)")
    return n_clients
