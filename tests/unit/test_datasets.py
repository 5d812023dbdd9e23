"""Preparation and loading of each dataset, on small files made for the test and on real ones."""

import csv
import errno
import gzip
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import real_files

from arfl import dataset as datasets
from arfl import partition, registry
from arfl.datasets import _loan_table, amazon
from arfl.errors import UserError
from arfl.files import read_json

STATUSES = _loan_table.STATUSES


@pytest.fixture(autouse=True)
def own_mirror_only(monkeypatch):
    monkeypatch.delenv("ARFL_DATA_MIRROR", raising=False)


def prepared(tmp_path, name, files, **options):
    """Fetch ``files`` (name -> bytes) of a dataset without known checksums, and prepare them."""
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    for file, content in files.items():
        (raw / file).write_bytes(content)
    sources = tmp_path / "sources.csv"
    header = "dataset,file,accepts,member_of,url,checksum,rows,kind,note\n"
    complete = {"amazon": 982619, "loan": 2260668}.get(name, "")
    rows = [f"{name},{file},,,manual,,{complete},complete,everything\n" for file in files]
    sources.write_text(header + "".join(rows))
    datasets.fetch(name, raw, sources)
    return datasets.prepare(name, raw, tmp_path / "prepared", **options)


# The registry and the prepared form


def test_every_dataset_has_its_module_and_its_sources():
    assert set(registry.names("datasets")) == {
        *("mnist", "cifar10", "amazon", "loan"),
        *("digits", "synthetic_reviews", "synthetic_loans"),
    }
    with open(real_files.SOURCES, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["dataset"] for row in rows} == {"mnist", "cifar10", "amazon", "loan"}
    assert {row["kind"] for row in rows} <= set(datasets.KINDS)
    assert all(row["licence"] and row["citation"] for row in rows)
    assert all(re.fullmatch(r"|md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", r["checksum"]) for r in rows)


def test_unknown_names_and_options(tmp_path):
    with pytest.raises(UserError, match="unknown dataset 'minst'; known: amazon, cifar10"):
        datasets.prepare("minst", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="digits has no option 'sede'; its options: seed"):
        datasets.prepare("digits", tmp_path, tmp_path / "out", sede=1)
    assert not (tmp_path / "out").exists()


def test_loading_needs_neither_torch_nor_pandas():
    heavy = ("torch", "torchvision", "pandas", "sklearn", "scipy", "matplotlib")
    code = "import sys, arfl.dataset, arfl.partition; "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return datasets.prepare("digits", "unused", tmp_path_factory.mktemp("digits") / "digits")


def test_same_seed_same_data(tmp_path, digits):
    again = datasets.prepare("digits", "unused", tmp_path / "digits")
    other = datasets.prepare("digits", "unused", tmp_path / "other", seed=1)
    assert again.checksum == digits.checksum != other.checksum


def test_arrays_are_mapped_not_read(digits):
    assert isinstance(digits.train_x, np.memmap)
    assert not digits.train_x.flags.writeable


