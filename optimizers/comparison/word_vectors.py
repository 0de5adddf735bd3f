"""Embeds texts without a model, by their words and letters, so that `dspy.KNNFewShot` finds similar examples."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import dspy
import numpy as np
from numpy.typing import NDArray

WIDTH = 4096
"""Dimensions of a vector. The hash of a word, a pair of words or four letters in a row selects one."""

_RUN_LENGTH = 4


def embed_words(texts: Sequence[str], weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Returns a unit vector for each text, of shape (texts, `WIDTH`); texts that share words are close.

    `weights`, of shape (`WIDTH`,), says how much each dimension counts; by default all count the same.

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
    if weights is not None:
        vectors *= weights
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def weigh_rare_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Returns a weight for each dimension, of shape (`WIDTH`,): the more of the texts have it, the less it counts.

    The weight is the inverse document frequency, log((1 + texts) / (1 + texts with it)) + 1.

    >>> texts = ["list the ripe apples", "list the ripe pears", "list the fast cars"]
    >>> query, fruit, car = embed_words(["list the fast pears", *texts[1:]], weigh_rare_words(texts))
    >>> bool(query @ car > 0.4), bool(query @ fruit > 0.4)
    (True, True)
    """
    having = np.count_nonzero(embed_words(texts), axis=0)
    return (np.log((1 + len(texts)) / (1 + having)) + 1).astype(np.float32)


def make_word_embedder(texts: Sequence[str]) -> dspy.Embedder:
    """Returns a `dspy.Embedder` of words, in which words that are rare in these texts count more (TF-IDF)."""
    return dspy.Embedder(partial(embed_words, weights=weigh_rare_words(texts)))
