"""Prefill: a model reads the prompts of a batch into the key-value cache that decoding starts from.

`prefill_batch` reads the prefix that all prompts share once, and then the rest of each prompt. `prefill_tree` reads
each node of the prompts' prefix tree once, and nothing that an earlier batch has read. The replies are the same but for
rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from transformers import DynamicCache

from sgt_modules.local.loading import find_cache_argument
from sgt_modules.local.prefix_cache import Layers, PrefixCache
from sgt_modules.local.prefix_tree import MIN_SAVING, PrefixTree, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicLayer

_MAX_BLOCK, _MIN_BLOCK = 2048, 256
"""The largest and the smallest limit of a forward pass's prompt tokens on a CPU. With 2,048, activations stay in its
cache, which is twice as fast as 25,000."""

_ACTIVATIONS = 8 * 2**20
"""The most bytes of a layer's widest activations on a CPU. Larger ones are freed and allocated again for every layer,
which on a virtual machine takes longer than the computation."""

_GPU_FACTOR = 32
"""How many times as many tokens a GPU reads in a forward pass."""

_MAX_CONTEXT_FACTOR = 8
"""The cache of a forward pass, padding included, holds at most this many times the most tokens that the pass reads."""


def align_prompts(
    prompts: Sequence[TokenIds], pad: int, device: torch.device, *, share: bool
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Token ids and attention mask of distinct prompts, and how many first tokens they share, the last one excepted.

    Padding is between the shared tokens and the others, so that every row ends in the last column. Without `share` it
    is on the left, where it takes no place in a sliding window.
    """
    low, high = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1 if share else 0
    shared = next((index for index in range(most) if low[index] != high[index]), most)
    width = max(map(len, prompts))
    ids = np.full((len(prompts), width), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    ids[:, :shared] = low[:shared]
    mask[:, :shared] = 1
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) + shared :] = prompt[shared:]
        mask[row, width - len(prompt) + shared :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device), shared


