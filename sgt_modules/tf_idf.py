"""Similarity of texts by their rare words (TF-IDF), without a model."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class TfIdf:
    """Unit vectors of texts over the words of a collection.

    A word counts as often as the text has it, times ln((1 + n) / (1 + d)) for a collection of n texts of which d have
    the word. So a word of every text, such as a schema that all prompts repeat, counts nothing. Case does not matter.
    Memory grows with the distinct words of each text, not with texts times words.

    >>> index = TfIdf(["count the zoka customers", "count the bima customers", "count all customers"])
    >>> [round(float(each), 2) for each in index.similarities("list the zoka customers")]
    [0.48, 0.07, 0.0]
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [_count_words(text) for text in texts]
        found = Counter(word for each in counts for word in each)
        self._size = len(texts)
        self._most = float(np.log(1 + len(texts)))
        self._weights = {word: float(np.log((1 + len(texts)) / (1 + found[word]))) for word in sorted(found)}
        self._columns = {word: column for column, word in enumerate(self._weights)}
        rows: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for row, each in enumerate(counts):
            for word, value in self._unit_vector(each).items():
                rows[word].append((row, value))
        self._rows = {word: _as_arrays(each) for word, each in rows.items()}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a vector for each text, of shape (texts, words of the collection), with a length of at most 1."""
        vectors = np.zeros((len(texts), len(self._columns)), dtype=np.float32)
        for row, text in enumerate(texts):
            for word, value in self._unit_vector(_count_words(text)).items():
                vectors[row, self._columns[word]] = value
        return vectors

    def similarities(self, text: str) -> NDArray[np.float32]:
        """Return the cosine similarity to each text of the collection, in [0, 1]; 0 where no weighted word is shared.

        A word that the collection lacks makes a text less similar to all of them alike.
        """
        found = np.zeros(self._size, dtype=np.float32)
        for word, value in self._unit_vector(_count_words(text)).items():
            rows, values = self._rows[word]
            found[rows] += np.float32(value) * values
        return found

    def _unit_vector(self, counts: Counter[str]) -> dict[str, float]:
        """Return the weighted words of a text that the collection has; a word of every text has no weight."""
        weighted = {word: count * weight for word, count in counts.items() if (weight := self._weights.get(word))}
        unknown = sum((count * self._most) ** 2 for word, count in counts.items() if word not in self._weights)
        length = float(np.sqrt(sum(value * value for value in weighted.values()) + unknown))
        return {word: value / length for word, value in weighted.items()} if length else {}


def _as_arrays(values: Sequence[tuple[int, float]]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    rows, weights = zip(*values, strict=True)
    return np.array(rows, dtype=np.intp), np.array(weights, dtype=np.float32)


def _count_words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.casefold()))
