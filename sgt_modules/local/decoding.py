"""Decoder: a causal language model writes the replies to a batch of prompts, each with its own seed.

A reply depends on its prompt, seed and temperature, and not on the other rows of the batch: each row has its own stream
of uniform numbers, and a token is the first whose cumulated probability exceeds the row's next number.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sgt_modules.local.activity import track_work
from sgt_modules.local.batching import BATCH_TOKENS, Share, TokenRequest, count_gpu_tokens, run_in_batches
from sgt_modules.local.cpu_decoding import Reply, decode_on_cpu
from sgt_modules.local.devices import free_memory, read_free_memory, use_one_core
from sgt_modules.local.forward_hooks import track_passes
from sgt_modules.local.loading import find_cache_argument
from sgt_modules.local.prefill import align_prompts, prefill_batch, prefill_tree
from sgt_modules.local.prefix_cache import PrefixCache
from sgt_modules.local.prefix_tree import build_prefix_tree
from sgt_modules.local.token_sampling import draw_tokens, put_given_tokens, stack_given_tokens
from sgt_modules.local.work_progress import Pace, Work
from sgt_modules.samples import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sgt_modules.local.loading import LoadedModel

_SMALL_MODEL = 4_000_000
"""The most parameters of a small model, which one core of a CPU decodes while several callers use the others."""

_MAX_CACHE_BYTES = 512 * 2**20
"""The most bytes of prefixes that are kept for later batches: 20,000 tokens of a model of 0.5 B parameters."""


class Decoder:
    """Writes replies with a model. Thread-safe: each batch waits until the model is free.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        drop_ended_rows: Whether a row leaves the batch when its reply ends, which saves time on a CPU, the default
            there. Otherwise transformers' `generate` continues until all rows have ended. The replies are the same.
        share: Which shared tokens are read once: each prefix that several prompts of a batch share (`"prefix"`), or
            only the one that all of them share (`"batch"`).
        cache_bytes: How many bytes of shared prefixes are kept for later batches; by default a sixteenth of the free
            memory, up to 512 MiB, for a large model, and 0 for a small one.
        name: The model's name, for `sgt_modules.local.activity`.

    `tokens_read` counts the prompt tokens that the model has read.
    """

    def __init__(
        self,
        model: LoadedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        drop_ended_rows: bool | None = None,
        share: Share = "prefix",
        cache_bytes: int | None = None,
        name: str = "model",
    ) -> None:
        self.device, self.share, self.tokens_read = model.device, share, 0
        self._drop_ended_rows = model.device.type == "cpu" if drop_ended_rows is None else drop_ended_rows
        self._model, self._tokenizer = model, tokenizer
        with model.borrow() as borrowed:
            ends = borrowed.generation_config.eos_token_id
            self._ends = _list_ids(tokenizer.eos_token_id if ends is None else ends)
            self._pad = next(iter((*_list_ids(tokenizer.pad_token_id), *self._ends)), 0)
            self._window = _find_padding_window(borrowed)
            # A model's own file may set sampling, penalties or top-k; `_TokenChooser` makes every draw here.
            borrowed.generation_config = GenerationConfig(
                eos_token_id=self._ends or None, pad_token_id=self._pad, do_sample=False
            )
            self._large = borrowed.num_parameters() > _SMALL_MODEL
            self._small_on_cpu = model.device.type == "cpu" and not self._large
            self._batch_tokens = BATCH_TOKENS if self._small_on_cpu else _choose_batch_tokens(borrowed, model.device)
        if cache_bytes is None:
            cache_bytes = min(_MAX_CACHE_BYTES, read_free_memory(model.device) // 16) if self._large else 0
        self._prefix_cache = PrefixCache(cache_bytes) if share == "prefix" and cache_bytes and self._window else None
        self._fitting_tokens = sys.maxsize
        """The budget of tokens that fits in memory, once a larger one did not."""
        self._name, self._pace = name, Pace()

    def decode(
        self,
        requests: Iterable[TokenRequest],
        max_batch_tokens: int | None,
        *,
        one_core: bool = False,
        direct: bool = True,
    ) -> dict[TokenRequest, Sample]:
        """The samples of all requests; equal requests are decoded once.

        `max_batch_tokens` is the limit of `cut_batches`; without one, it depends on the device's memory, and halves for
        this and later calls if memory runs out. With `one_core`, a small model computes on one core of a CPU. `direct`
        is whether one caller passed all the requests; otherwise they come from a queue. Raises `WorkCancelled`.
        """
        budget = min(max_batch_tokens or self._batch_tokens, self._fitting_tokens)
        requests = list(dict.fromkeys(requests))
        work = Work(self._name, len(requests), *_count_tokens(requests), pace=self._pace, direct=direct)
        with use_one_core() if one_core and self._small_on_cpu else nullcontext(), track_work(work):
            samples, fitting = run_in_batches(
                requests,
                budget,
                partial(self._decode_tracked, work),
                equal_lengths=self._window is None,
                group_prefixes=self.share == "prefix",
                free_memory=self._free_memory,
            )
        if fitting < budget:
            self._fitting_tokens = fitting
        return samples

    def _free_memory(self) -> None:
        if self._prefix_cache is not None:
            self._prefix_cache.clear()
        free_memory()

    def _decode_tracked(self, work: Work, requests: Sequence[TokenRequest]) -> list[Sample]:
        """As `_decode`, with the progress counted by `work`."""
        with (
            self._model.borrow() as model,
            work.track_batch(len(requests), *_count_tokens(requests)),
            track_passes(model, work, inside=self._large),
        ):
            return self._decode(requests)

    def _decode(self, requests: Sequence[TokenRequest]) -> list[Sample]:
        limit = max(request.limit for request in requests)
        with self._model.borrow() as model, torch.inference_mode():
            ids, mask, cache = self._prefill(model, requests, limit)
            if cache is not None and self._drop_ended_rows:
                uniforms = _draw_uniforms(requests, limit)
                return self._make_samples(decode_on_cpu(model, cache, mask, requests, uniforms, self._ends))
            chooser = _TokenChooser(requests, self._ends, self._pad, self.device)
            output = cast("Any", model).generate(
                ids,
                attention_mask=mask,
                max_new_tokens=limit,
                logits_processor=LogitsProcessorList([chooser]),
                **{find_cache_argument(cast("Any", model).forward): cache},
            )
            return self._make_samples(chooser.make_replies(output[:, ids.shape[1] :]))

    def _prefill(
        self, model: PreTrainedModel, requests: Sequence[TokenRequest], limit: int
    ) -> tuple[torch.Tensor, torch.Tensor, DynamicCache | None]:
        """Token ids and mask of the prompts, a row for each request, and the cache of all tokens but the last.

        Without a cache (None), no token is read yet.
        """
        prompts = list(dict.fromkeys(request.ids for request in requests))
        can_share = self._window is not None and max(map(len, prompts)) + limit <= self._window
        several = len(prompts) > 1 or self._prefix_cache is not None
        tree = build_prefix_tree(prompts) if can_share and self.share == "prefix" and several else None
        ids, mask, shared = align_prompts(prompts, self._pad, self.device, share=can_share and tree is None)
        row_of = {prompt: row for row, prompt in enumerate(prompts)}
        rows = torch.tensor([row_of[request.ids] for request in requests], device=self.device)
        if self._window is None or (len(requests) == 1 and tree is None):
            self.tokens_read += sum(len(request.ids) for request in requests)
            return ids[rows], mask[rows], None
        self.tokens_read += len(requests)  # the last token of each prompt, which the first step of decoding reads
        if tree is not None:
            by_row = [request.ids for request in requests]
            cache, read = prefill_tree(model, tree, by_row, self._pad, self._window, self.device, self._prefix_cache)
            self.tokens_read += read
        else:
            self.tokens_read += shared + sum(len(prompt) - 1 - shared for prompt in prompts)
            cache = prefill_batch(model, ids, mask, shared, rows)
        return ids[rows], mask[rows], cache

    def _make_samples(self, replies: Sequence[Reply]) -> list[Sample]:
        without_end = [reply.tokens[: len(reply.tokens) - reply.has_ended] for reply in replies]
        texts = self._tokenizer.batch_decode(without_end, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [
            Sample(
                f"{reply.request.opening}{text}",
                len(reply.request.ids),
                len(reply.tokens),
                reply.logprob_sum / len(reply.tokens),
                cut=not reply.has_ended,
            )
            for text, reply in zip(texts, replies, strict=True)
        ]


def _find_padding_window(model: PreTrainedModel) -> int | None:
    """The most tokens of a row, padding included, for which the place of the padding has no effect on attention.

    It is the reach of the model's sliding windows, and without limit for a model that has none. None for a model whose
    rows must not be padded at all:

    - its state is no plain cache of keys and values (recurrent, convolutional, chunked attention),
    - it takes no positions but counts them itself,
    - it computes in double precision with transformers' eager attention, whose mask makes a padded row NaN.
    """
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=model.config).layers
    takes_positions = "position_ids" in inspect.signature(cast("Any", model.get_decoder()).forward).parameters
    plain_cache = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    makes_nan = model.dtype == torch.float64 and config._attn_implementation == "eager"
    if makes_nan or not (takes_positions and plain_cache and layers) or getattr(config, "attention_chunk_size", None):
        return None
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min(windows, default=sys.maxsize)


def _choose_batch_tokens(model: PreTrainedModel, device: torch.device) -> int:
    """The default tokens of a batch for a large model or a GPU, by the free memory.

    Large batches pay for a model whose weights take long to read, and on a GPU, which few tokens leave idle.
    """
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    values = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width
    if device.type == "cuda":
        return count_gpu_tokens(read_free_memory(device), values * model.dtype.itemsize)
    return max(2 * BATCH_TOKENS, min(4 * BATCH_TOKENS, read_free_memory(device) // 4 // (values * 4)))


class _TokenChooser(LogitsProcessor):
    """Chooses each row's next token for `generate`, and sums up the log-probabilities of the tokens.

    It sets the logits of all other tokens to minus infinity, so that `generate` takes the chosen ones.
    """

    def __init__(self, requests: Sequence[TokenRequest], ends: Sequence[int], pad: int, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._requests = requests
        limits = [request.limit for request in requests]
        temperatures = [request.temperature for request in requests]
        self._step = 0
        self._limits = torch.tensor(limits, device=device)
        self._shortest = min(limits)
        self._sampled = torch.tensor([[each > 0] for each in temperatures], device=device)
        self._all_sampled = all(temperatures)
        self._temperatures = torch.tensor([[each or 1.0] for each in temperatures], dtype=wide, device=device)
        self._top_p = torch.tensor([[request.top_p] for request in requests], dtype=wide, device=device)
        self._uniforms: torch.Tensor | None = None
        if any(temperatures):
            self._uniforms = torch.from_numpy(_draw_uniforms(requests, max(limits))).to(wide).to(device)
        given = stack_given_tokens(requests, max(limits))
        self._given = None if given is None else given.to(device)
        self._ends = torch.tensor(list(ends), dtype=torch.long, device=device)
        self._end_list = list(ends)
        self._filler = ends[0] if ends else pad
        self._open = torch.ones(len(requests), dtype=torch.bool, device=device)
        self._counts = torch.zeros(len(requests), dtype=torch.long, device=device)
        self._logprob_sums = torch.zeros(len(requests), dtype=wide, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = self._choose(scores)
        if self._given is not None:
            given = self._given[:, self._step : self._step + 1]
            tokens = put_given_tokens(tokens, scores, given, self._end_list)
        logprobs = scores.gather(1, tokens).squeeze(1) - scores.logsumexp(-1)
        tokens = tokens.squeeze(1)
        counted = self._open
        if self._step >= self._shortest:  # end the rows that are at their own limit, and count no more of their tokens
            at_limit = self._limits <= self._step
            tokens = tokens.masked_fill(at_limit, self._filler)
            counted = self._open & ~at_limit
        self._logprob_sums += torch.where(counted, logprobs, 0.0)
        self._counts += counted
        self._open = self._open & ~(counted & torch.isin(tokens, self._ends))
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    def _choose(self, scores: torch.Tensor) -> torch.Tensor:
        """One token a row, as a column."""
        if self._uniforms is None:
            return scores.argmax(-1, keepdim=True)
        points = self._uniforms[:, self._step : self._step + 1]
        tokens = draw_tokens(scores, self._temperatures, points, self._top_p)
        return tokens if self._all_sampled else torch.where(self._sampled, tokens, scores.argmax(-1, keepdim=True))

    def make_replies(self, output: torch.Tensor) -> list[Reply]:
        """The replies in the output of `generate`, without the tokens after a row's end."""
        counts, sums, is_open = self._counts.tolist(), self._logprob_sums.tolist(), self._open.tolist()
        rows = zip(self._requests, output.tolist(), counts, sums, is_open, strict=True)
        return [
            Reply(request, tokens[:count], total, not still_open) for request, tokens, count, total, still_open in rows
        ]


def _draw_uniforms(requests: Sequence[TokenRequest], steps: int) -> np.ndarray:
    """Uniform numbers in [0, 1), a row for each request and a column for each step.

    A row's stream depends on its prompt too, so that one seed gives independent draws over many prompts.
    """
    rows = np.zeros((len(requests), steps))
    for row, request in zip(rows, requests, strict=True):
        if request.temperature > 0:
            prompt = np.array(request.ids, dtype=np.int64).tobytes()
            key = hashlib.blake2b(prompt, digest_size=16, salt=_make_salt(request.seed))
            stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key.digest(), "little")))
            row[: request.limit] = stream.random(request.limit)
    return rows


def _count_tokens(requests: Sequence[TokenRequest]) -> tuple[int, int]:
    """The tokens of all prompts, and the most tokens of all replies."""
    return sum(len(request.ids) for request in requests), sum(request.limit for request in requests)


def _make_salt(seed: int) -> bytes:
    return (seed % 2**64).to_bytes(8, "little")


def _list_ids(token: object) -> list[int]:
    """The token ids of a configuration's value: None, one id or several."""
    if token is None:
        return []
    return [token] if isinstance(token, int) else [int(each) for each in cast("list[int]", token)]
