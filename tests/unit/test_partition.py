"""Properties of partitions: every sample at most once, sizes, distinct labels, distributions."""

import errno
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from arfl import partition, registry
from arfl.dataset import PreparedDataset
from arfl.errors import UserError
from arfl.partitions import label_shards as label_shards_file
from arfl.reporting import partition_picture

MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def dataset(labels, n_classes=10, groups=None, names=None):
    """A prepared dataset with these labels; the inputs do not matter here."""
    labels = np.asarray(labels, dtype=np.uint8)
    meta = {
        "name": "made",
        "n_classes": n_classes,
        "class_names": [f"class {label}" for label in range(n_classes)],
        "group_names": names,
        "checksum": f"{len(labels)}",
    }
    empty = np.empty(0)
    return PreparedDataset("made", empty, labels, empty, empty, groups, meta)


def with_counts(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    return dataset(np.random.default_rng(seed).permutation(labels), len(counts))


def check(parts, data):
    """What holds for every partition."""
    joined = np.concatenate(parts.indices)
    assert len(np.unique(joined)) == len(joined)
    assert joined.min() >= 0
    assert joined.max() < len(data.train_y)
    for part, counts in zip(parts.indices, parts.class_counts, strict=True):
        assert len(part) > 0
        assert [(data.train_y[part] == c).sum() for c in range(data.n_classes)] == counts.tolist()


SCHEMES = [
    {"name": "label_shards", "shard_size": 40, "shards_per_client": 2},
    {"name": "dirichlet", "concentration": 0.9},
    {"name": "iid"},
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme["name"])
@given(seed=st.integers(0, 2**32), n_clients=st.integers(8, 12), uneven=st.integers(0, 60))
@settings(max_examples=25, deadline=None)
def test_every_sample_at_most_once(scheme, seed, n_clients, uneven):
    data = with_counts([100 + uneven, 100, 120, 100, 90, 100, 110, 100, 100, 100 - uneven])
    parts = partition.make(data, scheme, n_clients, seed)
    assert len(parts.indices) == n_clients
    check(parts, data)
    if scheme["name"] == "dirichlet":
        assert sum(map(len, parts.indices)) == len(data.train_y)
    if scheme["name"] == "label_shards":
        assert {len(part) for part in parts.indices} == {80}
    if scheme["name"] == "iid":
        assert {len(part) for part in parts.indices} == {len(data.train_y) // n_clients}


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme["name"])
def test_seed_decides(scheme):
    data = with_counts([100] * 10)
    first, same, other = (partition.make(data, scheme, 10, seed) for seed in (3, 3, 4))
    assert all(map(np.array_equal, first.indices, same.indices))
    assert not all(map(np.array_equal, first.indices, other.indices))


@pytest.mark.parametrize("seed", range(5))
def test_the_papers_mnist_shards(seed):
    """100 participants with 600 images each, the whole of MNIST, two digits but at borders."""
    data = with_counts(MNIST_COUNTS)
    parts = partition.make(data, {"name": "label_shards"}, 100, seed)
    check(parts, data)
    assert {len(part) for part in parts.indices} == {600}
    n_digits = (parts.class_counts > 0).sum(axis=1)
    # Nine of the 200 shards lie across a border between two digits.
    assert (n_digits == 2).sum() >= 91
    assert n_digits.max() <= 4
    # Shards of distinct digits: no digit comes from both shards, so none exceeds one shard.
    assert parts.class_counts.max() == 300
    # Enough participants hold digit 1 for ten attackers.
    assert (parts.class_counts[:, 1] == 300).sum() >= 20


def test_samples_are_in_the_order_dealt():
    """Shards one after another; elsewhere classes are mixed, so that a first part has them all."""
    data = with_counts([400, 400, 400])
    for part in partition.make(data, {"name": "label_shards", "shard_size": 30}, 12, 1).indices:
        first, second = np.split(data.train_y[part], 2)
        # Sorted by label within a shard, and of distinct classes.
        assert (np.diff(first.astype(int)) >= 0).all()
        assert (np.diff(second.astype(int)) >= 0).all()
        assert not set(first) & set(second)
    for part in partition.make(data, {"name": "dirichlet"}, 4, 1).indices:
        assert (np.diff(part) > 0).all()


def test_a_changed_file_is_refused(tmp_path):
    path = tmp_path / "parts.npz"
    data = with_counts([100] * 10)
    partition.make(data, {"name": "iid"}, 10, 1).save(path)
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["indices"][[0, 1]] = arrays["indices"][[1, 0]]
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="does not match its own digest"):
        partition.load(path)


