"""Keys and values of what earlier prompts began with, so that a prompt with the same start is not read again.

A bootstrapper asks one question after the other behind the same demonstrations, and a batch's questions stand behind a
database's tables that the batch before had too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sgt_modules.local.prefix_tree import Ids, shared

if TYPE_CHECKING:
    import torch

Layers = Sequence[tuple["torch.Tensor", "torch.Tensor"]]
"""Keys and values of each layer, token x head x width."""


class PrefixMemory:
    """Runs of first tokens with what a model has read of them, at most `most` bytes; the one that was used longest ago
    goes first.

    >>> memory = PrefixMemory(most=0)
    >>> memory.longest((1, 2, 3))
    (0, ())
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._runs: OrderedDict[Ids, Layers] = OrderedDict()

    def longest(self, prompt: Ids) -> tuple[int, Layers]:
        """How many first tokens of the prompt are known at most, and the layers that begin with them."""
        length, best = 0, None
        for run in self._runs:
            if prompt[: length + 1] == run[: length + 1] and (found := shared(prompt, run, length)) > length:
                length, best = found, run
        if best is None:
            return 0, ()
        self._runs.move_to_end(best)
        return length, self._runs[best]

    def keep(self, run: Ids, layers: Layers) -> None:
        """Remember a run; shorter ones that it begins with go."""
        for other in [other for other in self._runs if run[: len(other)] == other]:
            del self._runs[other]
        self._runs[run] = layers
        while self._runs and sum(map(_bytes, self._runs.values())) > self.most:
            self._runs.popitem(last=False)

    def holds(self, run: Ids) -> bool:
        """Whether all of a run is known."""
        return any(other[: len(run)] == run for other in self._runs)

    def clear(self) -> None:
        """Forget everything."""
        self._runs.clear()


def _bytes(layers: Layers) -> int:
    return sum(each.numel() * each.itemsize for pair in layers for each in pair)