def broken(tmp_path, damage):
    folder = tmp_path / "digits"
    datasets.prepare("digits", "unused", folder)
    damage(folder)
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train_x.npy").unlink(), "not a whole prepared dataset"),
        (lambda folder: os.truncate(folder / "train_x.npy", 5000), "not a whole prepared dataset"),
        (lambda folder: (folder / "meta.json").write_text("[]"), "not a whole prepared dataset"),
        (lambda folder: (folder / "meta.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "meta.json").unlink(), "meta.json does not exist"),
        (lambda folder: np.save(folder / "test_y.npy", np.zeros(3)), "is not the array of meta"),
    ],
)
def test_damaged_folder(tmp_path, damage, message):
    with pytest.raises(UserError, match=message):
        datasets.load(broken(tmp_path, damage))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "generated"}, "kind is 'generated', not one of complete, sample"),
        ({"train_y": [0, 1, 2, 0, 1, 2]}, "train_x and train_y must be NumPy arrays"),
        ({"train_x": np.zeros((6, 2))}, "train_x is float64, not uint8"),
        ({"test_x": np.full((6, 2), np.nan, np.float32)}, "test_x holds a NaN"),
        ({"train_y": np.zeros(5, np.uint8)}, r"train_y has the shape \(5,\) for 6 samples"),
        ({"train_y": np.zeros((6, 1), np.uint8)}, r"train_y has the shape \(6, 1\)"),
        ({"test_y": np.zeros(6)}, "test_y is float64, not whole numbers"),
        ({"test_y": np.arange(6)}, "test_y goes from 0 to 5, but class_names has 3"),
        ({"train_y": np.arange(-1, 5)}, "train_y goes from -1 to 4"),
    ],
)
def test_what_a_dataset_must_not_hand_over(tmp_path, change, message):
    x, y = np.zeros((6, 2), np.float32), np.arange(6, dtype=np.uint8) % 3
    right = datasets.Preparation(x, y, x, y, "synthetic", "made for a test", ["a", "b", "c"])
    datasets.write("made", right, tmp_path / "right")
    with pytest.raises(UserError, match=f"dataset made: {message}"):
        datasets.write("made", replace(right, **change), tmp_path / "wrong")
    with pytest.raises(UserError, match="must return a Preparation, not dict"):
        datasets.write("made", {}, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_changed_values_are_found_on_demand(tmp_path):
    def flip(folder):
        with open(folder / "train_x.npy", "r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            stream.write(b"\x07")

    folder = broken(tmp_path, flip)
    datasets.load(folder)
    with pytest.raises(UserError, match=r"do not match their checksum; delete .* prepare"):
        datasets.load(folder, verify=True)


def test_full_disk_leaves_the_old_data_alone(tmp_path, monkeypatch):
    old = datasets.prepare("digits", "unused", tmp_path / "digits").checksum

    def full(stream, described):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets.np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(UserError, match="the disk is full"):
        datasets.prepare("digits", "unused", tmp_path / "digits", seed=1)
    assert datasets.load(tmp_path / "digits", verify=True).checksum == old
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_split_is_stratified_and_keeps_one_to_train_on():
    strata = np.array([0] * 100 + [1] * 1 + [2] * 9)
    train, test = datasets.stratified_split(strata, np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(110))
    assert Counter(strata[test].tolist()) == {0: 20, 2: 1}


# Images


def test_digits_are_the_enlarged_originals(digits):
    from sklearn.datasets import load_digits

    images = np.concatenate([digits.train_x, digits.test_x])[:, 0]
    assert images.shape == (1797, 28, 28)
    labels = np.concatenate([digits.train_y, digits.test_y])
    source = load_digits()
    assert np.array_equal(np.bincount(labels), np.bincount(source.target))
    # Enlarging keeps the mean brightness, so the sorted means of both sets must agree.
    ours = np.sort(images.mean(axis=(1, 2)) * 16 / 255)
    assert np.allclose(ours, np.sort(source.images.mean(axis=(1, 2))), atol=0.15)
    mean = digits.meta["normalisation"]["mean"][0]
    assert mean == pytest.approx(digits.train_x[:].mean() / 255, abs=1e-4)


def idx(array):
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(head + array.tobytes())


def mnist_files(n_train=20, n_test=10):
    random = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte.gz": random.integers(0, 256, (n_train, 28, 28), np.uint8),
        "train-labels-idx1-ubyte.gz": random.integers(0, 10, n_train, np.uint8),
        "t10k-images-idx3-ubyte.gz": random.integers(0, 256, (n_test, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte.gz": random.integers(0, 10, n_test, np.uint8),
    }
    return arrays, {name: idx(array) for name, array in arrays.items()}


def test_mnist_round_trip(tmp_path):
    arrays, files = mnist_files()
    dataset = prepared(tmp_path, "mnist", files)
    assert np.array_equal(dataset.train_x[:, 0], arrays["train-images-idx3-ubyte.gz"])
    assert np.array_equal(dataset.test_y, arrays["t10k-labels-idx1-ubyte.gz"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda whole: whole[:-20], "cannot read .*fetch mnist again"),
        (lambda whole: gzip.compress(gzip.decompress(whole)[:-1]), "is not an IDX file"),
        (lambda whole: gzip.compress(b"\0\0\x0d\1" + bytes(8)), "is not an IDX file"),
        (lambda whole: gzip.compress(b""), "is not an IDX file"),
        (lambda whole: gzip.compress(bytes((0, 0, 8, 0, 1))), "is not an IDX file"),
        (lambda whole: whole[:12] + bytes(8) + whole[20:], "cannot read .*fetch mnist again"),
    ],
)
def test_mnist_bad_file(tmp_path, spoil, message):
    _, files = mnist_files()
    files["train-labels-idx1-ubyte.gz"] = spoil(files["train-labels-idx1-ubyte.gz"])
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, "mnist", files)
    assert not (tmp_path / "prepared").exists()


def test_cifar10_round_trip(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 4, 3, 32, 32), np.uint8)
    labels = random.integers(0, 10, (6, 4))
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {
        name: pickle.dumps({"data": images[i].reshape(4, 3072), "labels": labels[i].tolist()})
        for i, name in enumerate(names)
    }
    dataset = prepared(tmp_path, "cifar10", files)
    assert np.array_equal(dataset.train_x, images[:5].reshape(20, 3, 32, 32))
    assert np.array_equal(dataset.test_x, images[5])
    assert np.array_equal(dataset.train_y, labels[:5].ravel())
    assert dataset.class_names[3] == "cat"


