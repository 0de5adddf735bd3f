"""A causal language model that continues many prompts at once, each from its own seed. The runtime's only use of torch.

A continuation depends on its prompt, seed and temperature, and not on what else is in the batch: the draws come from
one stream of uniform numbers a row, and a token is the first whose cumulated probability exceeds the number.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging as transformers_logging

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BLOCK = 2048
"""Prompt tokens that are read at a time on a CPU, so that activations stay in its cache: twice as fast as 25,000."""

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt to continue: its token ids, the seed of its draws, the temperature (0 = the likeliest token), the most
    new tokens (at least 1)."""

    ids: tuple[int, ...]
    seed: int
    temperature: float
    limit: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a job became: its text, its number of tokens with the end token, their mean log-probability (natural,
    untempered), and whether the model ended it by itself."""

    text: str
    tokens: int
    logprob: float
    ended: bool


def batches(jobs: Iterable[Job], max_tokens: int) -> list[list[Job]]:
    """Jobs in order of length, cut so that rows x (longest prompt + most new tokens) stays within `max_tokens`.

    A job that is larger than that by itself is a batch of its own.

    >>> short, long = Job((1,), 0, 0.0, 3), Job((1, 2, 3), 0, 0.0, 3)
    >>> [len(batch) for batch in batches([long, short, short], 8)]
    [2, 1]
    """
    cut: list[list[Job]] = []
    most = 0
    for job in sorted(jobs, key=lambda job: (len(job.ids), job.limit)):
        most = max(most, job.limit)
        if not cut or (len(job.ids) + most) * (len(cut[-1]) + 1) > max_tokens:
            cut.append([])
            most = job.limit
        cut[-1].append(job)
    return cut


class Decoder:
    """The weights in memory. Not thread-safe: one `decode` at a time."""

    def __init__(
        self, folders: Sequence[Path], tokenizer: PreTrainedTokenizerBase, *, dtype: str = "auto", device: str = "auto"
    ) -> None:
        """`folders`: the model's, then the adapters' on top of it."""
        self.device = _device(device)
        self._tokenizer = tokenizer
        self._model = _load(folders, _dtype(dtype, self.device), self.device).eval()
        ends = self._model.generation_config.eos_token_id
        self._ends = _ids(tokenizer.eos_token_id if ends is None else ends)
        self._pad = next(iter((*_ids(tokenizer.pad_token_id), *self._ends)), 0)
        # A model's own file may ask for sampling, penalties or top-k; every draw here is ours.
        self._model.generation_config = GenerationConfig(
            eos_token_id=self._ends or None, pad_token_id=self._pad, do_sample=False
        )

    def decode(self, jobs: Iterable[Job], max_batch_tokens: int) -> dict[Job, Decoded]:
        """Continue every job; equal jobs once. `max_batch_tokens` bounds memory, as `batches` does."""
        done: dict[Job, Decoded] = {}
        with torch.inference_mode():
            for batch in batches(dict.fromkeys(jobs), max_batch_tokens):
                done.update(zip(batch, self._decode(batch), strict=True))
        return done

    def _decode(self, jobs: Sequence[Job]) -> list[Decoded]:
        prompts = list(dict.fromkeys(job.ids for job in jobs))
        ids, mask, shared = _aligned(prompts, self._pad, self.device)
        place = {prompt: row for row, prompt in enumerate(prompts)}
        rows = torch.tensor([place[job.ids] for job in jobs], device=self.device)
        draw = _Draw(jobs, self._ends, self._pad, self.device)
        output = cast("Any", self._model).generate(
            ids[rows],
            attention_mask=mask[rows],
            past_key_values=self._remember(ids, mask, shared, rows),
            max_new_tokens=max(job.limit for job in jobs),
            logits_processor=LogitsProcessorList([draw]),
        )
        return self._read(output[:, ids.shape[1] :].tolist(), draw)

    def _remember(self, ids: torch.Tensor, mask: torch.Tensor, shared: int, rows: torch.Tensor) -> DynamicCache | None:
        """The cache of `rows` of the prompts up to the last token: what they share is read once, and each prompt once.

        None for a model whose cache is of another shape; `generate` then reads every row by itself.
        """
        last = ids.shape[1] - 1
        start = DynamicCache(config=self._model.config)
        if last == 0 or any(type(layer) is not DynamicLayer for layer in start.layers):
            return None
        read = cast("torch.nn.Module", self._model.get_decoder())
        if shared:
            read(ids[:1, :shared], past_key_values=start, use_cache=True)
        positions = mask.cumsum(-1).sub_(1).clamp_(min=0)
        block = max(1, (_BLOCK if self.device.type == "cpu" else _BLOCK * 32) // ids.shape[1])
        caches = []
        for first in range(0, len(ids), block):
            part = slice(first, first + block)
            cache = copy.deepcopy(start)
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

    def _read(self, rows: list[list[int]], draw: _Draw) -> list[Decoded]:
        counts, totals, ended = draw.counts.tolist(), draw.totals.tolist(), (~draw.open).tolist()
        spoken = [row[: count - end] for row, count, end in zip(rows, counts, ended, strict=True)]
        texts = self._tokenizer.batch_decode(spoken, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [
            Decoded(text, count, total / count, end)
            for text, count, total, end in zip(texts, counts, totals, ended, strict=True)
        ]


def _rows(blocks: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    whole = torch.cat(blocks) if len(blocks) > 1 else blocks[0]
    return whole if torch.equal(rows, torch.arange(len(whole), device=rows.device)) else whole[rows]


def _aligned(
    prompts: Sequence[tuple[int, ...]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Token ids and attention mask of distinct prompts, and how many first tokens they share (not the last one).

    Padding stands between what they share and what they do not, so that every row ends in the last column.
    """
    low, high = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
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