def test_a_partition_of_something_else_is_refused():
    data = with_counts([100] * 10)
    parts = partition.make(data, {"name": "dirichlet", "concentration": 0.9}, 10, 1)
    scheme = {"name": "dirichlet", "concentration": 0.9}
    partition.check_made_for(parts, "parts.npz", scheme, 10, 1)
    for asked, key in (
        ((scheme, 10, 2), "seed"),
        ((scheme, 9, 1), "n_clients"),
        ((scheme | {"concentration": 0.5}, 10, 1), "concentration"),
    ):
        with pytest.raises(UserError, match=rf"parts\.npz is a partition with {key}"):
            partition.check_made_for(parts, "parts.npz", *asked)
    other = partition.make(data, {"name": "dirichlet", "concentration": 0.5}, 10, 1)
    with pytest.raises(UserError, match="concentration"):
        partition.check_made_for(other, "parts.npz", {"name": "dirichlet"}, 10, 1)


def test_shards_are_dealt_at_random():
    """Pairs of digits are about equally frequent: chi-square over many seeds."""
    data = with_counts([40] * 5)
    pairs = np.zeros((5, 5))
    for seed in range(300):
        parts = partition.make(data, {"name": "label_shards", "shard_size": 20}, 5, seed)
        for counts in parts.class_counts:
            first, second = np.flatnonzero(counts)
            pairs[first, second] += 1
    observed = pairs[np.triu_indices(5, k=1)]
    assert observed.sum() == 1500
    assert stats.chisquare(observed).pvalue > 1e-3


def test_three_shards_each():
    data = with_counts([60] * 6)
    scheme = {"name": "label_shards", "shard_size": 10, "shards_per_client": 3}
    parts = partition.make(data, scheme, 12, 0)
    assert ((parts.class_counts > 0).sum(axis=1) == 3).all()


def test_dirichlet_shares_follow_the_distribution():
    """Each client's share of a class is Beta(a, (K - 1) a): Kolmogorov-Smirnov over many seeds."""
    n_clients, concentration, size = 10, 0.9, 5000
    data = with_counts([size] * 2)
    scheme = {"name": "dirichlet", "concentration": concentration}
    # One client and class per seed, as shares of one draw depend on one another.
    shares = [
        partition.make(data, scheme, n_clients, seed).class_counts[seed % n_clients, seed % 2]
        / size
        for seed in range(400)
    ]
    expected = stats.beta(concentration, (n_clients - 1) * concentration)
    assert stats.kstest(shares, expected.cdf).pvalue > 1e-3
    # And the test can tell: the neighbouring concentration is refused.
    assert stats.kstest(shares, stats.beta(0.5, 4.5).cdf).pvalue < 1e-3


def test_dirichlet_classes_are_drawn_apart():
    data = with_counts([2000] * 2)
    counts = [
        partition.make(data, {"name": "dirichlet"}, 5, seed).class_counts[0] for seed in range(300)
    ]
    assert abs(stats.pearsonr(*np.array(counts).T).statistic) < 0.2


def test_iid_classes_are_mixed():
    data = with_counts([1000] * 10)
    parts = partition.make(data, {"name": "iid"}, 10, 0)
    assert stats.chi2_contingency(parts.class_counts).pvalue > 1e-3


def test_groups_are_the_clients():
    labels = [0, 1, 0, 1, 1, 0]
    groups = np.array([2, 0, 2, 1, 0, 2], dtype=np.uint8)
    data = dataset(labels, 2, groups, ["AK", "CA", "NY"])
    parts = partition.make(data, {"name": "groups"}, None, 1)
    assert [part.tolist() for part in parts.indices] == [[1, 4], [3], [0, 2, 5]]
    assert parts.class_counts.tolist() == [[0, 2], [0, 1], [3, 0]]
    assert parts.description["n_clients"] == 3


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme["name"])
def test_file_round_trip(tmp_path, scheme):
    data = with_counts([100] * 10)
    parts = partition.make(data, scheme, 9, 1)
    parts.save(tmp_path / "parts.npz")
    again = partition.load(tmp_path / "parts.npz", data)
    assert all(map(np.array_equal, parts.indices, again.indices))
    assert np.array_equal(parts.class_counts, again.class_counts)
    assert again.description == parts.description
    assert again.description["name"] == scheme["name"]
    with np.load(tmp_path / "parts.npz") as stored:
        assert stored["offsets"].tolist() == np.cumsum([0, *map(len, parts.indices)]).tolist()
        assert json.loads(str(stored["scheme"])) == parts.description


