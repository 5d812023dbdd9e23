"""What a dataset is: source files turned into memory-mappable arrays and what is known of them.

A dataset is a file of `arfl.datasets` that decorates a function ``prepare(raw_dir, *, options)``,
which returns a `Preparation`, by `dataset`. Three steps, each of which leaves files that can be
opened:

- `fetch` puts verified source files and the receipt ``fetched.json`` into a raw folder,
- `prepare` turns them into memory-mappable arrays with a ``meta.json``,
- `load` maps a prepared folder; it needs NumPy alone, so that training starts quickly.
"""

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from arfl import registry, seeds
from arfl.errors import UserError
from arfl.files import atomic_path, read_json, write_json, write_text

KINDS = ("complete", "sample", "stand-in", "synthetic")
"""What the data is: all of the paper's source, a part of it, other real data, or generated."""

RECEIPT = "fetched.json"

_ARRAYS = ("train_x", "train_y", "test_x", "test_y", "train_group")


@dataclass(frozen=True)
class Preparation:
    """What a dataset's module hands over to be written.

    Attributes:
        train_x, test_x: inputs, samples first; images uint8 (n, C, H, W), token ids int16 (n, L)
            with -1 for padding, or float32 features (n, F).
        train_y, test_y: class labels 0..n_classes-1, shape (n,).
        kind: one of `KINDS`.
        note: one sentence for captions that says which data this is.
        class_names: the name of each class, in the order of the labels.
        train_group: for data that comes from known participants, the index into ``group_names`` of
            each training sample, shape (n,).
        normalisation: ``mean`` and ``std`` per channel of images scaled to 0..1, or None.
        trigger: ``columns`` and ``values`` of a tabular backdoor trigger, in prepared units.
        sources: where the data came from, one mapping per file.
        details: further facts for ``meta.json``, for example how many rows were dropped.
        texts: further text files, by name, to lie beside the arrays.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    kind: str
    note: str
    class_names: Sequence[str]
    train_group: np.ndarray | None = None
    group_names: Sequence[str] | None = None
    normalisation: Mapping[str, Sequence[float]] | None = None
    vocabulary_size: int | None = None
    trigger: Mapping[str, Sequence[float]] | None = None
    sources: Sequence[Mapping[str, object]] = ()
    details: Mapping[str, object] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by file name without suffix."""
        named = {name: getattr(self, name) for name in _ARRAYS}
        return {name: array for name, array in named.items() if array is not None}


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared folder, its arrays mapped read-only; see `Preparation` for shapes and types.

    Attributes:
        folder: where it lies.
        meta: the content of its ``meta.json``.
    """

    folder: Path
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    train_group: np.ndarray | None
    meta: dict

    @property
    def name(self) -> str:
        """The dataset's registry name."""
        return self.meta["name"]

    @property
    def class_names(self) -> list[str]:
        """The name of each class, in the order of the labels."""
        return self.meta["class_names"]

    @property
    def n_classes(self) -> int:
        """How many classes the labels have."""
        return self.meta["n_classes"]

    @property
    def group_names(self) -> list[str] | None:
        """The names of the participants that the data itself knows, such as US states."""
        return self.meta["group_names"]

    @property
    def checksum(self) -> str:
        """SHA-256 over the names, types, shapes and bytes of the arrays."""
        return self.meta["checksum"]


def dataset(*, embedded: bool) -> Callable:
    """Decorate a dataset's function ``prepare(raw_dir, *, ...options)`` to a `Preparation`.

    Args:
        embedded: whether it needs no source file.
    """

    def decorate(prepare: Callable) -> Callable:
        prepare.embedded = embedded  # type: ignore[attr-defined]
        return registry.register(prepare)

    return decorate