# Reviews


def lines(*reviews):
    return "".join(json.dumps(review) + "\n" for review in reviews).encode()


def review(text, stars):
    return {"reviewText": text, "overall": stars, "asin": "x"}


def many_reviews(n_good=40, n_bad=20):
    good = [review(f"good book number{i}", 5 if i % 2 else 4.0) for i in range(n_good)]
    bad = [review(f"bad book number{i}", 1 if i % 2 else 2.0) for i in range(n_bad)]
    return [*good, *bad, review("so so", 3)]


def words(dataset, part):
    vocabulary = (dataset.folder / "vocabulary.txt").read_text().splitlines()
    return [[vocabulary[i] for i in row[row >= 0]] for row in np.asarray(part)]


def test_tokeniser():
    assert amazon.tokenise("Don't BUY: it's 5x-worse, naïve ...") == [
        *("don't", "buy", "it's", "5x", "worse", "naïve")
    ]


def test_amazon_balances_splits_and_labels(tmp_path):
    dataset = prepared(tmp_path, "amazon", {"reviews.jsonl": lines(*many_reviews())})
    assert np.bincount(dataset.train_y).tolist() == [16, 16]
    assert np.bincount(dataset.test_y).tolist() == [4, 4]
    for part, labels in ((dataset.train_x, dataset.train_y), (dataset.test_x, dataset.test_y)):
        for text, label in zip(words(dataset, part), labels, strict=True):
            assert text[0] == ("good" if label else "bad")
    assert dataset.meta["kind"] == "sample"
    assert "61 reviews unknown to this project" in dataset.meta["note"]
    assert "balanced, split 80/20" in dataset.meta["note"]
    assert dataset.meta["details"]["reviews"]["three_stars"] == 1


def test_amazon_uses_the_papers_sizes_where_it_can(tmp_path, monkeypatch):
    monkeypatch.setattr(amazon, "_PAPER_TRAIN", 20)
    monkeypatch.setattr(amazon, "_PAPER_TEST", 6)
    dataset = prepared(tmp_path, "amazon", {"reviews.jsonl": lines(*many_reviews())})
    assert np.bincount(dataset.train_y).tolist() == [10, 10]
    assert np.bincount(dataset.test_y).tolist() == [3, 3]
    assert "the paper's sizes" in dataset.meta["note"]
    texts = [tuple(text) for text in words(dataset, dataset.train_x)]
    assert len(set(texts)) == 20


