"""The networks for many clients at once against ordinary torch.nn modules, one for each client."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from reference_networks import (
    ReferenceCnn,
    ReferenceFastText,
    ReferenceLoanNet,
    load_by_order,
    torchvision_resnet18,
)

from arfl import network
from arfl.errors import UserError
from arfl.local_training import Client, LocalSettings, epochs

META = {"name": "made", "n_classes": 10, "vocabulary_size": None}


def meta(shape, **change):
    return META | {"arrays": {"train_x": {"shape": [100, *shape]}}} | change


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(model, n_clients):
    return torch.stack([model.initial(stream(seed)) for seed in range(n_clients)])


def build(name, described, dropout=0.0):
    return network.make(name, described, dropout)


def cnn():
    return build("cnn", meta((1, 28, 28)))


def resnet18():
    return build("resnet18", meta((3, 32, 32)))


def fasttext(words):
    return build("fasttext", meta((12,), n_classes=2, vocabulary_size=words))


def loannet(features, classes, dropout=0.0):
    return build("loannet", meta((features,), n_classes=classes), dropout)


def cnn_case(n_clients):
    x = torch.randn(n_clients, 6, 1, 28, 28, generator=stream(1))
    return cnn(), ReferenceCnn(), x


def fasttext_case(n_clients):
    x = torch.randint(0, 30, (n_clients, 6, 12), generator=stream(1)).to(torch.int16)
    # texts of 12 words, of fewer, with a gap, with the same word twice, and of none
    x[:, 1, 5:] = -1
    x[:, 2, 1:] = -1
    x[:, 3, 4] = -1
    x[:, 4, :] = 3
    x[:, 5, :] = -1
    return fasttext(30), ReferenceFastText(30), x


def loannet_case(n_clients):
    x = torch.randn(n_clients, 6, 91, generator=stream(1))
    return loannet(91, 9), ReferenceLoanNet(), x


@pytest.mark.parametrize("n_clients", [1, 3])
@pytest.mark.parametrize("case", [cnn_case, fasttext_case, loannet_case])
def test_logits_and_gradients_are_those_of_a_module_for_each_client(case, n_clients):
    model, reference, x = case(n_clients)
    flat = drawn(model, n_clients).requires_grad_()
    logits = model.forward(model.layout.views(flat), x, training=True, keep=None)
    # any smooth function of all logits, different for each sample and client
    coefficients = torch.randn(logits.shape, generator=stream(2))
    (coefficients * logits.tanh()).sum().backward()

    for k in range(n_clients):
        tensors = model.layout.views(flat.detach()[k : k + 1].clone())
        reference.load_state_dict({name: tensor[0] for name, tensor in tensors.items()})
        reference.zero_grad()
        expected = reference(x[k])
        (coefficients[k] * expected.tanh()).sum().backward()
        torch.testing.assert_close(logits[k], expected, rtol=1e-4, atol=1e-5)
        named = dict(reference.named_parameters())
        gradient = torch.cat([named[name].grad.flatten() for name in model.layout.shapes])
        torch.testing.assert_close(flat.grad[k], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("cnn", meta((1, 28, 28))),
        ("loannet", meta((91,), n_classes=9)),
        ("fasttext", meta((12,), n_classes=2, vocabulary_size=30)),
    ],
)
def test_without_numba_there_is_no_compiled_training_and_a_warning_says_why(name, described):
    code = (
        "import sys, warnings\n"
        "sys.modules['numba'] = None\n"
        "from arfl import network\n"
        f"model = network.make({name!r}, {described!r})\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    assert model.compiled() is None\n"
        "said = ' '.join(str(warning.message) for warning in caught)\n"
        "assert 'runs in plain torch' in said and 'numba' in said, said\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_text_without_words_has_the_bias_as_its_logit():
    model = fasttext(30)
    flat = drawn(model, 2)
    x = torch.full((2, 3, 4), -1, dtype=torch.int16)
    logits = model.forward(model.layout.views(flat), x, training=False, keep=None)
    bias = flat[:, model.layout.slices["fc.bias"]]
    assert torch.equal(logits, bias.view(2, 1, 1).expand(2, 3, 1))


def test_padding_does_not_change_a_text():
    model = fasttext(30)
    tensors = model.layout.views(drawn(model, 1))
    x = torch.randint(0, 30, (1, 5, 7), generator=stream()).to(torch.int16)
    longer = torch.cat([x, torch.full((1, 5, 9), -1, dtype=torch.int16)], dim=2)
    torch.testing.assert_close(
        model.forward(tensors, longer, training=False, keep=None),
        model.forward(tensors, x, training=False, keep=None),
    )


def trained_size(layout):
    return layout.size - sum(part.stop - part.start for part in layout.buffers)


def test_parameter_counts_are_the_papers():
    small = cnn().layout
    assert (small.size, small.buffers) == (3_146, ())
    resnet = resnet18().layout
    assert trained_size(resnet) == 11_173_962
    assert fasttext(25_000).layout.size == 25_000 * 100 + 100 + 1
    assert loannet(91, 9, 0.5).layout.size == 91 * 46 + 46 + 46 * 23 + 23 + 23 * 9 + 9


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (cnn(), (10, 16)),
        (resnet18(), (10, 512)),
        (fasttext(7), (1, 100)),
        (loannet(91, 9, 0.5), (9, 23)),
    ],
    ids=["cnn", "resnet18", "fasttext", "loannet"],
)
def test_the_output_layer_is_the_last_weight_matrix(model, shape):
    layout = model.layout
    assert layout.shapes[layout.output_layer_name] == shape
    # only the output layer's bias comes after it
    assert layout.output_layer.stop == layout.size - shape[0]


# ResNet-18 against torchvision's


def test_resnet_and_its_batch_norm_statistics_are_torchvisions():
    model = resnet18()
    layout, reference = model.layout, torchvision_resnet18()
    assert {tuple(p.shape) for p in reference.parameters()} <= set(layout.shapes.values())
    assert sum(p.numel() for p in reference.parameters()) == trained_size(layout)
    flat = model.initial(stream())
    # statistics and affine parameters that are not those of a fresh network
    for name, part in layout.slices.items():
        if ".norm." in name:
            flat[part] += 0.3 * torch.rand(part.stop - part.start, generator=stream(4))
    own = load_by_order(reference, layout, flat)
    x = torch.randn(1, 3, 3, 32, 32, generator=stream(5))

    with torch.no_grad():
        expected = reference.eval()(x[0])
        before = flat.clone()
        logits = model.forward(layout.views(flat.unsqueeze(0)), x, False, None)
        assert torch.equal(flat, before)
    torch.testing.assert_close(logits[0], expected, rtol=1e-4, atol=1e-4)

    models_ = flat.unsqueeze(0).clone()
    tensors = layout.views(models_)
    for name, tensor in tensors.items():
        if name not in layout.buffer_names:
            tensor.requires_grad_()
    y = torch.tensor([3, 0, 9])
    logits = model.forward(tensors, x, True, None)
    F.cross_entropy(logits[0], y).backward()
    expected = reference.train()(x[0])
    F.cross_entropy(expected, y).backward()
    torch.testing.assert_close(logits[0], expected, rtol=1e-3, atol=1e-3)
    gradients = [tensors[name].grad[0] for name in layout.shapes if tensors[name].requires_grad]
    for gradient, parameter in zip(gradients, reference.parameters(), strict=True):
        scale = parameter.grad.abs().max()
        assert (gradient - parameter.grad).abs().max() <= 1e-3 * scale + 1e-7
    moved = 0
    for name, statistic in zip(layout.shapes, own.values(), strict=True):
        if name in layout.buffer_names:
            view = models_[0, layout.slices[name]]
            torch.testing.assert_close(view, statistic, rtol=1e-4, atol=1e-5)
            moved += int(not torch.equal(view, flat[layout.slices[name]]))
    assert moved == len(layout.buffer_names) == 40


def test_resnet_takes_one_client_a_call():
    model = resnet18()
    assert not model.joint
    with pytest.raises(ValueError, match="one client"):
        model.forward({}, torch.zeros(2, 1, 3, 32, 32), True, None)


# Dropout


def drawn_masks(model, n_samples, n_epochs=1, number=0):
    settings = LocalSettings("sgd", 0.0, n_samples)
    client = Client(number, torch.arange(n_samples).numpy(), n_epochs, 0.1)
    masks = [epoch.keep for epoch in epochs(client, settings, model, seed=1, round_number=1)]
    return [torch.from_numpy(mask).unsqueeze(0) for mask in masks]


def test_dropout_drops_its_share_of_each_hidden_layer_and_keeps_the_mean():
    # Every unit is 1 without dropout: 0 or 1 / (1 - p) after the first, and again after the
    # second, so that each logit is 0 or 1 / (1 - p)^2.
    dropout = 0.3
    model = loannet(4, 5, dropout)
    flat = torch.zeros(1, model.layout.size)
    tensors = model.layout.views(flat)
    tensors["fc1.bias"].fill_(1)
    tensors["fc2.weight"][0] = torch.eye(23, 46)
    tensors["fc3.weight"][0] = torch.eye(5, 23)
    x = torch.zeros(1, 4000, 4)
    first, second = drawn_masks(model, 4000, n_epochs=2)
    logits = model.forward(tensors, x, training=True, keep=first)
    kept = logits > 0
    torch.testing.assert_close(
        logits[kept], torch.full_like(logits[kept], 1 / (1 - dropout) ** 2), rtol=1e-5, atol=0
    )
    # 20,000 draws: five standard deviations are below 0.018
    assert abs(kept.float().mean().item() - (1 - dropout) ** 2) < 0.018
    assert not torch.equal(model.forward(tensors, x, training=True, keep=second), logits)
    assert (model.forward(tensors, x, training=False, keep=None) == 1).all()


def test_dropout_belongs_to_the_client_and_leaves_the_global_random_numbers_alone():
    model = loannet(4, 5, 0.5)
    before = torch.get_rng_state()
    (mask,), (again,), (other,) = (drawn_masks(model, 8, number=number) for number in (1, 1, 2))
    assert torch.equal(mask, again)
    assert not torch.equal(mask, other)
    assert torch.equal(torch.get_rng_state(), before)


# Initial models


def test_initial_weights_are_uniform_within_one_over_the_root_of_the_fan_in():
    model = cnn()
    tensors = model.layout.views(torch.stack([model.initial(stream(s)) for s in range(30)]))
    fan_in = {"conv1": 25, "conv2": 100, "fc1": 128, "fc2": 16}
    for name, tensor in tensors.items():
        bound = 1 / math.sqrt(fan_in[name.split(".")[0]])
        assert tensor.abs().max() <= bound
        assert tensor.abs().max() > 0.95 * bound
        # the standard deviation of a uniform distribution; five standard errors of 30 x 4 draws
        assert abs(tensor.std().item() / (bound / math.sqrt(3)) - 1) < 0.25


def test_initial_batch_norm_is_the_identity_and_embeddings_are_standard_normal():
    model = resnet18()
    flat = model.initial(stream())
    for name, part in model.layout.slices.items():
        if name.endswith(("norm.weight", "running_var")):
            assert (flat[part] == 1).all()
        if name.endswith(("norm.bias", "running_mean")):
            assert (flat[part] == 0).all()
    text = fasttext(1000)
    embedding = text.initial(stream())[text.layout.slices["embedding.weight"]]
    assert abs(embedding.mean()) < 0.02
    assert abs(embedding.std() - 1) < 0.02


def test_the_stream_decides_the_initial_model():
    model = cnn()
    assert torch.equal(model.initial(stream(3)), model.initial(stream(3)))
    assert not torch.equal(model.initial(stream(3)), model.initial(stream(4)))


# The registry


def test_build_sizes_the_network_for_the_data():
    assert build("cnn", meta((1, 28, 28))).layout.size == 3_146
    resnet = build("resnet18", meta((3, 32, 32), n_classes=7))
    assert resnet.layout.shapes["fc.weight"] == (7, 512)
    text = build("fasttext", meta((256,), n_classes=2, vocabulary_size=40))
    assert text.binary
    assert text.layout.shapes["embedding.weight"] == (40, 100)
    loan = build("loannet", meta((91,), n_classes=9), dropout=0.5)
    assert [loan.layout.shapes[f"fc{i}.weight"] for i in (1, 2, 3)] == [(46, 91), (23, 46), (9, 23)]


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("cnn", meta((3, 32, 32))),
        ("resnet18", meta((1, 28, 28))),
        ("fasttext", meta((91,))),
        ("loannet", meta((256,), vocabulary_size=40)),
        ("loannet", meta((1, 28, 28))),
    ],
)
def test_data_that_a_network_does_not_take_is_one_message(name, described):
    with pytest.raises(UserError, match=f"network {name} does not take the data made"):
        build(name, described)


def test_unknown_names_and_dropout_where_there_is_none_are_refused():
    with pytest.raises(UserError, match="unknown network 'vgg'; known: cnn, fasttext"):
        build("vgg", meta((1, 28, 28)))
    with pytest.raises(UserError, match="network cnn has no dropout"):
        build("cnn", meta((1, 28, 28)), dropout=0.5)


@pytest.mark.parametrize("case", [cnn_case, fasttext_case, loannet_case])
def test_compiled_logits_are_those_of_the_network(case):
    model, _, x = case(1)
    flat = drawn(model, 1)
    expected = model.forward(model.layout.views(flat), x, training=False, keep=None)[0]
    logits = model.compiled().logits(flat[0].numpy(), x[0].numpy())
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)
