"""flatten and unflatten: nothing of a model is lost, and mistakes are told."""

import numpy as np
import pytest
import torch

from arfl.aggregators import fedavg, median
from arfl.flat import flatten, unflatten


def network(seed):
    torch.manual_seed(seed)
    made = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    for _ in range(seed + 1):
        made(torch.randn(4, 1, 5, 5))
    return made


def test_a_state_dict_comes_back_with_its_types_and_loads():
    states = [network(seed).state_dict() for seed in range(3)]
    models, form = flatten(states)
    assert models.shape == (3, sum(value.numel() for value in states[0].values()))
    for row, state in zip(models, states, strict=True):
        back = unflatten(row, form)
        for name, value in state.items():
            assert torch.equal(back[name], value)
            assert back[name].dtype == value.dtype
    network(5).load_state_dict(unflatten(median(models)[0], form))


def test_buffers_are_found_by_name_and_counters_are_rounded():
    states = [network(seed).state_dict() for seed in (0, 1)]
    models, form = flatten(states)
    marked = torch.zeros(models.shape[1], dtype=torch.bool)
    for part in form.buffers:
        marked[part] = True
    assert marked.sum() == 2 + 2 + 1
    counter = unflatten(fedavg(models)[0], form)["1.num_batches_tracked"]
    # 1 and 2 batches: half goes to the even number
    assert counter.item() == 2
    assert counter.dtype == torch.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_models_stay_numpy(dtype):
    draw = np.random.default_rng(0)
    clients = [[draw.standard_normal((2, 3)).astype(dtype), np.array(k)] for k in range(4)]
    models, form = flatten(clients)
    assert models.dtype == {np.float32: torch.float32, np.float64: torch.float64}[dtype]
    mean = unflatten(fedavg(models)[0], form)
    np.testing.assert_allclose(mean[0], np.mean([client[0] for client in clients], axis=0), 1e-5)
    assert mean[0].dtype == dtype
    assert isinstance(mean[1], np.ndarray)
    assert mean[1] == 2


def test_a_matrix_is_taken_as_it_is():
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    models, form = flatten(matrix)
    assert np.shares_memory(models.numpy(), matrix)
    assert isinstance(unflatten(models[0], form), np.ndarray)
    assert unflatten(models[0], flatten(models)[1]) is not None


def test_the_model_does_not_share_memory_with_the_vector():
    models, form = flatten([{"a": torch.ones(2)}, {"a": torch.zeros(2)}])
    back = unflatten(models[0], form)
    models.zero_()
    assert back["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "no model"),
        ([{}], "not none"),
        ([{"a": torch.ones(1), "b": np.ones(1)}], "one kind alone"),
        ([{"a": torch.ones(1)}, {"a": torch.ones(2), "b": torch.ones(1)}], "model 1 .* in a, b"),
        (torch.ones(3), "must be"),
    ],
)
def test_mistakes_are_told(models, message):
    with pytest.raises(ValueError, match=message):
        flatten(models)


def test_a_vector_of_another_length_is_refused():
    _, form = flatten([{"a": torch.ones(2)}])
    with pytest.raises(ValueError, match="the form has 2 values"):
        unflatten(torch.ones(3), form)