def prefill_batch(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, shared: int, rows: torch.Tensor
) -> DynamicCache | None:
    """The cache of the prompts without their last tokens, a row for each index in `rows`.

    None if the prompts have one token. `ids`, `mask` and `shared` are the values of `align_prompts`.
    """
    last = ids.shape[1] - 1
    if last == 0:
        return None
    start = DynamicCache(config=model.config)
    decoder = cast("torch.nn.Module", model.get_decoder())
    cache_name = find_cache_argument(decoder.forward)
    if shared:
        decoder(ids[:1, :shared], use_cache=True, **{cache_name: start})
    positions = mask.cumsum(-1).sub_(1).clamp_(min=0)
    block = max(1, _choose_block(model, ids.device) // ids.shape[1])
    caches: list[DynamicCache] = []
    for first in range(0, len(ids), block):
        part = slice(first, first + block)
        cache = copy.deepcopy(start)
        if shared:
            cache.batch_repeat_interleave(len(ids[part]))
        if shared < last:
            decoder(
                ids[part, shared:last],
                attention_mask=mask[part, :last],
                position_ids=positions[part, shared:last],
                use_cache=True,
                **{cache_name: cache},
            )
        caches.append(cache)
    for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
        layer.keys = _select_rows([layer.keys, *(other.keys for other in others)], rows)
        layer.values = _select_rows([layer.values, *(other.values for other in others)], rows)
    return caches[0]


def prefill_tree(
    model: PreTrainedModel,
    tree: PrefixTree,
    prompts: Sequence[TokenIds],
    pad: int,
    window: int,
    device: torch.device,
    prefix_cache: PrefixCache | None = None,
) -> tuple[DynamicCache | None, int]:
    """The cache of the prompts without their last tokens, a row for each, padded on the left; and the tokens read.

    Each node of the tree is read once, without the tokens that are in `prefix_cache`; the prefixes that several prompts
    share are stored there. Reads at most `window` tokens at a time, so that padding stays within the sliding window.
    """
    if not tree.nodes:
        return None, 0
    states = _TreeStates(model, tree, pad, device)
    if prefix_cache is not None:
        states.load_from(prefix_cache)
    unread = states.find_unread()
    for block in _cut_blocks(unread, _choose_block(model, device), window, [node.level for node in tree.nodes]):
        states.read(block)
    if prefix_cache is not None:
        states.store_in(prefix_cache)
    rows = [() if (end := tree.ends[prompt]) is None else states.slots[end] for prompt in prompts]
    return states.make_cache(rows, free=True)[0], sum(length for _, length in unread.values())


class _TreeStates:
    """Keys and values of every token of a tree: for each layer, tensors of slot x head x width, in the nodes' order."""

    def __init__(self, model: PreTrainedModel, tree: PrefixTree, pad: int, device: torch.device) -> None:
        self._model, self._tree, self._pad, self._device = model, tree, pad, device
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._starts = [node.start for node in tree.nodes]
        """For each node, the position of the first token whose keys and values are to be computed."""
        self.slots: list[np.ndarray] = []
        """For each node, the slots of the tokens from the prompt's first to the node's last."""
        first = 0
        for node in tree.nodes:
            own = np.arange(first, first := first + node.end - node.start)
            self.slots.append(own if node.parent is None else np.concatenate([self.slots[node.parent], own]))

    def load_from(self, prefix_cache: PrefixCache) -> None:
        """Copy the keys and values of the prefixes that earlier batches have stored."""
        nodes = self._tree.nodes
        for index, node in enumerate(nodes):
            if node.parent is not None and self._starts[node.parent] < nodes[node.parent].end:
                continue
            length, layers = prefix_cache.find_longest(node.prompt[: node.end])
            if length > node.start:
                self._put(self.slots[index][node.start : length], [_slice(each, node.start, length) for each in layers])
                self._starts[index] = length

    def store_in(self, prefix_cache: PrefixCache) -> None:
        """Store the prefixes that several prompts share, for later batches."""
        for index in self._tree.longest_shared:
            node, slots = self._tree.nodes[index], self._tensor(self.slots[index])
            prefix = node.prompt[: node.end]
            if node.end >= MIN_SAVING and not prefix_cache.contains(prefix):
                prefix_cache.store(prefix, [(keys[slots], values[slots]) for keys, values in self._layers])

    def find_unread(self) -> dict[int, tuple[int, int]]:
        """For the index of each node with tokens to read: how many tokens come before them, and how many they are."""
        sizes = {
            index: (start, node.end - start)
            for index, (node, start) in enumerate(zip(self._tree.nodes, self._starts, strict=True))
        }
        return {index: each for index, each in sizes.items() if each[1]}

    def read(self, block: Sequence[int]) -> None:
        """Compute the keys and values of these nodes' tokens; their parents' are computed already."""
        runs = [self._tree.nodes[index].prompt[self._starts[index] : self._tree.nodes[index].end] for index in block]
        width = max(map(len, runs))
        before = [self.slots[index][: self._starts[index]] for index in block]
        cache, past_mask = self.make_cache(before)
        past = past_mask.shape[1]
        ids = np.full((len(runs), width), self._pad, dtype=np.int64)
        own = np.zeros_like(ids)
        for row, run in enumerate(runs):
            ids[row, : len(run)], own[row, : len(run)] = run, 1
        starts = np.array([[self._starts[index]] for index in block])
        # Padding follows a run's end; its positions have no effect, but must be valid for the model.
        positions = np.minimum(starts + np.arange(width), starts + own.sum(1, keepdims=True) - 1)
        mask = torch.cat([past_mask, self._tensor(own)], 1)
        decoder = cast("torch.nn.Module", self._model.get_decoder())
        decoder(
            self._tensor(ids),
            attention_mask=mask,
            position_ids=self._tensor(positions),
            use_cache=True,
            **{find_cache_argument(decoder.forward): cache},
        )
        slots = np.concatenate([self.slots[index][self._starts[index] :] for index in block])
        is_token = self._tensor(own).bool()
        self._put(slots, [_read_states(layer, past, is_token) for layer in cache.layers])

    def _put(self, slots: np.ndarray, layers: Layers) -> None:
        """Write keys and values of tokens to their slots."""
        if not self._layers:
            size = self._tree.tokens
            self._layers = [
                (keys.new_empty(size, *keys.shape[1:]), values.new_empty(size, *values.shape[1:]))
                for keys, values in layers
            ]
        rows = self._tensor(slots)
        for own, computed in zip(self._layers, layers, strict=True):
            for each, new in zip(own, computed, strict=True):
                each[rows] = new

    def make_cache(
        self, rows: Sequence[Sequence[int] | np.ndarray], *, free: bool = False
    ) -> tuple[DynamicCache, torch.Tensor]:
        """A cache with the tokens of these slots in its rows, and its mask: 1 is a token, 0 is padding, on the left.

        With `free`, each layer's own tensors are freed once they are copied.
        """
        cache, width = DynamicCache(config=self._model.config), max(map(len, rows))
        index = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros_like(index)
        for row, slots in enumerate(rows):
            if len(slots):
                index[row, width - len(slots) :], mask[row, width - len(slots) :] = slots, 1
        if width:
            copied = self._tensor(index)
            for number in range(len(self._layers)):
                keys, values = (each[copied].transpose(1, 2) for each in self._layers[number])
                cache.update(keys, values, number)
                if free:
                    del keys, values
                    self._layers[number] = (self._tensor(index[:0]), self._tensor(index[:0]))
        return cache, self._tensor(mask)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _read_states(layer: object, past: int, is_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's keys and values after the first `past` columns, without those of padding."""
    plain = cast("DynamicLayer", layer)
    keys, values = cast("tuple[torch.Tensor, torch.Tensor]", (plain.keys, plain.values))
    return keys[:, :, past:].transpose(1, 2)[is_token], values[:, :, past:].transpose(1, 2)[is_token]


def _slice(pair: tuple[torch.Tensor, torch.Tensor], start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    return pair[0][start:end], pair[1][start:end]


def _cut_blocks(
    unread: dict[int, tuple[int, int]], max_tokens: int, window: int, levels: Sequence[int]
) -> Iterator[list[int]]:
    """Indices of nodes to read in one forward pass: of one level, of similar length, upper levels first.

    `unread` is the value of `find_unread`, `levels` has the level of each node.
    """
    by_level: dict[int, list[int]] = {}
    for index in unread:
        by_level.setdefault(levels[index], []).append(index)
    for _, indices in sorted(by_level.items()):
        block, before, own = list[int](), 0, 0
        for index in sorted(indices, key=unread.__getitem__):
            start, length = unread[index]
            most_before, most_own, rows = max(before, start), max(own, length), len(block) + 1
            width = most_before + most_own
            too_large = rows * most_own > max_tokens or rows * width > _MAX_CONTEXT_FACTOR * max_tokens
            if block and (width > window or too_large):
                yield block
                block, most_before, most_own = [], start, length
            block.append(index)
            before, own = most_before, most_own
        yield block


def _choose_block(model: PreTrainedModel, device: torch.device) -> int:
    """The most prompt tokens that a forward pass reads."""
    if device.type != "cpu":
        return _GPU_FACTOR * _MAX_BLOCK
    config = model.config.get_text_config(decoder=True)
    width = getattr(config, "intermediate_size", None) or config.hidden_size
    return max(_MIN_BLOCK, min(_MAX_BLOCK, _ACTIVATIONS // (4 * width)))


def _select_rows(blocks: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Rows of the joined blocks, by index; the blocks themselves if they are all the rows in order."""
    whole = torch.cat(blocks) if len(blocks) > 1 else blocks[0]
    return whole if torch.equal(rows, torch.arange(len(whole), device=rows.device)) else whole[rows]
