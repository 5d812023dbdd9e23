"""Small federated runs that must learn: on the embedded data, and on the real files if at hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import real_files
import torch
import yaml

from arfl import dataset as datasets
from arfl import federation, partition
from arfl.grid import Grid

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


def run(scale, cell, dataset, n_clients="configured", attack=None, **task):
    """Train a cell of the shipped configuration, with these changes of its task and attack."""
    grid = Grid(CONFIG | {"scale": scale})
    cell = grid.cell(cell)
    settings = grid.settings(cell)
    settings["task"] |= task
    for part, change in (attack or {}).items():
        settings["attack"][part] = settings["attack"][part] | change
    if n_clients == "configured":
        n_clients = settings["task"]["n_clients"]
    parts = partition.make(dataset, settings["task"]["partition"], n_clients, cell.seed)
    scenario = federation.Scenario(
        settings, cell.n_attackers, cell.seed, dataset, parts, torch.device("cpu")
    )
    return federation.train(scenario, scenario.start()).rounds


def majority(dataset):
    """Accuracy of always predicting the most frequent class of the training part."""
    most = np.bincount(dataset.train_y).argmax()
    return (np.asarray(dataset.test_y) == most).mean()


# Embedded data


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Prepares an embedded dataset, once."""
    folder = tmp_path_factory.mktemp("embedded")

    def prepare(name):
        if not (folder / name).exists():
            datasets.prepare(name, folder / "raw", folder / name)
        return datasets.load(folder / name)

    return prepare


def test_averaging_learns_digits_from_two_digits_a_client(embedded):
    rounds = run("quick", "mnist_shards/none/attackers-0/fedavg/seed-1", embedded("digits"))
    assert rounds[0]["accuracy"] < 0.5
    assert rounds[-1]["accuracy"] > 0.7


def test_averaging_learns_generated_reviews(embedded):
    reviews = embedded("synthetic_reviews")
    rounds = run("quick", "amazon_iid/none/attackers-0/fedavg/seed-1", reviews, rounds=3)
    # the best possible classifier is right for about 83 %
    assert majority(reviews) < 0.55
    assert 0.65 < rounds[-1]["accuracy"] < 0.9


def test_averaging_learns_generated_loans(embedded):
    loans = embedded("synthetic_loans")
    rounds = run("quick", "loan_states/none/attackers-0/fedavg/seed-1", loans)
    assert rounds[-1]["accuracy"] > majority(loans) + 0.05


def test_flipped_labels_of_most_clients_turn_the_model_around(embedded):
    reviews = embedded("synthetic_reviews")
    rounds = run("quick", "amazon_iid/label_flip/attackers-9/fedavg/seed-1", reviews, rounds=3)
    assert rounds[-1]["accuracy"] < 0.4


# A determined attacker: the whole of each batch, and ten times the learning rate.
DETERMINED = {"options": {"poisoned_per_batch": 20}, "training": {"lr_factor": 10}}
SLOWER = {"rounds": 8, "epochs": 2, "batch_size": 16, "lr": 0.02}


def test_a_backdoor_works_on_averaging_and_not_on_the_median(embedded):
    digits = embedded("digits")
    success = {}
    for rule in ("fedavg", "median"):
        cell = f"mnist_dirichlet/backdoor_naive/attackers-1/{rule}/seed-1"
        rounds = run("quick", cell, digits, attack=DETERMINED, **SLOWER)
        # one round of averaging may be far from the next
        success[rule] = np.mean([e["attack_success_rate_excl_target"] for e in rounds])
    assert success["fedavg"] > success["median"] + 0.2


def test_model_replacement_takes_over_in_its_round(embedded):
    cell = "mnist_dirichlet/backdoor_replacement/attackers-1/fedavg/seed-1"
    options = DETERMINED["options"] | {"active_round": 6, "scale": 10}
    attack = DETERMINED | {"options": options}
    rounds = run("quick", cell, embedded("digits"), attack=attack, **SLOWER)[:6]
    success = [entry["attack_success_rate_excl_target"] for entry in rounds]
    assert success[4] < 0.3
    assert success[5] > 0.9
    assert rounds[4]["accuracy"] > 0.5


# Real files


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Prepares a dataset of the mirror, once; ``n_train`` and ``n_test`` cut it to its first."""
    folder = tmp_path_factory.mktemp("real")

    def prepare(name, n_train=None, n_test=None):
        whole = real_files.prepare(name, folder)
        group = whole.train_group
        return dataclasses.replace(
            whole,
            train_x=whole.train_x[:n_train],
            train_y=whole.train_y[:n_train],
            test_x=whole.test_x[:n_test],
            test_y=whole.test_y[:n_test],
            train_group=None if group is None else group[:n_train],
        )

    return prepare


@real_files.needs_mirror
def test_averaging_learns_mnist(real):
    mnist = real("mnist", n_train=15_000, n_test=2_000)
    rounds = run("reduced", "mnist_dirichlet/none/attackers-0/fedavg/seed-1", mnist, rounds=7)
    accuracies = [entry["accuracy"] for entry in rounds]
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] > 0.6


@real_files.needs_mirror
@pytest.mark.slow
def test_averaging_learns_amazon_reviews(real):
    reviews = real("amazon")
    rounds = run("reduced", "amazon_iid/none/attackers-0/fedavg/seed-1", reviews, rounds=2)
    assert 0.45 < majority(reviews) < 0.55
    assert rounds[-1]["accuracy"] > 0.7


@real_files.needs_mirror
def test_averaging_learns_loans(real):
    loans = real("loan")
    rounds = run("reduced", "loan_states/none/attackers-0/fedavg/seed-1", loans, rounds=20)
    assert rounds[-1]["accuracy"] > majority(loans) + 0.02


@real_files.needs_mirror
@pytest.mark.slow
def test_averaging_learns_cifar10(real):
    # ResNet-18 takes a few hundredths of a second for an image, so that these are few.
    cifar = real("cifar10", n_train=800, n_test=300)
    cell = "cifar10_dirichlet/none/attackers-0/fedavg/seed-1"
    task = {"epochs": 1, "rounds": 3, "batch_size": 16, "partition": {"name": "iid"}}
    rounds = run("paper", cell, cifar, n_clients=2, **task)
    # chance is 10 %, with a standard deviation of 1.7 % on 300 images
    assert rounds[-1]["accuracy"] > 0.17
