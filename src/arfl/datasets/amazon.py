"""amazon: product reviews with star ratings, as sentiment classification (He and McAuley 2016).

Ratings of 1 and 2 stars are negative, 4 and 5 positive, 3 are left out. The classes are balanced by
down-sampling. Where the file has enough reviews the parts have the paper's sizes, else 80 % train.
"""

import html
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from arfl.dataset import Preparation, dataset, preparation_stream, stratified_split
from arfl.datasets._sources import fetched, provenance, what_it_is
from arfl.errors import UserError

_FILE = "reviews.jsonl"
_PAPER_TRAIN, _PAPER_TEST = 86_164, 13_260
_NEGATIVE, _POSITIVE = 0, 1
_LABELS = {1: _NEGATIVE, 2: _NEGATIVE, 4: _POSITIVE, 5: _POSITIVE}
_WORD = re.compile(r"\w+(?:'\w+)?")
_LARGEST_VOCABULARY = np.iinfo(np.int16).max + 1
_UNKNOWN = "<unknown>"


def tokenise(text: str) -> list[str]:
    """The lower-case words of a text: runs of letters, digits and "_", an apostrophe inside."""
    return _WORD.findall(text.lower())


@dataset(embedded=False)
def prepare(
    raw_dir: Path,
    *,
    balance: bool = True,
    max_tokens: int = 256,
    vocabulary_size: int = 25_000,
    seed: int = 0,
) -> Preparation:
    """Choose, split and tokenise the reviews, with HTML entities resolved.

    The file is streamed once; no more than the paper's number of reviews is ever held.

    Args:
        raw_dir: a folder with ``reviews.jsonl``, filled by `arfl.dataset.fetch`: one JSON object
            with ``reviewText`` and ``overall`` on each line.
        balance: as many negative as positive reviews, by leaving out positive ones at random; else
            the proportions of the file. The paper's constant classifier is right half of the time.
        max_tokens: how many words of a review are kept, from its beginning. The paper is silent.
        vocabulary_size: the most frequent words of the training part that get an id of their own,
            and one for all others; the paper's is 25,000.
        seed: decides which reviews are used and the split.

    Raises:
        UserError: if a line is not a JSON object, the text is not UTF-8, or no class has reviews.
    """
    if not 2 <= vocabulary_size <= _LARGEST_VOCABULARY:
        raise UserError(
            f"vocabulary_size must be between 2 and {_LARGEST_VOCABULARY}, not {vocabulary_size}"
        )
    if max_tokens < 1:
        raise UserError(f"max_tokens must be above 0, not {max_tokens}")
    entries = fetched("amazon", raw_dir)
    generator = preparation_stream(seed)
    per_class = (_PAPER_TRAIN + _PAPER_TEST) // 2
    texts, counts = _sample(raw_dir / _FILE, per_class, balance, generator)
    sizes = [len(of_class) for of_class in texts]
    if balance:
        sizes = [min(sizes)] * 2
    if min(sizes) < 2:
        raise UserError(
            f"{raw_dir / _FILE} has {counts['negative']} negative and {counts['positive']} "
            "positive reviews; get a file with more of both"
        )
    # A reservoir is not in random order, so taking its head would not be a random choice.
    chosen = [
        text
        for label in (_NEGATIVE, _POSITIVE)
        for text in (
            texts[label][index]
            for index in generator.permutation(len(texts[label]))[: sizes[label]]
        )
    ]
    labels = np.repeat(np.array([_NEGATIVE, _POSITIVE], dtype=np.uint8), sizes)
    paper_sizes = sum(sizes) == 2 * per_class
    train, test = _split(labels, paper_sizes, generator)
    ids, vocabulary, truncated = _encode(chosen, train, max_tokens, vocabulary_size)
    train, test = generator.permutation(train), generator.permutation(test)
    kind, note = what_it_is(entries[_FILE], counts["reviews"], "reviews")
    parts = "the paper's sizes" if paper_sizes else "split 80/20"
    parts = f"{'balanced' if balance else 'not balanced'}, {parts}"
    return Preparation(
        train_x=ids[train],
        train_y=labels[train],
        test_x=ids[test],
        test_y=labels[test],
        kind=kind,
        note=f"{note} ({len(train):,} train and {len(test):,} test reviews, {parts})",
        class_names=["negative", "positive"],
        vocabulary_size=len(vocabulary),
        sources=provenance(entries),
        details={
            "split_seed": seed,
            "max_tokens": max_tokens,
            "truncated_share": round(truncated, 4),
            "reviews": dict(counts),
            "balanced": balance,
            "paper_sizes": paper_sizes,
        },
        texts={"vocabulary.txt": "\n".join(vocabulary) + "\n"},
    )


