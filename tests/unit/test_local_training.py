"""Many clients at once against a plain loop of torch.nn modules and torch.optim optimisers."""

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

from arfl import attacks, models
from arfl.device_data import DeviceData
from arfl.local_training import Client, LocalSettings, batch_order, train_clients

CPU = torch.device("cpu")
SEED, ROUND = 5, 3


def settings(optimizer="sgd", momentum=0.5, batch_size=8, max_batches=None):
    return LocalSettings(optimizer, momentum, batch_size, max_batches)


def uneven_clients(n_samples, lr, poisoned=()):
    """Whole and partial batches, fewer samples than a batch, none at all, and several epochs."""
    sizes, epochs = [16, 21, 3, 0, 9, 40], [2, 1, 3, 2, 4, 1]
    order = np.random.default_rng(7).permutation(n_samples)
    parts = np.split(order, np.cumsum(sizes))[:-1]
    rates = [lr, lr, 2 * lr, lr, lr / 2, lr]
    numbers = [4, 0, 11, 7, 2, 9]
    return [
        Client(number, np.sort(part), n, rate, number in poisoned)
        for number, part, n, rate in zip(numbers, parts, epochs, rates, strict=True)
    ]


def plain_loop(network, load, save, binary, data, global_model, clients, shared, poison=None):
    """Each client on its own: the batches of `batch_order`, the rest torch's own."""
    ends = []
    for client in clients:
        own = load(network, global_model)
        network.train()
        optimizer = (
            torch.optim.SGD(network.parameters(), lr=client.lr, momentum=shared.momentum)
            if shared.optimizer == "sgd"
            else torch.optim.Adam(network.parameters(), lr=client.lr)
        )
        for batch in batch_order(client, shared, SEED, ROUND):
            x, y = data.train_batch(torch.from_numpy(batch).view(1, -1), None)
            x, y = x[0], y[0]
            if client.poisoned:
                x, y = poison(x, y)
            logits = network(x)
            loss = (
                F.binary_cross_entropy_with_logits(logits[:, 0], y.float())
                if binary
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
    return models.Cnn(10), ReferenceCnn(), small_data.images(120), settings(), 0.05


def fasttext_case():
    generator = np.random.default_rng(3)
    x = generator.integers(0, 40, (120, 15)).astype(np.int16)
    x[np.arange(15) >= generator.integers(0, 16, 120)[:, None]] = -1
    data = small_data.dataset(x, generator.integers(0, 2, 120), n_classes=2, vocabulary_size=40)
    return models.FastText(40), ReferenceFastText(40), data, settings("adam", 0.0), 0.02


def loannet_case():
    data = small_data.blobs(120, n_classes=9, n_features=91)
    return models.LoanNet(91, 9, 0.0), ReferenceLoanNet(), data, settings(momentum=0.9), 0.05


CASES = [cnn_case, fasttext_case, loannet_case]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block", [1, 2, 4, 6])
def test_clients_train_as_if_alone_whatever_the_block(case, block):
    model, network, source, shared, lr = case()
    model.samples_at_once_cpu = block * shared.batch_size
    data = DeviceData(source, CPU)
    clients = uneven_clients(120, lr)
    global_model = model.initial(torch.Generator().manual_seed(1))
    before = global_model.clone()
    trained = train_clients(
        model, data, global_model, clients, shared, attacks.Attack(), SEED, ROUND
    )
    assert torch.equal(global_model, before)
    expected = plain_loop(
        network, *by_name(model.layout), model.binary, data, global_model, clients, shared
    )
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=2e-5)
    assert torch.equal(trained[3], global_model)  # the client without samples
    moved = (trained - global_model).abs().amax(1)
    assert (moved[[0, 1, 2, 4, 5]] > 1e-3).all()


def test_resnet_clients_follow_torchvisions_with_statistics_of_their_own():
    model, shared = models.ResNet18(10), settings(batch_size=4)
    data = DeviceData(small_data.images(12, channels=3, side=32), CPU)
    clients = [
        Client(3, np.arange(0, 6), 1, 0.01, False),
        Client(1, np.arange(6, 10), 1, 0.02, False),
    ]
    global_model = model.initial(torch.Generator().manual_seed(1))
    trained = train_clients(
        model, data, global_model, clients, shared, attacks.Attack(), SEED, ROUND
    )
    expected = plain_loop(
        torchvision_resnet18(),
        lambda network, flat: load_by_order(network, model.layout, flat),
        lambda network, own: torch.cat([tensor.flatten() for tensor in own.values()]),
        False,
        data,
        global_model,
        clients,
        shared,
    )
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=1e-4)
    for part in model.layout.buffers:
        assert not torch.equal(trained[0, part], trained[1, part])
        assert not torch.equal(trained[0, part], global_model[part])


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
    arguments = (shared, attack, SEED, ROUND)
    trained = train_clients(model, data, global_model, attacked, *arguments)
    clean = train_clients(model, data, global_model, honest, *arguments)
    expected = plain_loop(
        network, *by_name(model.layout), False, data, global_model, attacked, shared, flip
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
    trained = train_clients(model, data, global_model, clients, shared, attack, SEED, ROUND)
    expected = plain_loop(
        network, *by_name(model.layout), False, data, global_model, clients, shared, poison
    )
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=2e-5)


def test_the_order_of_the_clients_is_the_order_of_the_rows():
    model, _, source, shared, lr = cnn_case()
    data = DeviceData(source, CPU)
    clients = uneven_clients(120, lr)
    global_model = model.initial(torch.Generator().manual_seed(1))
    arguments = (shared, attacks.Attack(), SEED, ROUND)
    trained = train_clients(model, data, global_model, clients, *arguments)
    reverse = train_clients(model, data, global_model, clients[::-1], *arguments)
    torch.testing.assert_close(reverse.flip(0), trained, rtol=1e-4, atol=1e-6)


def test_dropout_and_augmentation_come_from_the_seed_and_the_round():
    model = models.LoanNet(91, 9, 0.5)
    data = DeviceData(small_data.blobs(120, n_classes=9, n_features=91), CPU)
    clients = uneven_clients(120, 0.1)
    global_model = model.initial(torch.Generator().manual_seed(1))

    def trained(seed, round_number):
        return train_clients(
            model, data, global_model, clients, settings(), attacks.Attack(), seed, round_number
        )

    torch.manual_seed(0)
    first = trained(1, 1)
    torch.manual_seed(1)
    assert torch.equal(trained(1, 1), first)
    assert not torch.equal(trained(2, 1), first)
    assert not torch.equal(trained(1, 2), first)


# The order of the batches


def client(number=0, n=21, epochs=1):
    return Client(number, np.arange(100, 100 + n), epochs, 0.1, False)


def test_every_epoch_visits_every_sample_once_in_an_order_of_its_own():
    batches = batch_order(client(epochs=3), settings(), SEED, ROUND)
    assert [len(batch) for batch in batches] == [8, 8, 5] * 3
    epochs = [np.concatenate(batches[i : i + 3]) for i in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(100, 121))
    assert len({epoch.tobytes() for epoch in [np.arange(100, 121), *epochs]}) == 4


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
