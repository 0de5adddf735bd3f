"""What a model has read of the prompts of a batch, as the cache that their continuation begins with.

Either what all of them share is read once, and then the rest of each (`read_batch`); or each run of tokens that several
share is, by the tree of their prefixes (`read_tree`), and not again where an earlier batch has read it. What comes
after is the same but for rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from transformers import DynamicCache

from sgt_modules.local.loading import cache_argument
from sgt_modules.local.prefix_cache import Layers, PrefixMemory
from sgt_modules.local.prefix_tree import WORTH, Ids, Tree

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicLayer

_BLOCK, _LEAST_BLOCK = 2048, 256
"""Prompt tokens that are read at a time on a CPU at most, so that activations stay in its cache: twice as fast as
25,000; and at least."""

_ACTIVATIONS = 8 * 2**20
"""Bytes that a layer's widest activations may have on a CPU: larger ones are given back to the system and had anew for
every layer, which on a virtual machine takes longer than what is computed with them."""

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
    named = cache_argument(read.forward)
    if shared:
        read(ids[:1, :shared], use_cache=True, **{named: start})
    positions = mask.cumsum(-1).sub_(1).clamp_(min=0)
    block = max(1, _block(model, ids.device) // ids.shape[1])
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
                use_cache=True,
                **{named: cache},
            )
        caches.append(cache)
    for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
        layer.keys = _rows([layer.keys, *(other.keys for other in others)], rows)
        layer.values = _rows([layer.values, *(other.values for other in others)], rows)
    return caches[0]


def read_tree(
    model: PreTrainedModel,
    tree: Tree,
    prompts: Sequence[Ids],
    pad: int,
    window: int,
    device: torch.device,
    earlier: PrefixMemory | None = None,
) -> tuple[DynamicCache | None, int]:
    """The cache of these prompts, one a row, up to the last token, padded on the left; and how many tokens were read.

    Each node is read once, but for what `earlier` batches have read of it, and what several prompts share is kept
    there. No block is wider than `window`, within which padding is nothing to a sliding window.
    """
    if not tree.nodes:
        return None, 0
    memory = _Memory(model, tree, pad, device)
    if earlier is not None:
        memory.recall(earlier)
    unread = memory.unread()
    for block in _blocks(unread, _block(model, device), window, [node.level for node in tree.nodes]):
        memory.read(block)
    if earlier is not None:
        memory.remember(earlier)
    rows = [() if (end := tree.ends[prompt]) is None else memory.places[end] for prompt in prompts]
    return memory.cache(rows, forget=True)[0], sum(length for _, length in unread.values())


class _Memory:
    """Keys and values of every node's tokens, layer by layer, in the order of the nodes (token x head x width)."""

    def __init__(self, model: PreTrainedModel, tree: Tree, pad: int, device: torch.device) -> None:
        self._model, self._tree, self._pad, self._device = model, tree, pad, device
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._starts = [node.start for node in tree.nodes]  # of what is not known of a node
        self.places: list[np.ndarray] = []
        """For each node, where the tokens from the prompt's first to the node's last stand in the memory."""
        first = 0
        for node in tree.nodes:
            own = np.arange(first, first := first + node.end - node.start)
            self.places.append(own if node.parent is None else np.concatenate([self.places[node.parent], own]))

    def recall(self, earlier: PrefixMemory) -> None:
        """Take over what earlier batches have read of these prompts' first tokens."""
        nodes = self._tree.nodes
        for place, node in enumerate(nodes):
            if node.parent is not None and self._starts[node.parent] < nodes[node.parent].end:
                continue
            length, layers = earlier.longest(node.prompt[: node.end])
            if length > node.start:
                self._put(self.places[place][node.start : length], [_cut(each, node.start, length) for each in layers])
                self._starts[place] = length

    def remember(self, earlier: PrefixMemory) -> None:
        """Keep what several of these prompts begin with for later batches."""
        for place in self._tree.stems:
            node, where = self._tree.nodes[place], self._tensor(self.places[place])
            if node.end >= WORTH and not earlier.holds(node.prompt[: node.end]):
                earlier.keep(node.prompt[: node.end], [(keys[where], values[where]) for keys, values in self._layers])

    def unread(self) -> dict[int, tuple[int, int]]:
        """Of each node that is not known as a whole: how many tokens stand before what is to be read, and how many that
        is."""
        found = {
            place: (start, node.end - start)
            for place, (node, start) in enumerate(zip(self._tree.nodes, self._starts, strict=True))
        }
        return {place: each for place, each in found.items() if each[1]}

    def read(self, block: Sequence[int]) -> None:
        """Have the model read these nodes, of whose parents each is read already."""
        runs = [self._tree.nodes[place].prompt[self._starts[place] : self._tree.nodes[place].end] for place in block]
        width = max(map(len, runs))
        above = [self.places[place][: self._starts[place]] for place in block]
        cache, seen = self.cache(above)
        past = seen.shape[1]
        ids = np.full((len(runs), width), self._pad, dtype=np.int64)
        own = np.zeros_like(ids)
        for row, run in enumerate(runs):
            ids[row, : len(run)], own[row, : len(run)] = run, 1
        starts = np.array([[self._starts[place]] for place in block])
        # Behind a run's end stands padding, whose positions are nobody's but must be some of the model's.
        places = np.minimum(starts + np.arange(width), starts + own.sum(1, keepdims=True) - 1)
        mask = torch.cat([seen, self._tensor(own)], 1)
        decoder = cast("torch.nn.Module", self._model.get_decoder())
        decoder(
            self._tensor(ids),
            attention_mask=mask,
            position_ids=self._tensor(places),
            use_cache=True,
            **{cache_argument(decoder.forward): cache},
        )
        where = np.concatenate([self.places[place][self._starts[place] :] for place in block])
        fresh = self._tensor(own).bool()
        self._put(where, [_tokens(layer, past, fresh) for layer in cache.layers])

    def _put(self, where: np.ndarray, layers: Layers) -> None:
        """Write keys and values of tokens to their places."""
        if not self._layers:
            size = self._tree.tokens
            self._layers = [
                (keys.new_empty(size, *keys.shape[1:]), values.new_empty(size, *values.shape[1:]))
                for keys, values in layers
            ]
        found = self._tensor(where)
        for kept, fresh in zip(self._layers, layers, strict=True):
            for each, new in zip(kept, fresh, strict=True):
                each[found] = new

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


