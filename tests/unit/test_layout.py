"""The map between a model's tensors and its flat vector."""

import torch

from arfl.layout import Layout

SHAPES = {"a.weight": (2, 3), "norm.running_mean": (4,), "out.weight": (3, 2, 2)}
LAYOUT = Layout(SHAPES, "out.weight", frozenset({"norm.running_mean"}))


def test_the_slices_follow_one_another_and_cover_the_vector():
    assert LAYOUT.slices == {
        "a.weight": slice(0, 6),
        "norm.running_mean": slice(6, 10),
        "out.weight": slice(10, 22),
    }
    assert LAYOUT.size == 22
    assert LAYOUT.output_layer == slice(10, 22)
    assert LAYOUT.buffers == (slice(6, 10),)
    assert Layout(SHAPES, "out.weight").buffers == ()


def test_views_are_the_concatenated_tensors_of_each_client():
    generator = torch.Generator().manual_seed(0)
    clients = [
        {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        for _ in range(3)
    ]
    models = torch.stack([torch.cat([t.flatten() for t in c.values()]) for c in clients])
    views = LAYOUT.views(models)
    for name, shape in SHAPES.items():
        assert views[name].shape == (3, *shape)
        assert torch.equal(views[name], torch.stack([client[name] for client in clients]))


def test_writing_to_a_view_writes_the_model():
    models = torch.zeros(2, LAYOUT.size)
    LAYOUT.views(models)["a.weight"][1, 1, 2] = 7
    assert models[1, 5] == 7
    assert models.count_nonzero() == 1
