"""Similarity of texts by their rare words (TF-IDF), without a model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class TfIdf:
    """Unit vectors of texts over the words of a collection.

    A word counts as often as the text has it, times ln((1 + n) / (1 + d)) for a collection of n texts of which d have
    the word. So a word of every text, such as a schema that all prompts repeat, counts nothing. Case does not matter.

    >>> index = TfIdf(["count the zoka customers", "count the bima customers", "count all customers"])
    >>> [round(float(each), 2) for each in index.similarities("list the zoka customers")]
    [0.48, 0.07, 0.0]
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [_count_words(text) for text in texts]
        found = Counter(word for each in counts for word in each)
        self._columns = {word: column for column, word in enumerate(sorted(found))}
        self._most = float(np.log(1 + len(texts)))
        self._weights = np.array([np.log((1 + len(texts)) / (1 + found[word])) for word in self._columns])
        self._rows = np.zeros((len(texts), len(self._columns)), dtype=np.float32)
        for row, each in zip(self._rows, counts, strict=True):
            row[:] = self._embed(each)

    def similarities(self, text: str) -> NDArray[np.float32]:
        """Return the cosine similarity to each text of the collection, in [0, 1]; 0 where no weighted word is shared.

        A word that the collection lacks makes a text less similar to all of them alike.
        """
        return self._rows @ self._embed(_count_words(text)).astype(np.float32)

    def _embed(self, counts: Counter[str]) -> NDArray[np.float64]:
        vector = np.zeros(len(self._columns))
        unknown = 0.0
        for word, count in counts.items():
            if (column := self._columns.get(word)) is None:
                unknown += (count * self._most) ** 2
            else:
                vector[column] = count * self._weights[column]
        length = float(np.sqrt(vector @ vector + unknown))
        return vector / length if length else vector


def _count_words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.casefold()))
