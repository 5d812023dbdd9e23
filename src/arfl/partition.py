"""Which training samples each participant holds: schemes, files and pictures.

A scheme is a mapping with a ``name`` and its options:

- ``{"name": "label_shards", "shard_size": 300, "shards_per_client": 2}``: the samples sorted by
  label are cut into shards, and each participant gets shards of distinct labels (McMahan et al.
  2017; the paper's MNIST setting).
- ``{"name": "dirichlet", "concentration": 0.9}``: each class is divided among the participants in
  proportions drawn from a symmetric Dirichlet distribution (Hsu et al. 2019).
- ``{"name": "iid"}``: a random permutation cut into equal parts.
- ``{"name": "groups"}``: one participant per group that the data itself knows, such as US states.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arfl import seeds
from arfl.datasets import PreparedDataset
from arfl.errors import UserError
from arfl.files import atomic_path

_SWAP_ATTEMPTS = 100_000
_DIRICHLET_ATTEMPTS = 100
_BROKEN_FILE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Partition:
    """The samples of each participant.

    Attributes:
        indices: per participant, the sorted int64 indices of its training samples; no sample
            occurs twice.
        class_counts: how many samples of each class each participant holds, int64
            (n_clients, n_classes).
        description: dataset, its checksum, the scheme with all its options, n_clients and seed; for
            groups also their names, ``client_names``.
    """

    indices: list[np.ndarray]
    class_counts: np.ndarray
    description: dict

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
            )


def load(path: str | os.PathLike, dataset: PreparedDataset | None = None) -> Partition:
    """Read a partition file.

    Args:
        path: a file that `Partition.save` wrote.
        dataset: if given, the data that the partition must have been made from.

    Raises:
        UserError: if the file is missing or broken, or was made from other data.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            indices, offsets = stored["indices"], stored["offsets"]
            class_counts = stored["class_counts"]
            description = json.loads(str(stored["scheme"]))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the partition step first") from None
    except _BROKEN_FILE as error:
        raise UserError(f"{path} is not a partition ({error}); delete it and run again") from None
    if dataset is not None and description["dataset_checksum"] != dataset.checksum:
        raise UserError(
            f"{path} was made from other data than {dataset.folder}; delete it and run again"
        )
    return Partition(np.split(indices, offsets[1:-1]), class_counts, description)


