"""Many clients at once against a plain loop of torch.nn modules and torch.optim optimisers."""

import dataclasses

import numpy as np
import pytest
import small_data
import torch
import torch.nn.functional as F
from reference_networks import (
    ReferenceCnn,
    ReferenceFastText,
    ReferenceLoanNet,
    load_by_order,
    torchvision_resnet18,
)

from arfl import attack as attacks
from arfl.device_data import DeviceData, crop
from arfl.errors import UserError
from arfl.local_training import Client, LocalSettings, LocalTraining, epochs, n_batches
from arfl.networks.cnn import Cnn
from arfl.networks.fasttext import FastText
from arfl.networks.loannet import LoanNet
from arfl.networks.resnet18 import ResNet18

CPU = torch.device("cpu")
SEED, ROUND = 5, 3


def settings(optimizer="sgd", momentum=0.5, batch_size=8, max_batches=None, augment=False):
    return LocalSettings(optimizer, momentum, batch_size, max_batches, augment)


def train(
    network,
    data,
    global_model,
    clients,
    shared,
    attack=None,
    seed=SEED,
    round_number=ROUND,
    submission="models",
    honest_lr=0.0,
):
    """What `LocalTraining` makes of these clients; without an attack, of honest ones."""
    attack = attack or attacks.Attack()
    training = LocalTraining(network, data, shared, attack, seed, honest_lr)
    return training.train(global_model, clients, round_number, submission)


def uneven_clients(n_samples, lr, poisoned=(), attacker_factor=1):
    """Whole and partial batches, fewer samples than a batch, none at all, and several epochs."""
    sizes, passes = [16, 21, 3, 0, 9, 40], [2, 1, 3, 2, 4, 1]
    order = np.random.default_rng(7).permutation(n_samples)
    parts = np.split(order, np.cumsum(sizes))[:-1]
    rates = [lr, lr, 2 * lr, lr, lr / 2, lr]
    numbers = [4, 0, 11, 7, 2, 9]
    return [
        Client(number, np.sort(part), n, attacker_factor * rate, sorted(poisoned).index(number))
        if number in poisoned
        else Client(number, np.sort(part), n, rate)
        for number, part, n, rate in zip(numbers, parts, passes, rates, strict=True)
    ]


def batches(client, shared, model, seed=SEED, round_number=ROUND):
    """The client's batches of the round: sample indices, crops and what dropout keeps."""
    cut = []
    for epoch in epochs(client, shared, model, seed, round_number):
        assert epoch.batch_sizes.sum() == len(epoch.order)
        ends = np.cumsum(epoch.batch_sizes)
        for start, stop in zip(ends - epoch.batch_sizes, ends, strict=True):
            parts = (epoch.order, epoch.crops, epoch.keep)
            cut.append([p if p is None else torch.from_numpy(p[start:stop]) for p in parts])
    return cut


def batch(data, indices, crops):
    stored = data.stored(indices)
    return data.inputs(stored if crops is None else crop(stored, crops)), data.labels(indices)


