"""What a model has read of the prompts of a batch, as the cache that their continuation begins with.

Either what all of them share is read once, and then the rest of each (`read_batch`); or each run of tokens that several
share is, by the tree of their prefixes (`read_tree`). What comes after is the same but for rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from transformers import DynamicCache

from sgt_modules.prefixes import Ids, Node, Tree

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicLayer

_BLOCK = 2048
"""Prompt tokens that are read at a time on a CPU, so that activations stay in its cache: twice as fast as 25,000."""

_GPU_BLOCKS = 32
"""How many times as many a GPU reads at a time."""

_ABOVE = 8
"""How many times the tokens of a block may stand above it in the tree."""


def aligned(
    prompts: Sequence[Ids], pad: int, device: torch.device, *, share: bool
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Token ids and attention mask of distinct prompts, and how many first tokens they share (not the last one).

    Padding stands between what they share and what they do not, so that every row ends in the last column. Without
    `share` it stands on the left, where a sliding window does not count it.
    """
    low, high = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1 if share else 0
    shared = next((place for place in range(most) if low[place] != high[place]), most)
    width = max(map(len, prompts))
    ids = np.full((len(prompts), width), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    ids[:, :shared] = low[:shared]
    mask[:, :shared] = 1
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) + shared :] = prompt[shared:]
        mask[row, width - len(prompt) + shared :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device), shared


