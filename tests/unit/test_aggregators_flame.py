"""FLAME against scikit-learn's HDBSCAN and a dense reference of its Algorithm 1."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import HDBSCAN

from arfl.aggregation import Context, make
from arfl.aggregators import flame
from arfl.aggregators.flame import cosine_distances, majority_cluster
from arfl.errors import UserError


def reference(models, start):
    """Algorithm 1 of Nguyen et al. without noise, line by line in NumPy."""
    n = len(models)
    labels = HDBSCAN(
        min_cluster_size=n // 2 + 1, min_samples=1, metric="precomputed", allow_single_cluster=True,
        copy=True,
    ).fit_predict(np.clip(cdist(models, models, "cosine"), 0, None))  # fmt: skip
    admitted = np.flatnonzero(labels == 0)
    lengths = np.linalg.norm(models - start, axis=1)
    bound = np.median(lengths)
    clipped = [start + (models[k] - start) * min(1, bound / lengths[k]) for k in admitted]
    return np.mean(clipped, axis=0), admitted


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("n_clients", [3, 4, 10, 25])
def test_flame_is_its_algorithm_1(seed, n_clients):
    draw = np.random.default_rng(seed)
    start = draw.standard_normal(40)
    models = start + draw.standard_normal((n_clients, 40)) * draw.uniform(0.2, 3, (n_clients, 1))
    n_attackers = draw.integers(0, (n_clients + 1) // 2)
    models[:n_attackers] = -3 * start + 0.1 * draw.standard_normal((n_attackers, 40))
    expected, admitted = reference(models, start)
    model, weights = flame(torch.from_numpy(models), torch.from_numpy(start), noise=0)
    np.testing.assert_allclose(model, expected, rtol=1e-9, atol=1e-12)
    assert weights.nonzero().flatten().tolist() == admitted.tolist()
    assert weights.sum().item() == pytest.approx(1)


def test_cosine_distances_are_scipys_and_a_row_of_zeros_is_far_from_all():
    models = np.random.default_rng(0).standard_normal((5, 30))
    ours = cosine_distances(torch.from_numpy(models))
    np.testing.assert_allclose(ours, cdist(models, models, "cosine"), atol=1e-12)
    models[2] = 0
    assert cosine_distances(torch.from_numpy(models))[2].tolist() == [1] * 5


def test_a_minority_that_agrees_perfectly_is_no_cluster():
    distances = torch.full((7, 7), 0.5)
    distances[:3, :3] = 0
    distances[3:, 3:] = 0.1
    assert majority_cluster(distances) == [3, 4, 5, 6]
    assert majority_cluster(torch.zeros(1, 1)) == [0]


def test_noise_has_the_asked_level_and_spares_buffers():
    start, draw = torch.zeros(20_000), torch.Generator().manual_seed(1)
    models = 1 + 0.01 * torch.randn(9, 20_000, generator=draw)
    still, _ = flame(models, start, noise=0)
    stream = torch.Generator().manual_seed(2)
    moved, _ = flame(models, start, noise=0.1, generator=stream, buffer_slices=(slice(0, 500),))
    bound = models.norm(dim=1).median()
    difference = moved - still
    assert difference[:500].abs().max() == 0
    assert difference[500:].std().item() == pytest.approx(0.1 * bound.item(), rel=0.02)


def test_rounds_have_noise_of_their_own_that_can_be_repeated():
    models, start = torch.randn(6, 50), torch.zeros(50)
    context = {"client_ids": range(6), "sample_counts": (1,) * 6, "output_layer": slice(0, 5)}
    one, again, other = (
        make("flame")(models, Context(start, **context, buffers=(), round_number=n)).model
        for n in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="noise must be at least 0"):
        make("flame", noise=-1)
    with pytest.raises(ValueError, match="global_model has shape"):
        flame(torch.zeros(3, 4), torch.zeros(5))
