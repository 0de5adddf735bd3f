"""A key-value cache with room for the tokens of the replies, which are written in place.

The cache of transformers copies all keys and values for each new token; for a large model's batch that is the larger
part of a step's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from transformers import DynamicCache


LEAST_BYTES = 4 * 2**20
"""The bytes of a layer's keys from which on room saves time: fewer are copied faster than they are written in place."""


class RoomyLayer(DynamicLayer):
    """The keys and values of a layer, rows x heads x tokens x width, with room for `room` more tokens a row."""

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        assert layer.keys is not None
        assert layer.values is not None
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self._room_of_keys, self._room_of_values = _add_room(layer.keys, room), _add_room(layer.values, room)
        self._show(len(layer.keys), layer.keys.shape[-2])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens behind the others; return all."""
        rows, tokens = len(key_states), self.get_seq_length()
        end = tokens + key_states.shape[-2]
        self._room_of_keys[:rows, :, tokens:end] = key_states
        self._room_of_values[:rows, :, tokens:end] = value_states
        return self._show(rows, end)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows; those that are in their place already are not copied."""
        moved = (indices != torch.arange(len(indices))).nonzero().squeeze(1)
        end = self.get_seq_length()
        for each in (self._room_of_keys, self._room_of_values):
            each[moved, :, :end] = each[indices[moved], :, :end]
        self._show(len(indices), end)

    def _show(self, rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys = self._room_of_keys[:rows, :, :tokens]
        self.values = self._room_of_values[:rows, :, :tokens]
        return self.keys, self.values


def make_room(cache: DynamicCache, tokens: int) -> None:
    """Give the large layers of a cache room for so many more tokens; a sliding window has a fixed size."""
    for place, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.keys is not None and layer.keys.nbytes >= LEAST_BYTES:
            cache.layers[place] = RoomyLayer(layer, tokens)
            layer.reset()


def choose_places(kept: Sequence[int]) -> list[int]:
    """The rows to keep, in an order in which as many as possible stay in their place.

    >>> choose_places([0, 2, 3, 5])
    [0, 5, 2, 3]
    """
    staying = {row for row in kept if row < len(kept)}
    others = (row for row in kept if row >= len(kept))
    return [place if place in staying else next(others) for place in range(len(kept))]


def _add_room(states: torch.Tensor, room: int) -> torch.Tensor:
    rows, heads, tokens, width = states.shape
    larger = states.new_empty(rows, heads, tokens + room, width)
    larger[:, :, :tokens] = states
    return larger