def fetch(
    name: str,
    raw_dir: str | os.PathLike,
    sources: str | os.PathLike,
    mirror: str | os.PathLike | None = None,
) -> None:
    """Put a dataset's source files, verified, and the receipt ``fetched.json`` into a folder.

    With a mirror, the files are taken from ``<mirror>/<name>/`` and nowhere else; without one, from
    ``raw_dir`` if the user has put them there, else from the network. Files may be packed as
    ``.gz`` or ``.xz``; the raw folder gets them unpacked. Nothing is written to a mirror.

    Args:
        name: a file of `arfl.datasets`; for an embedded dataset the receipt alone is written.
        raw_dir: this dataset's raw folder, for example ``data/raw/mnist``.
        sources: the table of sources, ``workflow/resources/datasets.csv``.
        mirror: a folder with one folder per dataset; by default the environment variable
            ``ARFL_DATA_MIRROR``, if it is set.

    Raises:
        UserError: if a file cannot be had or is not what it should be; the message says what to
            put where.
    """
    if registry.get("datasets", name).embedded:
        write_json(Path(raw_dir) / RECEIPT, {"dataset": name, "files": []})
        return
    if mirror is None:
        mirror = os.environ.get("ARFL_DATA_MIRROR") or None
    # Imported here, since training loads prepared data and needs no client of the network.
    sources_module = importlib.import_module("arfl.datasets._sources")
    sources_module.fetch(name, Path(raw_dir), sources, mirror)


def prepare(
    name: str, raw_dir: str | os.PathLike, out_dir: str | os.PathLike, /, **options: object
) -> PreparedDataset:
    """Turn fetched files into the prepared form and load it.

    Args:
        name: a file of `arfl.datasets`.
        raw_dir: the folder that `fetch` filled for this dataset; embedded datasets ignore it.
        out_dir: the folder to write, for example ``data/prepared/mnist``; it appears complete or
            not at all and replaces an older one.
        options: settings of the dataset, the keyword arguments of its module's ``prepare``.

    Raises:
        UserError: for an unknown dataset or option, and for whatever is wrong with the files.
    """
    registry.check_options("datasets", name, options)
    function = registry.get("datasets", name)
    defaults = registry.options(function)
    changed = {key: value for key, value in options.items() if value != defaults[key]}
    write(name, function(Path(raw_dir), **options), Path(out_dir), changed)
    return load(out_dir)


