"""synthetic_reviews: generated token sequences, the stand-in for Amazon reviews at scale quick.

The distribution. A review is positive or negative with equal chance and has 20 to 60 words, each
length equally likely. Each word is, with probability 0.85, a neutral one, drawn from 880 words with
probabilities proportional to 1/rank (Zipf); else it is one of 120 opinion words, 60 for each class:
with probability 0.7 of the review's own class, with 0.3 of the other, all 60 equally likely.
Counting opinion words, the best possible classifier, is right for about 83 % of the reviews.
"""

from pathlib import Path

import numpy as np

from arfl.dataset import Preparation, dataset, preparation_stream, stratified_split

_REVIEWS = 3_000
_SHORTEST, _LONGEST = 20, 60
_NEUTRAL, _OPINIONS = 880, 60
_OPINION_SHARE, _OWN_SHARE = 0.15, 0.7


@dataset(embedded=True)
def prepare(raw_dir: Path, *, seed: int = 0) -> Preparation:
    """Generate the reviews and split them 80/20.

    Args:
        raw_dir: not used; nothing has to be fetched.
        seed: decides everything.
    """
    generator = preparation_stream(seed)
    labels = generator.permutation(np.arange(_REVIEWS) % 2)
    lengths = generator.integers(_SHORTEST, _LONGEST + 1, size=_REVIEWS)
    shape = (_REVIEWS, _LONGEST)
    zipf = 1 / np.arange(1, _NEUTRAL + 1)
    # Ids: 0 unknown, then the neutral words, the negative ones, the positive ones.
    neutral = 1 + generator.choice(_NEUTRAL, size=shape, p=zipf / zipf.sum())
    own = generator.random(shape) < _OWN_SHARE
    side = np.where(own, labels[:, None], 1 - labels[:, None])
    opinion = 1 + _NEUTRAL + side * _OPINIONS + generator.integers(_OPINIONS, size=shape)
    words = np.where(generator.random(shape) < _OPINION_SHARE, opinion, neutral).astype(np.int16)
    words[np.arange(_LONGEST) >= lengths[:, None]] = -1
    train, test = stratified_split(labels, generator)
    return Preparation(
        train_x=words[train],
        train_y=labels[train].astype(np.uint8),
        test_x=words[test],
        test_y=labels[test].astype(np.uint8),
        kind="synthetic",
        note="3,000 generated reviews of 1,001 made-up words, a stand-in",
        class_names=["negative", "positive"],
        vocabulary_size=1 + _NEUTRAL + 2 * _OPINIONS,
        sources=[{"file": "none", "origin": "generated"}],
        details={"split_seed": seed},
    )