class _Draw(LogitsProcessor):
    """Chooses each row's next token by inverse CDF, and keeps the log-probabilities of what it chose."""

    def __init__(self, jobs: Sequence[Job], ends: Sequence[int], pad: int, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        limits = [job.limit for job in jobs]
        temperatures = [job.temperature for job in jobs]
        self._step = 0
        self._limits = torch.tensor(limits, device=device)
        self._shortest = min(limits)
        self._sampled = torch.tensor([[each > 0] for each in temperatures], device=device)
        self._any, self._all = any(temperatures), all(temperatures)
        self._temperatures = torch.tensor([[each or 1.0] for each in temperatures], dtype=wide, device=device)
        self._uniforms = torch.from_numpy(_uniforms(jobs, max(limits))).to(wide).to(device) if self._any else None
        self._ends = torch.tensor(list(ends), dtype=torch.long, device=device)
        self._filler = ends[0] if ends else pad
        self.open = torch.ones(len(jobs), dtype=torch.bool, device=device)
        self.counts = torch.zeros(len(jobs), dtype=torch.long, device=device)
        self.totals = torch.zeros(len(jobs), dtype=wide, device=device)
        self._spent = torch.zeros_like(self.open)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = self._choose(scores)
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
        cumulated = (scores.to(self._temperatures.dtype) / self._temperatures).softmax(-1).cumsum(-1)
        # The sum may miss 1 by rounding: scale the number instead, so that a token with some probability is found.
        points = self._uniforms[:, self._step : self._step + 1] * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, points, right=True).clamp_(max=scores.shape[1] - 1)
        return drawn if self._all else torch.where(self._sampled, drawn, scores.argmax(-1, keepdim=True))


def _uniforms(jobs: Sequence[Job], steps: int) -> np.ndarray:
    """Numbers in [0, 1), one row a job. A row's stream depends on its prompt too, so that one seed over many prompts
    gives independent draws."""
    rows = np.zeros((len(jobs), steps))
    for row, job in zip(rows, jobs, strict=True):
        if job.temperature > 0:
            key = hashlib.blake2b(np.array(job.ids, dtype=np.int64).tobytes(), digest_size=16, salt=_salt(job.seed))
            stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key.digest(), "little")))
            row[: job.limit] = stream.random(job.limit)
    return rows


def _salt(seed: int) -> bytes:
    return (seed % 2**64).to_bytes(8, "little")


def _ids(token: object) -> list[int]:
    """Token ids as configurations give them: none, one or several."""
    if token is None:
        return []
    return [token] if isinstance(token, int) else [int(each) for each in cast("list[int]", token)]


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return {"cuda": torch.bfloat16, "mps": torch.float16}.get(device.type, torch.float32)
    if name not in _DTYPES:
        raise ValueError(f"Expected dtype 'auto' or one of {sorted(_DTYPES)}, got {name!r}.")
    return _DTYPES[name]


def _load(folders: Sequence[Path], dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    with _quietly():
        model = AutoModelForCausalLM.from_pretrained(
            folders[0], dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
        for adapter in folders[1:]:
            from peft import PeftModel

            # Merged weights are faster, but half precision would round a small adapter away.
            adapted = PeftModel.from_pretrained(model, str(adapter))
            model = adapted.merge_and_unload() if dtype in (torch.float32, torch.float64) else adapted
    return cast("PreTrainedModel", cast("torch.nn.Module", model).to(device))


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bar a model: a run loads one for each stage."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 asks a model for the old name of a property when it loads an adapter.
            old_name = "`is_gradient_checkpointing` is deprecated"
            warnings.filterwarnings("ignore", message=old_name, category=FutureWarning)
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
