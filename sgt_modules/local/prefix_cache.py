"""Keeps the keys and values of prompts' prefixes, so that a later prompt with the same prefix is not read again.

An optimizer asks one question after the other behind the same demonstrations, and a batch's questions may stand behind
the same database tables as those of the batch before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sgt_modules.local.prefix_tree import TokenIds, count_shared

if TYPE_CHECKING:
    import torch

Layers = Sequence[tuple["torch.Tensor", "torch.Tensor"]]
"""Keys and values of each layer, token x head x width."""


class PrefixCache:
    """Keys and values of prefixes, at most `max_bytes`; the least recently used prefix is removed first.

    >>> cache = PrefixCache(max_bytes=0)
    >>> cache.find_longest((1, 2, 3))
    (0, ())
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._layers: OrderedDict[TokenIds, Layers] = OrderedDict()

    def find_longest(self, prompt: TokenIds) -> tuple[int, Layers]:
        """How many first tokens of the prompt are kept, and the layers that begin with them."""
        length, best = 0, None
        for prefix in self._layers:
            if prompt[: length + 1] == prefix[: length + 1]:
                shared = count_shared(prompt, prefix, length)
                if shared > length:
                    length, best = shared, prefix
        if best is None:
            return 0, ()
        self._layers.move_to_end(best)
        return length, self._layers[best]

    def store(self, prefix: TokenIds, layers: Layers) -> None:
        """Keep a prefix; remove shorter ones that it begins with."""
        for other in [other for other in self._layers if prefix[: len(other)] == other]:
            del self._layers[other]
        self._layers[prefix] = layers
        while self._layers and sum(map(_count_bytes, self._layers.values())) > self.max_bytes:
            self._layers.popitem(last=False)

    def contains(self, prefix: TokenIds) -> bool:
        """Whether all of a prefix is kept."""
        return any(other[: len(prefix)] == prefix for other in self._layers)

    def clear(self) -> None:
        """Remove everything."""
        self._layers.clear()


def _count_bytes(layers: Layers) -> int:
    return sum(each.numel() * each.itemsize for pair in layers for each in pair)