def plot(partition: Partition, class_names: Sequence[str], path: str | os.PathLike) -> None:
    """Draw how many samples of each class each participant holds.

    Args:
        partition: the partition.
        class_names: the name of each class, in the order of the labels.
        path: the file to write, its format by its suffix (``.png`` or ``.pdf``).
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import LogNorm, Normalize

    counts = np.ma.masked_equal(partition.class_counts.T, 0)
    n_classes, n_clients = counts.shape
    # Participants that differ by orders of magnitude, as states do, need logarithmic colours.
    totals = counts.sum(axis=0)
    logarithmic = totals.max() > 20 * totals.min()
    norm = LogNorm(1, counts.max()) if logarithmic else Normalize(0, counts.max())
    name_width = 0.075 * max(len(name) for name in class_names)
    size = (min(10, 2.2 + 0.3 * n_clients) + name_width, 1.3 + 0.26 * n_classes)
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    try:
        # Viridis (reversed: more is darker) is told apart by colour-blind readers and in grey.
        mesh = axes.pcolormesh(
            counts, cmap="viridis_r", norm=norm, edgecolors="white", linewidth=0.4, rasterized=True
        )
        axes.invert_yaxis()
        axes.set_yticks(np.arange(n_classes) + 0.5, class_names)
        names = partition.description.get("client_names")
        step = 1 if n_clients <= 60 else 10
        shown = np.arange(0, n_clients, step)
        axes.set_xticks(
            shown + 0.5,
            [names[client] if names else str(client) for client in shown],
            rotation=90 if n_clients > 20 else 0,
            fontsize="small",
        )
        axes.tick_params(length=0)
        axes.spines[:].set_color("0.7")
        axes.set_xlabel("participant")
        axes.set_ylabel("class")
        scheme = {
            key: value
            for key, value in partition.description.items()
            if key not in ("name", "n_clients", "dataset", "dataset_checksum", "client_names")
        }
        details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in scheme.items())
        axes.set_title(
            f"{partition.description['dataset']}: {partition.description['name']} ({details})",
            fontsize="medium",
            loc="left",
        )
        figure.colorbar(mesh, ax=axes, label="samples", pad=0.01, aspect=12)
        # Without the date, equal pictures are equal files.
        undated = {"CreationDate": None} if Path(path).suffix == ".pdf" else {}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200, metadata=undated)
    finally:
        pyplot.close(figure)


def make(
    dataset: PreparedDataset, scheme: Mapping[str, object], n_clients: int | None, seed: int
) -> Partition:
    """Divide the training samples of ``dataset`` among participants.

    Args:
        dataset: prepared data.
        scheme: name and options, see the module.
        n_clients: how many participants; None, only with ``groups``, is as many as there are.
        seed: the cell's seed; equal arguments give equal partitions.

    Raises:
        UserError: for an unknown scheme or option and for data that cannot be divided so.
    """
    options = dict(scheme)
    name = options.pop("name", None)
    if name not in _SCHEMES:
        raise UserError(f"unknown partition scheme {name!r}; known: {', '.join(sorted(_SCHEMES))}")
    divide, defaults = _SCHEMES[name]
    for option, value in options.items():
        if option not in defaults:
            known = ", ".join(defaults) or "none"
            raise UserError(f"partition {name} has no option {option!r}; its options: {known}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UserError(f"partition {name}: {option} must be above 0, not {value!r}")
        if isinstance(defaults[option], int) and not isinstance(value, int):
            raise UserError(f"partition {name}: {option} must be a whole number, not {value!r}")
    if n_clients is None and name != "groups":
        raise UserError(f"partition {name} needs the number of participants (n_clients)")
    if n_clients is not None and n_clients < 1:
        raise UserError(f"a partition needs at least one participant, not {n_clients}")
    options = defaults | options
    parts = divide(dataset, n_clients, seeds.generator(seed, "partition"), **options)
    indices = [np.sort(part).astype(np.int64) for part in parts]
    labels = np.asarray(dataset.train_y)
    class_counts = np.stack([np.bincount(labels[i], minlength=dataset.n_classes) for i in indices])
    description = {
        "name": name,
        **options,
        "n_clients": len(indices),
        "seed": seed,
        "dataset": dataset.name,
        "dataset_checksum": dataset.checksum,
    }
    if name == "groups":
        description["client_names"] = dataset.group_names
    return Partition(indices, class_counts.astype(np.int64), description)


def _label_shards(
    dataset: PreparedDataset,
    n_clients: int,
    generator: np.random.Generator,
    shard_size: int,
    shards_per_client: int,
) -> list[np.ndarray]:
    # MNIST's digits are not multiples of 300, so the shards run over the label-sorted samples as a
    # whole and the few at the borders hold two digits; shards within digits would be 194, not 200.
    labels = np.asarray(dataset.train_y)
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


def _dirichlet(
    dataset: PreparedDataset, n_clients: int, generator: np.random.Generator, concentration: float
) -> list[np.ndarray]:
    labels = np.asarray(dataset.train_y)
    for _ in range(_DIRICHLET_ATTEMPTS):
        parts: list[list[np.ndarray]] = [[] for _ in range(n_clients)]
        for label in range(dataset.n_classes):
            members = generator.permutation(np.flatnonzero(labels == label))
            shares = generator.dirichlet(np.full(n_clients, concentration))
            borders = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            for part, piece in zip(parts, np.split(members, borders), strict=True):
                part.append(piece)
        divided = [np.concatenate(part) for part in parts]
        # A client without any sample cannot train; at the paper's settings no draw is rejected.
        if all(len(part) for part in divided):
            return divided
    raise UserError(
        f"{dataset.name}: Dirichlet({concentration}) leaves one of {n_clients} clients without "
        "samples in every draw; choose fewer clients or a larger concentration"
    )


def _iid(
    dataset: PreparedDataset, n_clients: int, generator: np.random.Generator
) -> list[np.ndarray]:
    size = len(dataset.train_y) // n_clients
    if size == 0:
        raise UserError(
            f"{dataset.name} has {len(dataset.train_y)} training samples, "
            f"too few for {n_clients} clients; choose fewer clients"
        )
    order = generator.permutation(len(dataset.train_y))
    return list(order[: size * n_clients].reshape(n_clients, size))


def _groups(
    dataset: PreparedDataset, n_clients: int | None, generator: np.random.Generator
) -> list[np.ndarray]:
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


_SCHEMES: Mapping[str, tuple[Callable[..., Sequence[np.ndarray]], Mapping[str, float]]] = {
    "label_shards": (_label_shards, {"shard_size": 300, "shards_per_client": 2}),
    "dirichlet": (_dirichlet, {"concentration": 0.9}),
    "iid": (_iid, {}),
    "groups": (_groups, {}),
}