def test_amazon_without_balance_keeps_the_files_proportions(tmp_path, monkeypatch):
    content = {"reviews.jsonl": lines(*many_reviews())}
    dataset = prepared(tmp_path, "amazon", content, balance=False)
    assert np.bincount(dataset.train_y).tolist() == [16, 32]
    assert np.bincount(dataset.test_y).tolist() == [4, 8]
    assert "not balanced, split 80/20" in dataset.meta["note"]
    monkeypatch.setattr(amazon, "_PAPER_TRAIN", 20)
    monkeypatch.setattr(amazon, "_PAPER_TEST", 10)
    shares = []
    for seed in range(30):
        dataset = prepared(tmp_path, "amazon", content, balance=False, seed=seed)
        assert len(dataset.train_y) + len(dataset.test_y) == 30
        shares.append(np.concatenate([dataset.train_y, dataset.test_y]).mean())
    # 30 of 60 reviews, two thirds of which are positive; standard error of a mean of 30: 0.011.
    assert abs(np.mean(shares) - 2 / 3) < 0.05


def test_amazon_sample_is_uniform(tmp_path):
    path = tmp_path / "reviews.jsonl"
    path.write_bytes(lines(*(review(f"w{i}", 5) for i in range(12)), review("bad", 1)))
    drawn = Counter()
    for seed in range(600):
        kept, _ = amazon._sample(path, 3, True, np.random.default_rng(seed))
        drawn.update(kept[1])
    from scipy.stats import chisquare

    assert len(drawn) == 12
    assert chisquare(list(drawn.values())).pvalue > 1e-3


def test_amazon_vocabulary_is_of_the_training_part_only(tmp_path):
    dataset = prepared(tmp_path, "amazon", {"reviews.jsonl": lines(*many_reviews())})
    vocabulary = (dataset.folder / "vocabulary.txt").read_text().splitlines()
    assert vocabulary[:2] == ["<unknown>", "book"]
    assert dataset.meta["vocabulary_size"] == len(vocabulary)
    numbers = {
        word for text in words(dataset, dataset.train_x) for word in text if "number" in word
    }
    assert {word for word in vocabulary if "number" in word} == numbers
    assert len(numbers) < len(dataset.train_x) + len(dataset.test_x)
    # Every test review has a number of its own unless another class's training review shares it.
    assert (dataset.test_x[:, 2] == 0).any()


def test_amazon_vocabulary_size_truncation_and_entities(tmp_path):
    texts = [
        *many_reviews(10, 10),
        *[review("a &quot;b&quot; c d e", 1 + 4 * (i % 2)) for i in range(9)],
    ]
    dataset = prepared(
        tmp_path, "amazon", {"reviews.jsonl": lines(*texts)}, max_tokens=2, vocabulary_size=4
    )
    assert dataset.train_x.shape[1] == 2
    assert dataset.meta["vocabulary_size"] == 4
    assert dataset.train_x.dtype == np.int16
    assert dataset.train_x[:].max() <= 3
    assert "quot" not in (dataset.folder / "vocabulary.txt").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(review("good", 5)) + b'{"reviewText": "cut o', r"line 2 is not JSON"),
        (lines(review("good", 5)) + b"[1, 2]\n", r"line 2 is not a JSON object"),
        (lines(review("good", 5)) + b'{"reviewText": "caf\xe9"}\n', r"is not UTF-8"),
        (lines(review("good", 5)) + b"[" * 100_000, r"line 2 cannot be read \(maximum recursion"),
        (
            lines(review("good", 5)) + b'{"overall": ' + b"9" * 5_000 + b"}",
            r"line 2 cannot be read",
        ),
        (lines({"text": "good", "overall": 5}), r'no line has a "reviewText" and an "overall"'),
        (lines(review("good", 5), review("fine", 4)), r"0 negative and 2 positive"),
        (b"", r"0 negative and 0 positive"),
    ],
)
def test_amazon_bad_file(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, "amazon", {"reviews.jsonl": content})
    assert not (tmp_path / "prepared").exists()


