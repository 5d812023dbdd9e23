"""Small datasets and settings, made in memory, that the tests of training share."""

import numpy as np

from arfl import dataset as datasets
from arfl.dataset import Preparation, PreparedDataset
from arfl.partition import Partition


def dataset(train_x, train_y, test_x=None, test_y=None, n_classes=10, **meta):
    """A prepared dataset of these arrays; without test arrays, the training ones are tested on."""
    test_x = train_x if test_x is None else test_x
    test_y = train_y if test_y is None else test_y
    described = {
        "name": "made",
        "kind": "synthetic",
        "note": "made for a test",
        "n_train": len(train_x),
        "n_test": len(test_x),
        "n_classes": n_classes,
        "class_names": [f"class {label}" for label in range(n_classes)],
        "normalisation": None,
        "vocabulary_size": None,
        "group_names": None,
        "trigger": None,
        "checksum": "0",
        "arrays": {"train_x": {"dtype": str(train_x.dtype), "shape": list(train_x.shape)}},
    }
    return PreparedDataset("made", train_x, train_y, test_x, test_y, None, described | meta)


def images(n, channels=1, side=28, seed=0):
    """Random uint8 images of ten classes, with normalisation."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 256, (n, channels, side, side), dtype=np.uint8)
    y = generator.integers(0, 10, n).astype(np.uint8)
    normalisation = {"mean": [0.4, 0.5, 0.6][:channels], "std": [0.2, 0.25, 0.3][:channels]}
    return dataset(x, y, normalisation=normalisation)


def blobs(n, n_classes=3, n_features=6, spread=0.5, seed=0):
    """A table of float32 features: one round cloud for each class, around random centres."""
    generator = np.random.default_rng(seed)
    centres = 2 * generator.standard_normal((n_classes, n_features))
    y = generator.permutation(np.arange(n) % n_classes)
    x = centres[y] + spread * generator.standard_normal((n, n_features))
    return dataset(x.astype(np.float32), y.astype(np.uint8), n_classes=n_classes)


def write_blobs(folder, n=60):
    """These blobs as a prepared dataset in a folder; its ``meta.json``."""
    made = blobs(n)
    preparation = Preparation(
        train_x=made.train_x,
        train_y=made.train_y,
        test_x=made.test_x,
        test_y=made.test_y,
        kind="synthetic",
        note="made for a test",
        class_names=["a", "b", "c"],
    )
    datasets.write("made", preparation, folder)
    return folder / "meta.json"


def partition(parts, data):
    """A partition of these index lists."""
    parts = [np.asarray(part, dtype=np.int64) for part in parts]
    labels = np.asarray(data.train_y)
    counts = [np.bincount(labels[part], minlength=data.n_classes) for part in parts]
    return Partition(parts, np.array(counts), {})


TASK = {
    "dataset": "made",
    "data": "made",
    "model": "loannet",
    "clients_per_round": None,
    "attackers_every_round": True,
    "client_sampling": "each_round",
    "min_source_share": None,
    "n_clients": None,
    "partition": {"name": "made"},
    "rounds": 3,
    "epochs": 1,
    "batch_size": 16,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.5,
    "augment": False,
    "dropout": 0.0,
    "train_share": 1.0,
    "max_batches_per_epoch": None,
}


def settings(rule="fedavg", attack=None, attack_options=None, training=None, **task):
    """A cell's settings as `arfl.federation.Scenario` takes them."""
    if attack is not None:
        honest = {"epoch_factor": 1, "lr_factor": 1, "inactive": "honest"}
        training = honest | (training or {})
        attack = {"rule": attack, "options": attack_options or {}, "training": training}
    return {
        "task": TASK | task,
        "attack": attack,
        "aggregator": {"rule": rule, "options": {}},
    }