def plain_loop(
    model,
    network,
    load,
    save,
    data,
    global_model,
    clients,
    shared,
    poison=None,
    forward=lambda network, x, keep: network(x),
):
    """Each client on its own: the draws of `epochs`, the rest torch's own."""
    ends = []
    for client in clients:
        own = load(network, global_model)
        network.train()
        optimizer = (
            torch.optim.SGD(network.parameters(), lr=client.lr, momentum=shared.momentum)
            if shared.optimizer == "sgd"
            else torch.optim.Adam(network.parameters(), lr=client.lr)
        )
        for indices, crops, keep in batches(client, shared, model):
            x, y = batch(data, indices, crops)
            if client.attacker is not None:
                x, y = poison(x, y)
            logits = forward(network, x, keep)
            loss = (
                F.binary_cross_entropy_with_logits(logits[:, 0], y.float())
                if model.binary
                else F.cross_entropy(logits, y)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append(save(network, own))
    return torch.stack(ends)


def by_name(layout):
    def load(network, flat):
        tensors = layout.views(flat.unsqueeze(0))
        network.load_state_dict({name: tensor[0] for name, tensor in tensors.items()})

    def save(network, _):
        own = network.state_dict()
        return torch.cat([own[name].flatten() for name in layout.shapes])

    return load, save


def cnn_case():
    data = small_data.images(120)
    return Cnn(data.meta), ReferenceCnn(), data, settings(), 0.05


def fasttext_case():
    generator = np.random.default_rng(3)
    x = generator.integers(0, 40, (120, 15)).astype(np.int16)
    x[np.arange(15) >= generator.integers(0, 16, 120)[:, None]] = -1
    data = small_data.dataset(x, generator.integers(0, 2, 120), n_classes=2, vocabulary_size=40)
    return FastText(data.meta), ReferenceFastText(40), data, settings("adam", 0.0), 0.02


def by_torch(case):
    def made():
        model, *rest = case()
        model.compiled = lambda: None
        return model, *rest

    return made


def loannet_case():
    data = small_data.blobs(120, n_classes=9, n_features=91)
    return LoanNet(data.meta), ReferenceLoanNet(), data, settings(momentum=0.9), 0.05


CASES = {
    "cnn": cnn_case,
    "cnn by torch": by_torch(cnn_case),
    "fasttext": fasttext_case,
    "fasttext by torch": by_torch(fasttext_case),
    "loannet": loannet_case,
    "loannet by torch": by_torch(loannet_case),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("block", [1, 2, 4, 6])
def test_clients_train_as_if_alone_whatever_the_block(case, block):
    model, network, source, shared, lr = case()
    model.samples_at_once_cpu = block * shared.batch_size
    data = DeviceData(source, CPU)
    clients = uneven_clients(120, lr)
    global_model = model.initial(torch.Generator().manual_seed(1))
    before = global_model.clone()
    trained = train(model, data, global_model, clients, shared)
    assert torch.equal(global_model, before)
    expected = plain_loop(
        model, network, *by_name(model.layout), data, global_model, clients, shared
    )
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=2e-5)
    assert torch.equal(trained[3], global_model)  # the client without samples
    moved = (trained - global_model).abs().amax(1)
    assert (moved[[0, 1, 2, 4, 5]] > 1e-3).all()


def test_resnet_clients_follow_torchvisions_with_statistics_of_their_own():
    source, shared = small_data.images(12, channels=3, side=32), settings(batch_size=4)
    model, data = ResNet18(source.meta), DeviceData(source, CPU)
    clients = [
        Client(3, np.arange(0, 6), 1, 0.01),
        Client(1, np.arange(6, 10), 1, 0.02),
    ]
    global_model = model.initial(torch.Generator().manual_seed(1))
    trained = train(model, data, global_model, clients, shared)
    expected = plain_loop(
        model,
        torchvision_resnet18(),
        lambda network, flat: load_by_order(network, model.layout, flat),
        lambda network, own: torch.cat([tensor.flatten() for tensor in own.values()]),
        data,
        global_model,
        clients,
        shared,
    )
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=1e-4)
    for part in model.layout.buffers:
        assert not torch.equal(trained[0, part], trained[1, part])
        assert not torch.equal(trained[0, part], global_model[part])
    # Running statistics have no gradient: whatever is submitted, they are those of the training.
    stepped = train(
        model, data, global_model, clients, shared, submission="gradients", honest_lr=0.01
    )
    statistics = torch.zeros(model.layout.size, dtype=torch.bool)
    for part in model.layout.buffers:
        statistics[part] = True
    assert torch.equal(stepped[:, statistics], trained[:, statistics])
    # of one step alone, at the honest rate in place of twice that
    one_step = stepped[1, ~statistics] - global_model[~statistics]
    twice = trained[1, ~statistics] - global_model[~statistics]
    torch.testing.assert_close(2 * one_step, twice, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("block", [1, 6])
def test_only_attackers_train_on_poisoned_batches(block):
    model, network, source, shared, lr = cnn_case()
    model.samples_at_once_cpu = block * shared.batch_size
    data = DeviceData(source, CPU)
    honest = uneven_clients(120, lr)
    attacked = uneven_clients(120, lr, poisoned={4, 9, 7})
    attack = attacks.make("label_flip", source.meta, source=7, target=5)

    def flip(x, y):
        return x, torch.tensor([5 if label == 7 else label for label in y.tolist()])

    global_model = model.initial(torch.Generator().manual_seed(1))
    trained = train(model, data, global_model, attacked, shared, attack)
    clean = train(model, data, global_model, honest, shared, attack)
    expected = plain_loop(
        model, network, *by_name(model.layout), data, global_model, attacked, shared, flip
    )
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=2e-5)
    differs = (trained - clean).abs().amax(1) > 1e-4
    held = [7 in source.train_y[client.samples] for client in attacked]
    assert all(held[row] for row in (0, 1, 5))
    # clients 4 and 9 attack; 7 would, but has no samples; 0 holds the class and is honest
    assert differs.tolist() == [True, False, False, False, False, True]