def test_amazon_odd_lines_are_counted_and_dropped(tmp_path):
    odd = [review(None, 5), review("x", "many"), review("x", 4.5), review("?!", 5), {"overall": 1}]
    content = lines(*many_reviews(), *odd, review("good book", "5.0")) + b"\n"
    counts = prepared(tmp_path, "amazon", {"reviews.jsonl": content}).meta["details"]["reviews"]
    assert counts == {
        "reviews": 67,
        "negative": 20,
        "positive": 41,
        "three_stars": 1,
        "without_words": 1,
        "without_rating_or_text": 4,
    }


# Loans


def test_loan_columns():
    roles = Counter(_loan_table.column_roles().values())
    assert roles == {"number": 79, "category": 12, "dropped": 52, "label": 1, "participant": 1}
    assert set(_loan_table.TRIGGER_COLUMNS) <= set(_loan_table.input_columns())


def loans(n=60, seed=0):
    """Rows of a small table in the raw form, as mappings from column to text."""
    random = np.random.default_rng(seed)
    roles = _loan_table.column_roles()
    rows = []
    for i in range(n):
        row = dict.fromkeys(roles, "")
        for column, role in roles.items():
            if role == "number":
                row[column] = str(random.integers(0, 9))
            elif role == "category":
                row[column] = random.choice(["north", "south"])
        row["loan_amnt"] = str(random.integers(2_000, 20_000))
        row["loan_status"] = STATUSES[i % 9]
        row["addr_state"] = ("CA", "NY", "TX")[i % 3]
        row["desc"] = 'a "quoted", two-line\ndescription'
        rows.append(row)
    return rows


def as_csv(tmp_path, rows, columns=None):
    path = tmp_path / "made.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns or rows[0], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    content = path.read_bytes()
    path.unlink()
    return {"loan.csv": content}


def test_loan_round_trip(tmp_path):
    rows = loans()
    rows[3]["num_tl_120dpd_2m"] = "7"
    rows[5]["term"], rows[5]["dti"] = "", ""
    dataset = prepared(tmp_path, "loan", as_csv(tmp_path, rows))
    schema = read_json(dataset.folder / "schema.json")
    by_name = {entry["column"]: entry for entry in schema["inputs"]}
    assert dataset.train_x.shape == (48, 91)
    assert dataset.group_names == ["CA", "NY", "TX"]
    assert dataset.class_names == list(STATUSES)
    assert dataset.meta["kind"] == "sample"
    assert by_name["term"]["codes"] == ["(missing)", "north", "south"]
    assert by_name["loan_amnt"]["divided_by"] == 10_000
    assert by_name["installment"]["divided_by"] == 1
    # Undo scale and codes of every row and look for it among the rows that went in.
    scale = np.array([entry["divided_by"] for entry in schema["inputs"]])
    raw = np.concatenate([dataset.train_x, dataset.test_x]) * scale
    labels = np.concatenate([dataset.train_y, dataset.test_y])
    expected = set()
    for row in rows:
        values = [
            by_name[column]["codes"].index(row[column] or "(missing)")
            if "codes" in by_name[column]
            else float(row[column] or 0)
            for column in by_name
        ]
        expected.add((*values, row["loan_status"]))
    found = {
        (*np.rint(values).tolist(), STATUSES[label])
        for values, label in zip(raw, labels, strict=True)
    }
    assert found == expected