def read_batch(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, shared: int, rows: torch.Tensor
) -> DynamicCache | None:
    """The cache of `rows` of the prompts up to the last token: what they all share is read once, and each prompt once.

    `ids`, `mask` and `shared` as `aligned` gives them.
    """
    last = ids.shape[1] - 1
    if last == 0:
        return None
    start = DynamicCache(config=model.config)
    read = cast("torch.nn.Module", model.get_decoder())
    if shared:
        read(ids[:1, :shared], past_key_values=start, use_cache=True)
    positions = mask.cumsum(-1).sub_(1).clamp_(min=0)
    block = max(1, _block(ids.device) // ids.shape[1])
    caches: list[DynamicCache] = []
    for first in range(0, len(ids), block):
        part = slice(first, first + block)
        cache = copy.deepcopy(start)
        if shared:
            cache.batch_repeat_interleave(len(ids[part]))
        if shared < last:
            read(
                ids[part, shared:last],
                attention_mask=mask[part, :last],
                position_ids=positions[part, shared:last],
                past_key_values=cache,
                use_cache=True,
            )
        caches.append(cache)
    for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
        layer.keys = _rows([layer.keys, *(other.keys for other in others)], rows)
        layer.values = _rows([layer.values, *(other.values for other in others)], rows)
    return caches[0]


def read_tree(
    model: PreTrainedModel, tree: Tree, prompts: Sequence[Ids], pad: int, window: int, device: torch.device
) -> DynamicCache | None:
    """The cache of these prompts, one a row, up to the last token, padded on the left: each node is read once.

    No block is wider than `window`, within which padding is nothing to a sliding window.
    """
    if not tree.nodes:
        return None
    memory = _Memory(model, tree, pad, device)
    for block in _blocks(tree, _block(device), window):
        memory.read(block)
    ends = [tree.ends[prompt] for prompt in prompts]
    return memory.cache([() if end is None else memory.places[end] for end in ends], forget=True)[0]


class _Memory:
    """Keys and values of every node's tokens, layer by layer, in the order of the nodes (token x head x width)."""

    def __init__(self, model: PreTrainedModel, tree: Tree, pad: int, device: torch.device) -> None:
        self._model, self._tree, self._pad, self._device = model, tree, pad, device
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._first: list[int] = []
        self.places: list[np.ndarray] = []
        """For each node, where the tokens from the prompt's first to the node's last stand in the memory."""
        first = 0
        for node in tree.nodes:
            own = np.arange(first, first := first + node.end - node.start)
            self.places.append(own if node.parent is None else np.concatenate([self.places[node.parent], own]))

    def read(self, block: Sequence[int]) -> None:
        """Have the model read these nodes, of whose parents each is read already."""
        nodes = [self._tree.nodes[place] for place in block]
        width = max(node.end - node.start for node in nodes)
        above = [self.places[place][: node.start] for place, node in zip(block, nodes, strict=True)]
        cache, seen = self.cache(above)
        past = seen.shape[1]
        ids = np.full((len(nodes), width), self._pad, dtype=np.int64)
        own = np.zeros_like(ids)
        for row, node in enumerate(nodes):
            ids[row, : node.end - node.start], own[row, : node.end - node.start] = node.ids, 1
        starts = np.array([[node.start] for node in nodes])
        # Behind a run's end stands padding, whose positions are nobody's but must be some of the model's.
        places = np.minimum(starts + np.arange(width), starts + own.sum(1, keepdims=True) - 1)
        mask = torch.cat([seen, self._tensor(own)], 1)
        cast("torch.nn.Module", self._model.get_decoder())(
            self._tensor(ids),
            attention_mask=mask,
            position_ids=self._tensor(places),
            past_key_values=cache,
            use_cache=True,
        )
        where = np.concatenate([self.places[place][node.start :] for place, node in zip(block, nodes, strict=True)])
        self._keep(cache, past, self._tensor(own).bool(), self._tensor(where))

    def _keep(self, cache: DynamicCache, past: int, own: torch.Tensor, where: torch.Tensor) -> None:
        for number, layer in enumerate(cache.layers):
            plain = cast("DynamicLayer", layer)
            kept_by_it = cast("tuple[torch.Tensor, torch.Tensor]", (plain.keys, plain.values))
            fresh = [each[:, :, past:].transpose(1, 2)[own] for each in kept_by_it]
            if number == len(self._layers):
                keys, values = (each.new_empty(self._tree.tokens, *each.shape[1:]) for each in fresh)
                self._layers.append((keys, values))
            for kept, each in zip(self._layers[number], fresh, strict=True):
                kept[where] = each

    def cache(
        self, rows: Sequence[Sequence[int] | np.ndarray], *, forget: bool = False
    ) -> tuple[DynamicCache, torch.Tensor]:
        """The cache whose rows have read the tokens at these places, and its mask (1 is a token, 0 is padding, on the
        left). `forget` gives each layer's memory back once it is copied."""
        cache, width = DynamicCache(config=self._model.config), max(map(len, rows))
        index = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros_like(index)
        for row, places in enumerate(rows):
            if len(places):
                index[row, width - len(places) :], mask[row, width - len(places) :] = places, 1
        if width:
            found = self._tensor(index)
            for number in range(len(self._layers)):
                keys, values = (each[found].transpose(1, 2) for each in self._layers[number])
                cache.update(keys, values, number)
                if forget:
                    del keys, values
                    self._layers[number] = (self._tensor(index[:0]), self._tensor(index[:0]))
        return cache, self._tensor(mask)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _blocks(tree: Tree, most: int, window: int) -> Iterator[list[int]]:
    """Places of nodes to read together: of one level, of like length, and no wider than they may be."""
    levels: dict[int, list[int]] = {}
    for place, node in enumerate(tree.nodes):
        levels.setdefault(node.level, []).append(place)
    for _, places in sorted(levels.items()):
        block, above, own = list[int](), 0, 0
        for place in sorted(places, key=lambda place: _lengths(tree.nodes[place])):
            start, length = _lengths(tree.nodes[place])
            wider, longer, rows = max(above, start), max(own, length), len(block) + 1
            wide = wider + longer > window or rows * longer > most or rows * (wider + longer) > _ABOVE * most
            if block and wide:
                yield block
                block, wider, longer = [], start, length
            block.append(place)
            above, own = wider, longer
        yield block


def _lengths(node: Node) -> tuple[int, int]:
    return node.start, node.end - node.start


def _block(device: torch.device) -> int:
    return _BLOCK if device.type == "cpu" else _GPU_BLOCKS * _BLOCK


def _rows(blocks: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    whole = torch.cat(blocks) if len(blocks) > 1 else blocks[0]
    return whole if torch.equal(rows, torch.arange(len(whole), device=rows.device)) else whole[rows]