def test_equal_partitions_are_equal_files(tmp_path):
    data = with_counts([100] * 10)
    for name in ("a.npz", "b.npz"):
        partition.make(data, SCHEMES[0], 10, 1).save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_partition_of_other_data(tmp_path):
    partition.make(with_counts([100] * 10), {"name": "iid"}, 10, 1).save(tmp_path / "parts.npz")
    with pytest.raises(UserError, match="was made from other data"):
        partition.load(tmp_path / "parts.npz", with_counts([101] * 10))


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 cut"])
def test_missing_or_broken_file(tmp_path, content):
    if content is not None:
        (tmp_path / "parts.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"does not exist|is not a partition"):
        partition.load(tmp_path / "parts.npz")


def test_full_disk(tmp_path, monkeypatch):
    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(partition.np, "savez_compressed", full)
    with pytest.raises(UserError, match="the disk is full"):
        partition.make(with_counts([10] * 2), {"name": "iid"}, 2, 1).save(tmp_path / "parts.npz")
    assert list(tmp_path.iterdir()) == []


STATES = dataset([0, 1], 2, np.array([0, 0], dtype=np.uint8), ["CA", "NY"])
TEN = with_counts([10] * 10)


@pytest.mark.parametrize(
    ("data", "scheme", "n_clients", "message"),
    [
        (TEN, {"name": "shards"}, 2, "unknown partition scheme 'shards'; known: dirichlet, groups"),
        (TEN, {}, 2, "unknown partition scheme None"),
        (TEN, {"name": "iid", "size": 3}, 2, "iid has no option 'size'; its options: none"),
        (TEN, {"name": "dirichlet", "concentration": 0}, 2, "concentration must be above 0, not 0"),
        (TEN, {"name": "label_shards", "shard_size": "3"}, 2, "shard_size must be above 0"),
        (TEN, {"name": "label_shards", "shard_size": 2.5}, 2, "shard_size must be a whole number"),
        (TEN, {"name": "iid"}, 0, "at least one participant"),
        (TEN, {"name": "iid"}, None, "needs the number of participants"),
        (TEN, {"name": "iid"}, 101, "100 training samples, too few for 101 clients"),
        (TEN, {"name": "label_shards"}, 2, "too few for 2 clients x 2 shards of 300"),
        (
            with_counts([90, 5, 5]),
            {"name": "label_shards", "shard_size": 10},
            5,
            "class 'class 0' fills 9 shards, more than the 5 clients",
        ),
        (with_counts([2, 2]), {"name": "dirichlet"}, 9, "leaves one of 9 clients without samples"),
        (TEN, {"name": "groups"}, None, "knows no groups; choose another partition scheme"),
        (STATES, {"name": "groups"}, 3, "has 2 groups and .* not 3; leave n_clients out or set it"),
        (STATES, {"name": "groups"}, 2, "no training samples in group NY"),
    ],
)
def test_what_cannot_be_divided(data, scheme, n_clients, message):
    with pytest.raises(UserError, match=message):
        partition.make(data, scheme, n_clients, 1)


@pytest.mark.parametrize(
    ("dealt", "message"),
    [
        (None, "one index array per client, not NoneType"),
        ([[0, 1], [1]], "deals a sample twice"),
        ([[0], [100]], "deals sample 100, but the samples are 0 to 99"),
        ([[0], [-1]], "deals sample -1"),
        ([[0], [0.5]], r"whole numbers of shape \(n,\) for client 1, not float64"),
        ([[0], [[1, 2]]], r"for client 1, not int64 of shape \(1, 2\)"),
    ],
)
def test_what_a_scheme_must_not_deal(monkeypatch, dealt, message):
    monkeypatch.setattr(registry, "get", lambda folder, name: lambda *a: dealt)
    monkeypatch.setattr(registry, "check_options", lambda *a: None)
    with pytest.raises(UserError, match=f"partition iid .*{message}.*correct the scheme"):
        partition.make(TEN, {"name": "iid"}, 2, 1)


def test_search_for_distinct_shards_ends(monkeypatch):
    monkeypatch.setattr(label_shards_file, "_SWAP_ATTEMPTS", 1)
    scheme = {"name": "label_shards", "shard_size": 10}
    with pytest.raises(UserError, match="found no way to give 30 clients 2 shards"):
        partition.make(with_counts([200] * 3), scheme, 30, 0)


@pytest.mark.parametrize("seed", range(10))
def test_tightest_shards_are_dealt(seed):
    """Two classes: each client must get one shard of each, the hardest case there is."""
    scheme = {"name": "label_shards", "shard_size": 10}
    parts = partition.make(with_counts([400, 400]), scheme, 40, seed)
    assert (parts.class_counts == 10).all()


@pytest.mark.parametrize(("n_clients", "n_classes"), [(10, 10), (51, 9), (100, 10), (2, 2)])
def test_picture(tmp_path, n_clients, n_classes):
    data = with_counts([2000] * n_classes)
    parts = partition.make(data, {"name": "dirichlet"}, n_clients, 1)
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        path = tmp_path / f"parts{suffix}"
        partition_picture.draw(parts.class_counts, parts.description, data.class_names, path)
        first = path.read_bytes()
        assert first.startswith(start)
        partition_picture.draw(parts.class_counts, parts.description, data.class_names, path)
        assert path.read_bytes() == first


def test_picture_shows_the_counts(tmp_path):
    from matplotlib import pyplot

    data = with_counts(MNIST_COUNTS)
    parts = partition.make(data, {"name": "label_shards"}, 100, 1)
    seen = []
    close = pyplot.close
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyplot, "close", lambda figure: (seen.append(figure), close(figure)))
        partition_picture.draw(
            parts.class_counts, parts.description, data.class_names, tmp_path / "parts.png"
        )
    axes = seen[0].axes[0]
    drawn = axes.collections[0].get_array().filled(0).reshape(10, 100)
    assert np.array_equal(drawn, parts.class_counts.T)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == data.class_names