def test_loan_trigger_is_above_every_value(tmp_path):
    rows = loans()
    for i, row in enumerate(rows):
        row["pub_rec"] = str(400 + i)
    dataset = prepared(tmp_path, "loan", as_csv(tmp_path, rows))
    trigger = dataset.meta["trigger"]
    columns = _loan_table.input_columns()
    assert [columns[index] for index in trigger["columns"]] == list(_loan_table.TRIGGER_COLUMNS)
    everything = np.concatenate([dataset.train_x, dataset.test_x])
    assert (np.array(trigger["values"]) > everything[:, trigger["columns"]].max(axis=0)).all()
    assert trigger["values"][3] == pytest.approx((459 + 1) / 100)


@pytest.mark.parametrize(
    ("mean", "divisor"), [(0, 1), (10, 1), (11, 10), (100, 10), (101, 100), (1001, 10_000)]
)
def test_loan_divisors(mean, divisor):
    assert _loan_table._divisor(mean) == divisor


def test_loan_pieces_give_the_same_table(tmp_path, monkeypatch):
    from arfl.datasets import loan

    files = as_csv(tmp_path, loans())
    whole = prepared(tmp_path, "loan", files).checksum
    monkeypatch.setattr(loan, "_ROWS_AT_ONCE", 7)
    assert prepared(tmp_path, "loan", files).checksum == whole


def test_loan_states_are_the_participants(tmp_path):
    dataset = prepared(tmp_path, "loan", as_csv(tmp_path, loans()))
    parts = partition.make(dataset, {"name": "groups"}, None, 1)
    assert [len(part) for part in parts.indices] == [16, 16, 16]
    # Row i has status i % 9 and state i % 3, so a state holds three statuses.
    assert (parts.class_counts > 0).sum(axis=1).tolist() == [3, 3, 3]
    assert parts.description["client_names"] == ["CA", "NY", "TX"]


def test_loan_rows_that_cannot_be_used_are_counted(tmp_path):
    rows = loans()
    rows[0]["loan_status"] = rows[1]["loan_status"] = "Issued"
    rows[2]["loan_status"] = ""
    rows[3]["addr_state"] = ""
    rows[4]["addr_state"] = "  "
    dataset = prepared(tmp_path, "loan", as_csv(tmp_path, rows))
    assert dataset.meta["details"]["dropped_rows"] == {
        "no status": 1,
        "status 'Issued'": 2,
        "no state": 2,
    }
    assert dataset.meta["n_train"] + dataset.meta["n_test"] == 55


def test_loan_other_cuts(tmp_path):
    """Percent signs, more columns, other order of columns, a footer without values."""
    rows = loans()
    plain = prepared(tmp_path, "loan", as_csv(tmp_path, rows)).train_x[:]
    for row in rows:
        row["int_rate"] = f" {row['int_rate']}.0%"
        row["fico_range_low"] = "700"
    footer = dict.fromkeys(rows[0], "") | {"id": "Total amount funded: 1"}
    files = as_csv(tmp_path, [*rows, footer], list(reversed(rows[0])))
    dataset = prepared(tmp_path, "loan", files)
    assert np.array_equal(dataset.train_x, plain)
    assert dataset.meta["details"]["dropped_rows"] == {"no status": 1, "no state": 0}


def without(column):
    return [name for name in _loan_table.column_roles() if name != column]


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        ({}, without("tax_liens"), "lacks the column tax_liens; docs/data.md"),
        ({}, without("addr_state"), "lacks the column addr_state"),
        ({"dti": "high"}, None, "loan 2: dti is 'high', not a number"),
        ({"dti": "inf"}, None, "dti is infinite"),
    ],
)
def test_loan_bad_table(tmp_path, change, columns, message):
    rows = loans()
    rows[1] |= change
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, "loan", as_csv(tmp_path, rows, columns))
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content.replace(b"north", b"n\xf6rth", 1), "is not UTF-8 text"),
        (lambda content: content[: content.rindex(b'"')], "not a whole CSV table"),
        (lambda content: b"", "not a whole CSV table"),
        (lambda content: content[: content.index(b"\n") + 1], "no loan with a known status"),
        (lambda content: b"not,a,loan\n1,2,3\n", "lacks the columns loan_amnt, funded_amnt"),
    ],
)
def test_loan_bad_file(tmp_path, spoil, message):
    files = {name: spoil(content) for name, content in as_csv(tmp_path, loans()).items()}
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, "loan", files)
    assert not (tmp_path / "prepared").exists()