def _sample(
    path: Path, per_class: int, balance: bool, generator: np.random.Generator
) -> tuple[list[list[str]], Counter[str]]:
    """At most ``per_class`` texts of each class, each equally likely to be among them.

    Without ``balance``, at most twice as many of both together, in the file's proportions.
    Reservoir sampling (Vitter 1985, algorithm R): the i-th text of a stratum replaces a random one
    of the kept ones with probability capacity / i.
    """
    strata: list[list[tuple[int, str]]] = [[], []]
    seen = [0, 0]
    capacity = per_class if balance else 2 * per_class
    counts = Counter(
        {"reviews": 0, "negative": 0, "positive": 0, "three_stars": 0, "without_words": 0}
    )
    counts["without_rating_or_text"] = 0
    for review in _reviews(path):
        counts["reviews"] += 1
        text, rating = review.get("reviewText"), _rating(review.get("overall"))
        if not isinstance(text, str) or rating is None:
            counts["without_rating_or_text"] += 1
        elif rating not in _LABELS:
            counts["three_stars"] += 1
        elif not _WORD.search(text := html.unescape(text)):
            counts["without_words"] += 1
        else:
            label = _LABELS[rating]
            name = "positive" if label == _POSITIVE else "negative"
            counts[name] += 1
            stratum = label if balance else 0
            kept = strata[stratum]
            seen[stratum] += 1
            if len(kept) < capacity:
                kept.append((label, text))
            elif (slot := int(generator.integers(seen[stratum]))) < capacity:
                kept[slot] = (label, text)
    if counts["reviews"] and counts["without_rating_or_text"] == counts["reviews"]:
        raise UserError(
            f'{path}: no line has a "reviewText" and an "overall" of 1 to 5; docs/data.md says '
            "which file is needed"
        )
    texts: list[list[str]] = [[], []]
    for label, text in (pair for kept in strata for pair in kept):
        texts[label].append(text)
    return texts, counts


def _rating(value: object) -> int | None:
    """The stars as an integer 1..5, or None if the value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        stars = float(value)
    except ValueError:
        return None
    return int(stars) if stars in (1, 2, 3, 4, 5) else None


def _reviews(path: Path) -> Iterator[dict]:
    number = 0
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                review = json.loads(line)
                if not isinstance(review, dict):
                    raise UserError(f"{path}, line {number} is not a JSON object; correct the file")
                yield review
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {number} is not JSON ({error.msg}); correct it or get the file again"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text after line {number} ({error.reason}); convert it to UTF-8"
        ) from None


def _split(
    labels: np.ndarray, paper_sizes: bool, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    if not paper_sizes:
        return stratified_split(labels, generator)
    parts = [generator.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    share = _PAPER_TRAIN / (_PAPER_TRAIN + _PAPER_TEST)
    train = np.concatenate([part[: round(share * len(part))] for part in parts])
    test = np.concatenate([part[round(share * len(part)) :] for part in parts])
    return train, test


def _encode(
    texts: list[str], train: np.ndarray, max_tokens: int, vocabulary_size: int
) -> tuple[np.ndarray, list[str], float]:
    """Token ids int16 (n, max_tokens), the vocabulary by id, and the share of texts cut short."""
    in_train = np.zeros(len(texts), dtype=bool)
    in_train[train] = True
    numbers: dict[str, int] = {}
    frequency: Counter[int] = Counter()
    documents: list[array] = []
    truncated = 0
    for text, counted in zip(texts, in_train, strict=True):
        document = array("i", (numbers.setdefault(word, len(numbers)) for word in tokenise(text)))
        if counted:
            frequency.update(document)
        truncated += len(document) > max_tokens
        documents.append(document[:max_tokens])
    words = list(numbers)
    # Equal counts are ordered by alphabet, so that the order of the reviews does not matter.
    ranked = sorted(frequency, key=lambda number: (-frequency[number], words[number]))
    frequent = ranked[: vocabulary_size - 1]
    vocabulary = [_UNKNOWN, *(words[number] for number in frequent)]
    id_of = np.zeros(len(words), dtype=np.int16)
    id_of[frequent] = np.arange(1, len(vocabulary))
    ids = np.full((len(texts), max_tokens), -1, dtype=np.int16)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = id_of[np.frombuffer(document, np.intc)]
    return ids, vocabulary, truncated / len(texts)
