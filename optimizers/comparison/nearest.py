"""Which texts are alike, without a model: vectors of their words and letters, for `dspy.KNNFewShot`."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import dspy
import numpy as np
from numpy.typing import NDArray

WIDTH = 4096
"""Places of a vector; each word, each pair of words and each run of four letters has one by its hash."""

_PARTS = 4


def word_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """A unit vector for each text, (texts, `WIDTH`): the more words two share, the nearer they are.

    >>> apple, pear, car = word_vectors(["three ripe apples", "three ripe pears", "a fast car"])
    >>> bool(apple @ pear > apple @ car)
    True
    """
    vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
    for row, text in zip(vectors, texts, strict=True):
        words = re.findall(r"\w+", text.casefold())
        pairs = [f"{first} {second}" for first, second in pairwise(words)]
        runs = [word[start : start + _PARTS] for word in words for start in range(max(1, len(word) - _PARTS + 1))]
        for weight, parts in ((2.0, words), (1.0, pairs), (0.5, runs)):
            for part in parts:
                row[zlib.crc32(part.encode()) % WIDTH] += weight
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def word_embedder() -> dspy.Embedder:
    """The same as a `dspy.Embedder`."""
    return dspy.Embedder(word_vectors)
