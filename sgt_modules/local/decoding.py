"""A causal language model that continues many prompts at once, each from its own seed. The runtime's only use of torch.

A continuation depends on its prompt, seed and temperature, and not on what else is in the batch: the draws come from
one stream of uniform numbers a row, and a token is the first whose cumulated probability exceeds the number.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sgt_modules.local.activity import Pace, Work, working
from sgt_modules.local.batching import ROOM, Share, TokenRequest, roomy, within_memory
from sgt_modules.local.cpu_decoding import Row, drawn, given, instead, write
from sgt_modules.local.forward_hooks import watched
from sgt_modules.local.loading import cache_argument, one_core, release
from sgt_modules.local.prefill import aligned, read_batch, read_tree
from sgt_modules.local.prefix_cache import PrefixMemory
from sgt_modules.local.prefix_tree import tree_of
from sgt_modules.samples import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sgt_modules.local.loading import Loaded

_SMALL = 4_000_000
"""Parameters of a model that is too small to be shared out over a CPU's cores while several callers wait for it."""

_REMEMBERED = 512 * 2**20
"""Bytes of what several prompts began with that are kept at most: 20,000 tokens of a model of 0.5 B parameters."""


class Decoder:
    """A model at work. Safe for many threads: each batch waits for its turn at the model.

    `leaving`: whether rows leave a batch as they end, which asks after each token and pays on a CPU; otherwise
    transformers' `generate` goes on until all have ended. By default what suits the device; the replies are the same.
    `share`: whether each run of tokens that several prompts of a batch begin with is read once (`"prefix"`), or only
    the one that all of them begin with (`"batch"`). `remember` is how many bytes of such runs are kept for later
    batches; by default some of the free memory for a large model, and nothing for a small one. `tokens_read` counts
    prompt tokens that the model has read. `name` is the model's, for `sgt_modules.local.activity`.
    """

    def __init__(
        self,
        loaded: Loaded,
        tokenizer: PreTrainedTokenizerBase,
        *,
        leaving: bool | None = None,
        share: Share = "prefix",
        remember: int | None = None,
        name: str = "model",
    ) -> None:
        self.device, self.share, self.tokens_read = loaded.device, share, 0
        self._leaving = loaded.device.type == "cpu" if leaving is None else leaving
        self._loaded, self._tokenizer = loaded, tokenizer
        with loaded.model() as model:
            ends = model.generation_config.eos_token_id
            self._ends = _ids(tokenizer.eos_token_id if ends is None else ends)
            self._pad = next(iter((*_ids(tokenizer.pad_token_id), *self._ends)), 0)
            self._window = _window(model)
            # A model's own file may ask for sampling, penalties or top-k; every draw here is ours.
            model.generation_config = GenerationConfig(
                eos_token_id=self._ends or None, pad_token_id=self._pad, do_sample=False
            )
            self._large = model.num_parameters() > _SMALL
            self._small = loaded.device.type == "cpu" and not self._large
            self._room = ROOM if self._small else _room(model, loaded.device)
        if remember is None:
            remember = min(_REMEMBERED, _unused(loaded.device) // 16) if self._large else 0
        self._earlier = PrefixMemory(remember) if share == "prefix" and remember and self._window else None
        self._fits = sys.maxsize
        self._name, self._pace = name, Pace()

    def decode(
        self,
        requests: Iterable[TokenRequest],
        max_batch_tokens: int | None,
        *,
        sparing: bool = False,
        direct: bool = True,
    ) -> dict[TokenRequest, Sample]:
        """Continue every request; equal requests once.

        `max_batch_tokens` bounds memory, as `batches` does; None is what the device seems to hold, and halves from then
        on where that is too much. `sparing` leaves other threads all cores but one, where the model is small. `direct`
        is for the requests of one caller, and not of a queue. Raises `Abandoned` where someone stops the work.
        """
        budget = min(max_batch_tokens or self._room, self._fits)
        alike, near = self._window is None, self.share == "prefix"
        requests = list(dict.fromkeys(requests))
        work = Work(self._name, len(requests), *_size(requests), pace=self._pace, direct=direct)
        with one_core() if sparing and self._small else nullcontext(), working(work):
            run = partial(self._watched, work)
            done, held = within_memory(requests, budget, run, alike=alike, near=near, release=self._release)
        if held < budget:
            self._fits = held
        return done

    def _release(self) -> None:
        if self._earlier is not None:
            self._earlier.clear()
        release()

    def _watched(self, work: Work, requests: Sequence[TokenRequest]) -> list[Sample]:
        """As `_decode`, seen by `work`."""
        with (
            self._loaded.model() as model,
            work.batch(len(requests), *_size(requests)),
            watched(model, work, inside=self._large),
        ):
            return self._decode(requests)

    def _decode(self, requests: Sequence[TokenRequest]) -> list[Sample]:
        limit = max(request.limit for request in requests)
        with self._loaded.model() as model, torch.inference_mode():
            ids, mask, cache = self._begin(model, requests, limit)
            if cache is not None and self._leaving:
                return self._read(write(model, cache, mask, requests, _uniforms(requests, limit), self._ends))
            draw = _Draw(requests, self._ends, self._pad, self.device)
            output = cast("Any", model).generate(
                ids,
                attention_mask=mask,
                max_new_tokens=limit,
                logits_processor=LogitsProcessorList([draw]),
                **{cache_argument(cast("Any", model).forward): cache},
            )
            return self._read(draw.rows(output[:, ids.shape[1] :]))

    def _begin(
        self, model: PreTrainedModel, requests: Sequence[TokenRequest], limit: int
    ) -> tuple[torch.Tensor, torch.Tensor, DynamicCache | None]:
        """Token ids and mask of the prompts, a row for each request, and the cache of all tokens but the last."""
        prompts = list(dict.fromkeys(request.ids for request in requests))
        shares = self._window is not None and max(map(len, prompts)) + limit <= self._window
        several = len(prompts) > 1 or self._earlier is not None
        tree = tree_of(prompts) if shares and self.share == "prefix" and several else None
        ids, mask, shared = aligned(prompts, self._pad, self.device, share=shares and tree is None)
        place = {prompt: row for row, prompt in enumerate(prompts)}
        rows = torch.tensor([place[request.ids] for request in requests], device=self.device)
        if self._window is None or (len(requests) == 1 and tree is None):
            self.tokens_read += sum(len(request.ids) for request in requests)
            return ids[rows], mask[rows], None
        self.tokens_read += len(requests)  # the last tokens of the prompts, which each row's first step reads
        if tree is not None:
            asked = [request.ids for request in requests]
            cache, read = read_tree(model, tree, asked, self._pad, self._window, self.device, self._earlier)
            self.tokens_read += read
        else:
            self.tokens_read += shared + sum(len(prompt) - 1 - shared for prompt in prompts)
            cache = read_batch(model, ids, mask, shared, rows)
        return ids[rows], mask[rows], cache

    def _read(self, rows: Sequence[Row]) -> list[Sample]:
        spoken = [row.tokens[: len(row.tokens) - row.ended] for row in rows]
        texts = self._tokenizer.batch_decode(spoken, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [
            Sample(
                f"{row.request.opening}{text}",
                len(row.request.ids),
                len(row.tokens),
                row.total / len(row.tokens),
                cut=not row.ended,
            )
            for text, row in zip(texts, rows, strict=True)
        ]


def _window(model: PreTrainedModel) -> int | None:
    """The most tokens, padding included, over which attention is the same wherever padding stands among them: how far
    sliding windows reach.

    None for a model whose memory of its tokens is no plain cache of keys and values (recurrent, convolutional,
    chunked), or that counts places by itself: there each row is read by itself, and never padded. Nor is it where
    transformers' own attention rounds double precision's mask to minus infinity, and a padded row to no number.
    """
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=model.config).layers
    placed = "position_ids" in inspect.signature(cast("Any", model.get_decoder()).forward).parameters
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    rounds = model.dtype == torch.float64 and config._attn_implementation == "eager"
    if rounds or not (placed and plain and layers) or getattr(config, "attention_chunk_size", None):
        return None
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min(windows, default=sys.maxsize)


def _room(model: PreTrainedModel, device: torch.device) -> int:
    """The tokens of a batch by default: more for a model whose weights take long to read, and many on a GPU, as it is
    idle with few, and as it holds them."""
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    values = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width
    if device.type == "cuda":
        return roomy(_unused(device), values * model.dtype.itemsize)
    return max(2 * ROOM, min(4 * ROOM, _unused(device) // 4 // (values * 4)))


def _unused(device: torch.device) -> int:
    """Bytes of the device's memory that are free."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free()


def _free() -> int:
    """Bytes of this machine's memory that are free; 0 where it does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows and macOS have no such numbers
        return 0


class _Draw(LogitsProcessor):
    """Chooses each row's next token by inverse CDF, and keeps the log-probabilities of what it chose."""

    def __init__(self, requests: Sequence[TokenRequest], ends: Sequence[int], pad: int, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._requests = requests
        limits = [request.limit for request in requests]
        temperatures = [request.temperature for request in requests]
        self._step = 0
        self._limits = torch.tensor(limits, device=device)
        self._shortest = min(limits)
        self._sampled = torch.tensor([[each > 0] for each in temperatures], device=device)
        self._any, self._all = any(temperatures), all(temperatures)
        self._temperatures = torch.tensor([[each or 1.0] for each in temperatures], dtype=wide, device=device)
        self._shares = torch.tensor([[request.top_p] for request in requests], dtype=wide, device=device)
        self._uniforms = torch.from_numpy(_uniforms(requests, max(limits))).to(wide).to(device) if self._any else None
        fixed = given(requests, max(limits))
        self._fixed = None if fixed is None else fixed.to(device)
        self._ends = torch.tensor(list(ends), dtype=torch.long, device=device)
        self._ending = list(ends)
        self._filler = ends[0] if ends else pad
        self.open = torch.ones(len(requests), dtype=torch.bool, device=device)
        self.counts = torch.zeros(len(requests), dtype=torch.long, device=device)
        self.totals = torch.zeros(len(requests), dtype=wide, device=device)
        self._spent = torch.zeros_like(self.open)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = self._choose(scores)
        if self._fixed is not None:
            tokens = instead(tokens, scores, self._fixed[:, self._step : self._step + 1], self._ending)
        chosen = scores.gather(1, tokens).squeeze(1) - scores.logsumexp(-1)
        tokens = tokens.squeeze(1)
        counted = self.open
        if self._step >= self._shortest:  # rows at their own limit: end them, and count nothing more
            self._spent = self._limits <= self._step
            tokens = tokens.masked_fill(self._spent, self._filler)
            counted = self.open & ~self._spent
        self.totals += torch.where(counted, chosen, 0.0)
        self.counts += counted
        self.open = self.open & ~(counted & torch.isin(tokens, self._ends))
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    def _choose(self, scores: torch.Tensor) -> torch.Tensor:
        """One token a row, as a column."""
        if self._uniforms is None:
            return scores.argmax(-1, keepdim=True)
        points = self._uniforms[:, self._step : self._step + 1]
        tokens = drawn(scores, self._temperatures, points, self._shares)
        return tokens if self._all else torch.where(self._sampled, tokens, scores.argmax(-1, keepdim=True))

    def rows(self, output: torch.Tensor) -> list[Row]:
        """What `generate` gave, without what stands behind a row's end."""
        sums = zip(
            self._requests, output.tolist(), self.counts.tolist(), self.totals.tolist(), self.open.tolist(), strict=True
        )
        return [Row(request, tokens[:count], total, not open_) for request, tokens, count, total, open_ in sums]


def _uniforms(requests: Sequence[TokenRequest], steps: int) -> np.ndarray:
    """Numbers in [0, 1), one row for each request.

    A row's stream depends on its prompt too, so that one seed gives independent draws over many prompts.
    """
    rows = np.zeros((len(requests), steps))
    for row, request in zip(rows, requests, strict=True):
        if request.temperature > 0:
            prompt = np.array(request.ids, dtype=np.int64).tobytes()
            key = hashlib.blake2b(prompt, digest_size=16, salt=_salt(request.seed))
            stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key.digest(), "little")))
            row[: request.limit] = stream.random(request.limit)
    return rows


def _size(requests: Sequence[TokenRequest]) -> tuple[int, int]:
    """The tokens of all prompts, and the most that their replies may take."""
    return sum(len(request.ids) for request in requests), sum(request.limit for request in requests)


def _salt(seed: int) -> bytes:
    return (seed % 2**64).to_bytes(8, "little")


def _ids(token: object) -> list[int]:
    """Token ids as configurations give them: none, one or several."""
    if token is None:
        return []
    return [token] if isinstance(token, int) else [int(each) for each in cast("list[int]", token)]