def test_a_backdoor_in_a_block_poisons_the_first_samples_of_the_attackers_batches():
    model, network, source, shared, lr = cnn_case()
    data = DeviceData(source, CPU)
    clients = uneven_clients(120, lr, poisoned={4, 11})
    attack = attacks.make("backdoor", source.meta, target=2, poisoned_per_batch=5)
    mean, std = source.meta["normalisation"]["mean"][0], source.meta["normalisation"]["std"][0]

    def poison(x, y):
        x, y = x.clone(), y.clone()
        for sample in range(min(5, len(x))):
            y[sample] = 2
            for row in (0, 2):
                for column in (0, 1, 2, 4, 5, 6):
                    x[sample, 0, row, column] = (1 - mean) / std
        return x, y

    model.samples_at_once_cpu = 6 * shared.batch_size
    global_model = model.initial(torch.Generator().manual_seed(1))
    trained = train(model, data, global_model, clients, shared, attack)
    expected = plain_loop(
        model, network, *by_name(model.layout), data, global_model, clients, shared, poison
    )
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=2e-5)


def test_the_order_of_the_clients_is_the_order_of_the_rows():
    model, _, source, shared, lr = cnn_case()
    data = DeviceData(source, CPU)
    clients = uneven_clients(120, lr)
    global_model = model.initial(torch.Generator().manual_seed(1))
    trained = train(model, data, global_model, clients, shared)
    reverse = train(model, data, global_model, clients[::-1], shared)
    torch.testing.assert_close(reverse.flip(0), trained, rtol=1e-4, atol=1e-6)


def test_flipped_labels_reach_the_compiled_training_too():
    model, network, source, shared, lr = fasttext_case()
    data = DeviceData(source, CPU)
    clients = uneven_clients(120, lr, poisoned={4, 11})
    attack = attacks.make("label_flip", source.meta, source="all")
    global_model = model.initial(torch.Generator().manual_seed(1))
    trained = train(model, data, global_model, clients, shared, attack)
    expected = plain_loop(
        model,
        network,
        *by_name(model.layout),
        data,
        global_model,
        clients,
        shared,
        lambda x, y: (x, 1 - y),
    )
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=2e-5)


# Dropout and augmentation


def dropout_case():
    source = small_data.blobs(120, n_classes=9, n_features=91)
    return LoanNet(source.meta, dropout=0.5), source, settings(momentum=0.9)


def augmentation_case():
    source = small_data.images(120)
    return Cnn(source.meta), source, settings(augment=True)


RANDOM = [dropout_case, augmentation_case]


@pytest.mark.parametrize("case", RANDOM)
def test_dropout_and_augmentation_come_from_the_seed_and_the_round(case):
    model, source, shared = case()
    data = DeviceData(source, CPU)
    # all samples of a client in one batch, whose order does not matter
    shared = dataclasses.replace(shared, batch_size=64)
    clients = [dataclasses.replace(c, epochs=1) for c in uneven_clients(120, 0.1)]
    global_model = model.initial(torch.Generator().manual_seed(1))

    def trained(seed, round_number):
        return train(model, data, global_model, clients, shared, None, seed, round_number)

    torch.manual_seed(0)
    first = trained(1, 1)
    torch.manual_seed(1)
    assert torch.equal(trained(1, 1), first)
    for other in (trained(2, 1), trained(1, 2)):
        moved = (other - first).abs().amax(1) > 1e-4
        assert moved.tolist() == [True, True, True, False, True, True]


