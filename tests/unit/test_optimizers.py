"""The optimisers on flat models against torch.optim, one optimiser for each row."""

import pytest
import torch

from arfl.errors import UserError
from arfl.optimizers import Optimizer

LR = [0.1, 0.02, 0.5]
# how many rows are still at work at each step
ROWS = [3, 3, 3, 2, 2, 1, 1]


def run_reference(name, momentum, start, gradients):
    ends = []
    for k, row in enumerate(start):
        parameter = torch.nn.Parameter(row.clone())
        if name == "sgd":
            optimizer = torch.optim.SGD([parameter], lr=LR[k], momentum=momentum)
        else:
            optimizer = torch.optim.Adam([parameter], lr=LR[k])
        for gradient in gradients:
            if k < len(gradient):
                parameter.grad = gradient[k].clone()
                optimizer.step()
        ends.append(parameter.detach())
    return torch.stack(ends)


@pytest.mark.parametrize(
    ("name", "momentum"), [("sgd", 0.0), ("sgd", 0.5), ("sgd", 0.9), ("adam", 0.0)]
)
def test_rows_follow_torch_optim_and_drop_out(name, momentum):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 50, dtype=torch.float64, generator=generator)
    gradients = [torch.randn(r, 50, dtype=torch.float64, generator=generator) for r in ROWS]
    gradients[2][:, :10] = 0  # a parameter that has no gradient for a step
    gradients[3][:, 20:30] *= 1e-9  # and one of the size of Adam's epsilon
    models = start.clone()
    lr = torch.tensor(LR, dtype=torch.float64).unsqueeze(1)
    optimizer = Optimizer(name, models, lr, momentum)
    given = [gradient.clone() for gradient in gradients]
    for gradient in gradients:
        optimizer.step(gradient)
    assert all(map(torch.equal, given, gradients))
    expected = run_reference(name, momentum, start, gradients)
    torch.testing.assert_close(models, expected, rtol=1e-9, atol=1e-12)


def test_adam_ignores_momentum():
    start, gradient = torch.ones(1, 4), torch.tensor([[1.0, -2.0, 3.0, 0.0]])
    ends = []
    for momentum in (0.0, 0.9):
        models = start.clone()
        optimizer = Optimizer("adam", models, torch.tensor([[0.1]]), momentum)
        for _ in range(3):
            optimizer.step(gradient)
        ends.append(models)
    assert torch.equal(*ends)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match="unknown optimizer 'lamb'; choose one of sgd, adam"):
        Optimizer("lamb", torch.zeros(1, 1), torch.zeros(1, 1), 0.0)
