"""Training by PyTorch's autograd and optimiser in float64, to hold the kernels against."""

import numpy as np
import torch
import torch.nn.functional as F
from reference_networks import load_by_order

BATCHES = [[1, 1, 1], [7, 7, 3], [16], [17, 2], [64, 64, 40], [128, 5]]


def slices(batch_sizes):
    ends = np.cumsum(batch_sizes)
    return [slice(end - size, end) for end, size in zip(ends, batch_sizes, strict=True)]


def trained_by_torch(network, layout, model, x, y, batch_sizes, lr, momentum, forward=None):
    """(model, velocity, sum of the gradients) after a step for each batch.

    ``forward(network, x, batch)`` are the logits, ``network(x)`` by default.
    """
    network = network.double()
    with torch.no_grad():
        load_by_order(network, layout, torch.from_numpy(model).double())
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)

    def flat(of):
        return torch.cat([of(parameter).flatten() for parameter in network.parameters()]).detach()

    total = torch.zeros(layout.size, dtype=torch.float64)
    for batch in slices(batch_sizes):
        inputs = torch.from_numpy(x[batch]).double()
        logits = network(inputs) if forward is None else forward(network, inputs, batch)
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.from_numpy(y[batch])).backward()
        total += flat(lambda parameter: parameter.grad)
        optimizer.step()
    state = optimizer.state
    velocity = flat(lambda p: state[p]["momentum_buffer"] if momentum else p.grad)
    return [vector.numpy() for vector in (flat(lambda p: p), velocity, total)]


def trained_by_kernel(train_epochs, model, x, y, batch_sizes, lr, momentum, **options):
    """The same three vectors."""
    model, velocity, total = model.copy(), np.zeros_like(model), np.zeros_like(model)
    train_epochs(model, velocity, x, y, np.array(batch_sizes, int), lr, momentum, total, **options)
    return [model, velocity, total]


def assert_close(ours, theirs, rtol=1e-5):
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * np.abs(expected).max())