@pytest.mark.parametrize("case", RANDOM)
@pytest.mark.parametrize("block", [1, 2, 6])
def test_what_a_client_draws_does_not_depend_on_who_trains_with_it(case, block):
    model, source, shared = case()
    data = DeviceData(source, CPU)
    clients = uneven_clients(120, 0.05)
    global_model = model.initial(torch.Generator().manual_seed(1))
    model.samples_at_once_cpu = block * shared.batch_size
    together = train(model, data, global_model, clients, shared)
    apart = [train(model, data, global_model, [client], shared)[0] for client in clients]
    torch.testing.assert_close(together, torch.stack(apart), rtol=1e-4, atol=1e-6)
    some = train(model, data, global_model, clients[::2], shared)
    torch.testing.assert_close(some, together[::2], rtol=1e-4, atol=1e-6)


def test_dropout_keeps_and_scales_the_units_that_each_sample_drew():
    model, source, shared = dropout_case()
    data = DeviceData(source, CPU)
    clients = uneven_clients(120, 0.05)
    global_model = model.initial(torch.Generator().manual_seed(1))

    def forward(network, x, keep):
        h = F.relu(network.fc1(x)) * keep[:, :46] * 2
        return network.fc3(F.relu(network.fc2(h)) * keep[:, 46:] * 2)

    trained = train(model, data, global_model, clients, shared)
    expected = plain_loop(
        model,
        ReferenceLoanNet(),
        *by_name(model.layout),
        data,
        global_model,
        clients,
        shared,
        forward=forward,
    )
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=2e-5)


def test_augmentation_crops_each_sample_as_it_drew():
    model, source, shared = augmentation_case()
    data = DeviceData(source, CPU)
    clients = uneven_clients(120, 0.05)
    global_model = model.initial(torch.Generator().manual_seed(1))
    trained = train(model, data, global_model, clients, shared)
    expected = plain_loop(
        model, ReferenceCnn(), *by_name(model.layout), data, global_model, clients, shared
    )
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=2e-5)
    plain = train(model, data, global_model, clients, settings())
    assert (trained - plain).abs().amax(1).gt(1e-4).tolist() == [True] * 3 + [False] + [True] * 2


@pytest.mark.parametrize("dropout", [0.2, 0.7])
def test_dropout_drops_units_at_its_rate_and_anew_in_every_epoch(dropout):
    model = LoanNet(small_data.blobs(9, n_classes=9, n_features=91).meta, dropout=dropout)
    drawn = list(epochs(client(n=500, epochs=2), settings(), model, SEED, ROUND))
    keep = np.stack([epoch.keep for epoch in drawn])
    assert keep.shape == (2, 500, 46 + 23)
    assert set(np.unique(keep)) == {0, 1}
    deviation = np.sqrt(dropout * (1 - dropout) / keep.size)
    assert abs(keep.mean() - (1 - dropout)) < 5 * deviation
    assert abs(np.corrcoef(keep[0].ravel(), keep[1].ravel())[0, 1]) < 5 / np.sqrt(keep[0].size)


# Sums of gradients