def test_loans_that_a_stray_quote_swallows_are_noticed(tmp_path):
    rows = loans()
    for row in rows:
        row["desc"] = ""
    # Opened in one loan's title and closed in that of the eleventh after it: ten are lost.
    rows[5]["title"], rows[16]["title"] = "@open", "@close"
    files = as_csv(tmp_path, rows)
    files = {
        name: content.replace(b"@open", b'"open').replace(b"@close", b'"close')
        for name, content in files.items()
    }
    with pytest.raises(UserError, match="60 lines with all columns, but reads as 49 loans"):
        prepared(tmp_path, "loan", files)


# Generated stand-ins: an independent classifier must find what the docstrings promise, and no more.


def test_synthetic_reviews_are_learnable_but_not_trivial(tmp_path):
    from sklearn.naive_bayes import MultinomialNB

    dataset = datasets.prepare("synthetic_reviews", "unused", tmp_path / "reviews")

    def bag(part):
        return np.stack(
            [np.bincount(row[row >= 0], minlength=dataset.meta["vocabulary_size"]) for row in part]
        )

    model = MultinomialNB().fit(bag(dataset.train_x), dataset.train_y)
    assert 0.72 < model.score(bag(dataset.test_x), dataset.test_y) < 0.92
    lengths = (dataset.train_x[:] >= 0).sum(axis=1)
    assert (lengths.min(), lengths.max()) == (20, 60)
    assert dataset.meta["kind"] == "synthetic"


def test_synthetic_loans_are_learnable_but_not_trivial(tmp_path):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    dataset = datasets.prepare("synthetic_loans", "unused", tmp_path / "loans")
    train, test = np.log1p(dataset.train_x), np.log1p(dataset.test_x)
    accuracy = LinearDiscriminantAnalysis().fit(train, dataset.train_y).score(test, dataset.test_y)
    majority = np.bincount(dataset.test_y).max() / len(dataset.test_y)
    assert 0.4 < majority < 0.6
    assert majority + 0.1 < accuracy < 0.95
    assert dataset.n_classes == len(np.unique(dataset.train_y)) == 9
    assert dataset.train_x.shape[1] == 91
    parts = partition.make(dataset, {"name": "groups"}, 20, 1)
    from scipy.stats import chi2_contingency

    # The states' mixes differ by more than chance: the participants are not IID.
    assert chi2_contingency(parts.class_counts[:, parts.class_counts.sum(axis=0) > 0]).pvalue < 1e-6


# Real files


@real_files.needs_mirror
@pytest.mark.parametrize("name", ["mnist", "cifar10", "amazon", "loan"])
def test_real_files_from_the_mirror(tmp_path, name):
    dataset = real_files.prepare(name, tmp_path)
    sizes = dataset.meta["n_train"], dataset.meta["n_test"]
    if name in ("mnist", "cifar10"):
        assert dataset.meta["kind"] == "complete"
        assert sizes == ({"mnist": 60_000, "cifar10": 50_000}[name], 10_000)
        # The published normalisation constants are those of exactly these images.
        mean = dataset.train_x.mean(axis=(0, 2, 3)) / 255
        assert np.allclose(mean, dataset.meta["normalisation"]["mean"], atol=2e-4)
    else:
        assert dataset.meta["kind"] in ("sample", "complete")
        assert dataset.meta["note"]
    if name == "loan":
        assert dataset.train_x.shape[1] == 91
        assert np.isfinite(dataset.train_x).all()
        assert len(dataset.group_names) <= 51