def _tokens(layer: object, past: int, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values that a layer's cache holds behind its first `past` columns, of the tokens that are no padding."""
    plain = cast("DynamicLayer", layer)
    keys, values = cast("tuple[torch.Tensor, torch.Tensor]", (plain.keys, plain.values))
    return keys[:, :, past:].transpose(1, 2)[own], values[:, :, past:].transpose(1, 2)[own]


def _cut(pair: tuple[torch.Tensor, torch.Tensor], start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    return pair[0][start:end], pair[1][start:end]


def _blocks(lengths: dict[int, tuple[int, int]], most: int, window: int, levels: Sequence[int]) -> Iterator[list[int]]:
    """Places of nodes to read together: of one level, of like length, and no wider than they may be."""
    by_level: dict[int, list[int]] = {}
    for place in lengths:
        by_level.setdefault(levels[place], []).append(place)
    for _, places in sorted(by_level.items()):
        block, above, own = list[int](), 0, 0
        for place in sorted(places, key=lengths.__getitem__):
            start, length = lengths[place]
            wider, longer, rows = max(above, start), max(own, length), len(block) + 1
            wide = wider + longer > window or rows * longer > most or rows * (wider + longer) > _ABOVE * most
            if block and wide:
                yield block
                block, wider, longer = [], start, length
            block.append(place)
            above, own = wider, longer
        yield block


def _block(model: PreTrainedModel, device: torch.device) -> int:
    """How many tokens are read at a time."""
    if device.type != "cpu":
        return _GPU_BLOCKS * _BLOCK
    config = model.config.get_text_config(decoder=True)
    width = getattr(config, "intermediate_size", None) or config.hidden_size
    return max(_LEAST_BLOCK, min(_BLOCK, _ACTIVATIONS // (4 * width)))


def _rows(blocks: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    whole = torch.cat(blocks) if len(blocks) > 1 else blocks[0]
    return whole if torch.equal(rows, torch.arange(len(whole), device=rows.device)) else whole[rows]