@pytest.mark.parametrize(
    "case", [cnn_case, by_torch(cnn_case), loannet_case, by_torch(loannet_case)]
)
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_gradients_are_the_sum_of_all_local_steps_at_the_honest_rate(case, momentum):
    model, network, source, shared, lr = case()
    shared = dataclasses.replace(shared, momentum=momentum)
    data = DeviceData(source, CPU)
    # the attackers' learning rate is ten times the others'
    clients = uneven_clients(120, lr, poisoned={4, 11}, attacker_factor=10)
    attack = attacks.make("label_flip", source.meta, source=1, target=0)
    start = model.initial(torch.Generator().manual_seed(1))
    load, _ = by_name(model.layout)
    expected = []
    for one in clients:
        load(network, start)
        parameters = [dict(network.named_parameters())[name] for name in model.layout.shapes]
        velocities = [torch.zeros_like(parameter) for parameter in parameters]
        total = torch.zeros(model.layout.size, dtype=torch.float64)
        for indices, _, _ in batches(one, shared, model):
            x, y = batch(data, indices, None)
            if one.attacker is not None:
                y = torch.where(y == 1, 0, y)
            gradients = torch.autograd.grad(F.cross_entropy(network(x), y), parameters)
            total += torch.cat([gradient.flatten() for gradient in gradients]).double()
            with torch.no_grad():
                for parameter, velocity, gradient in zip(
                    parameters, velocities, gradients, strict=True
                ):
                    velocity.mul_(momentum).add_(gradient)
                    parameter.sub_(one.lr * velocity)
        expected.append((start.double() - lr * total).float())
    submitted = train(
        model, data, start, clients, shared, attack, submission="gradients", honest_lr=lr
    )
    torch.testing.assert_close(submitted, torch.stack(expected), rtol=1e-3, atol=5e-5)
    assert torch.equal(submitted[3], start)  # the client without samples


def test_gradients_of_another_optimizer_than_sgd_are_one_message():
    model, _, source, shared, _ = fasttext_case()
    training = LocalTraining(model, DeviceData(source, CPU), shared, attacks.Attack(), SEED, 0.1)
    start = model.initial(torch.Generator().manual_seed(1))
    with pytest.raises(UserError, match="sums of gradients are known of SGD alone"):
        training.train(start, uneven_clients(120, 0.1), ROUND, "gradients")


# The order of the batches


PLAIN = Cnn({"n_classes": 10})


def client(number=0, n=21, epochs=1):
    return Client(number, np.arange(100, 100 + n), epochs, 0.1)


def batch_order(client, shared, seed, round_number):
    order = [indices for indices, _, _ in batches(client, shared, PLAIN, seed, round_number)]
    assert len(order) == n_batches(client, shared)
    return [indices.numpy() for indices in order]


def test_every_epoch_visits_every_sample_once_in_an_order_of_its_own():
    order = batch_order(client(epochs=3), settings(), SEED, ROUND)
    assert [len(batch) for batch in order] == [8, 8, 5] * 3
    passes = [np.concatenate(order[i : i + 3]) for i in (0, 3, 6)]
    for epoch in passes:
        assert sorted(epoch) == list(range(100, 121))
    assert len({epoch.tobytes() for epoch in [np.arange(100, 121), *passes]}) == 4


def test_an_epoch_stops_after_so_many_batches_and_the_next_starts_anew():
    whole = batch_order(client(epochs=2), settings(), SEED, ROUND)
    capped = batch_order(client(epochs=2), settings(max_batches=2), SEED, ROUND)
    for batch, expected in zip(capped, [whole[0], whole[1], whole[3], whole[4]], strict=True):
        assert batch.tolist() == expected.tolist()
    more = batch_order(client(epochs=2), settings(max_batches=9), SEED, ROUND)
    assert len(more) == len(whole)


def test_further_epochs_change_nothing_about_the_first_ones():
    honest = batch_order(client(epochs=2), settings(), SEED, ROUND)
    attacker = batch_order(client(epochs=4), settings(), SEED, ROUND)
    assert len(attacker) == 2 * len(honest)
    assert all(map(np.array_equal, honest, attacker))


def test_the_order_depends_on_seed_round_and_client():
    orders = {
        np.concatenate(batch_order(client(number), settings(), seed, round_number)).tobytes()
        for seed in (1, 2)
        for round_number in (1, 2)
        for number in (0, 1)
    }
    assert len(orders) == 8


def test_a_client_without_samples_has_no_batches():
    assert batch_order(client(n=0, epochs=2), settings(), SEED, ROUND) == []
