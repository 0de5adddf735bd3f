"""Embeds texts without a model, by their words and letters, so that `dspy.KNNFewShot` finds similar examples."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import dspy
import numpy as np
from numpy.typing import NDArray

WIDTH = 4096
"""Dimensions of a vector. The hash of a word, a pair of words or four letters in a row selects one."""

_RUN_LENGTH = 4


def embed_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Returns a unit vector for each text, of shape (texts, `WIDTH`); texts that share words are close.

    >>> apple, pear, car = embed_words(["three ripe apples", "three ripe pears", "a fast car"])
    >>> bool(apple @ pear > apple @ car)
    True
    """
    vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
    for row, text in zip(vectors, texts, strict=True):
        words = re.findall(r"\w+", text.casefold())
        pairs = [f"{first} {second}" for first, second in pairwise(words)]
        runs = [
            word[start : start + _RUN_LENGTH] for word in words for start in range(max(1, len(word) - _RUN_LENGTH + 1))
        ]
        for weight, parts in ((2.0, words), (1.0, pairs), (0.5, runs)):
            for part in parts:
                row[zlib.crc32(part.encode()) % WIDTH] += weight
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def make_word_embedder() -> dspy.Embedder:
    """Returns a `dspy.Embedder` that calls `embed_words`."""
    return dspy.Embedder(embed_words)