def write(
    name: str, preparation: Preparation, folder: Path, changed: Mapping[str, object] | None = None
) -> None:
    """Write the prepared form of dataset ``name`` into ``folder``, complete or not at all.

    Args:
        name: of the dataset.
        preparation: what its module made.
        folder: to write.
        changed: the options that are not at their defaults.

    Raises:
        UserError: if the preparation is not what `Preparation` asks for.
    """
    _check(name, preparation)
    arrays = preparation.arrays()
    meta = {
        "name": name,
        "kind": preparation.kind,
        "note": preparation.note,
        "n_train": len(preparation.train_x),
        "n_test": len(preparation.test_x),
        "n_classes": len(preparation.class_names),
        "class_names": list(preparation.class_names),
        "normalisation": preparation.normalisation,
        "vocabulary_size": preparation.vocabulary_size,
        "group_names": None if preparation.group_names is None else list(preparation.group_names),
        "trigger": preparation.trigger,
        "sources": list(preparation.sources),
        "details": preparation.details,
        "arrays": {
            key: {"dtype": str(array.dtype), "shape": list(array.shape)}
            for key, array in arrays.items()
        },
        "changed": dict(changed or {}),
        "checksum": _checksum(arrays, changed),
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for key, array in arrays.items():
            _save(temporary / f"{key}.npy", array)
        for file, text in preparation.texts.items():
            write_text(temporary / file, text)
        write_json(temporary / "meta.json", meta)


def _check(name: str, preparation: object) -> None:
    """Refuse what would train on something else than it says, or fail far from its cause."""

    def refuse(found: str) -> UserError:
        return UserError(f"dataset {name}: {found}; see Preparation in arfl.dataset")

    if not isinstance(preparation, Preparation):
        raise refuse(f"prepare must return a Preparation, not {type(preparation).__name__}")
    if preparation.kind not in KINDS:
        raise refuse(f"kind is {preparation.kind!r}, not one of {', '.join(KINDS)}")
    n_classes = len(preparation.class_names)
    for part in ("train", "test"):
        x, y = getattr(preparation, f"{part}_x"), getattr(preparation, f"{part}_y")
        if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
            raise refuse(f"{part}_x and {part}_y must be NumPy arrays")
        if x.dtype not in (np.uint8, np.int16, np.float32):
            raise refuse(f"{part}_x is {x.dtype}, not uint8, int16 or float32")
        if x.dtype == np.float32 and not np.isfinite(x).all():
            raise refuse(f"{part}_x holds a NaN or an infinity")
        if y.shape != (len(x),) or not len(y):
            raise refuse(f"{part}_y has the shape {y.shape} for {len(x)} samples")
        if y.dtype.kind not in "iu":
            raise refuse(f"{part}_y is {y.dtype}, not whole numbers")
        if y.min() < 0 or y.max() >= n_classes:
            raise refuse(
                f"{part}_y goes from {y.min()} to {y.max()}, but class_names has {n_classes}"
            )


def load(folder: str | os.PathLike, verify: bool = False) -> PreparedDataset:
    """Map a prepared folder, without reading the arrays.

    Args:
        folder: a folder that `arfl.dataset.prepare` wrote.
        verify: read the arrays once and compare them with their checksum.

    Raises:
        UserError: if a file is missing, broken, or not what ``meta.json`` says.
    """
    folder = Path(folder)
    meta = read_json(folder / "meta.json")
    remedy = f"delete {folder} and prepare the dataset again"
    try:
        described = meta["arrays"]
        arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in described}
        for key, array in arrays.items():
            if [str(array.dtype), list(array.shape)] != [
                described[key]["dtype"],
                described[key]["shape"],
            ]:
                raise UserError(
                    f"{folder / key}.npy is not the array of meta.json; {remedy} (rm -r {folder}, "
                    "then the same command)"
                )
        dataset = PreparedDataset(
            folder=folder, **{key: arrays.get(key) for key in _ARRAYS}, meta=meta
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is not a whole prepared dataset ({error}); {remedy} (rm -r {folder}, then "
            "the same command)"
        ) from None
    if verify and _checksum(arrays, dataset.meta.get("changed")) != dataset.checksum:
        raise UserError(
            f"the arrays in {folder} do not match their checksum; {remedy} (rm -r {folder}, then "
            "the same command)"
        )
    return dataset


def preparation_stream(seed: int) -> np.random.Generator:
    """The random numbers of a preparation: which samples are used, split off or generated.

    The index sets the stream apart from the one that divides the same data among participants.
    """
    return seeds.generator(seed, "partition", 1)


def stratified_split(
    strata: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split 80/20 within each stratum, so that even a stratum of one sample can be trained on.

    Args:
        strata: a label per sample, shape (n,).
        generator: decides which samples are tested on.

    Returns:
        Sorted indices of the training and of the test part; a stratum of m samples gives
        floor(m / 5) of them to the test part.
    """
    test = [
        generator.permutation(members)[: len(members) // 5]
        for members in (np.flatnonzero(strata == value) for value in np.unique(strata))
    ]
    in_test = np.zeros(len(strata), dtype=bool)
    in_test[np.concatenate(test)] = True
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def _save(path: Path, array: np.ndarray) -> None:
    # np.save meets a full disk with an OSError that has no errno, so nobody could tell what it is.
    array = np.ascontiguousarray(array)
    with open(path, "wb") as stream:
        described = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(stream, described)
        stream.write(array.data)


def _checksum(arrays: Mapping[str, np.ndarray], changed: Mapping[str, object] | None) -> str:
    digest = hashlib.sha256()
    # An option may change what is no array, such as a trigger. One at its default is left out, so
    # that a new option moves no checksum.
    if changed:
        digest.update(json.dumps(changed, sort_keys=True).encode())
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
