"""A causal language model that continues many prompts at once, each from its own seed. The runtime's only use of torch.

A continuation depends on its prompt, seed and temperature, and not on what else is in the batch: the draws come from one
stream of uniform numbers a row, and a token is the first whose cumulated probability exceeds the number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor, LogitsProcessorList

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
        self, folder: Path, adapter: Path | None, tokenizer: PreTrainedTokenizerBase, *, dtype: str, device: str
    ) -> None:
        self.device = _device(device)
        self._tokenizer = tokenizer
        self._model = _load(folder, adapter, _dtype(dtype, self.device)).to(self.device).eval()
        ends = self._model.generation_config.eos_token_id
        ends = tokenizer.eos_token_id if ends is None else ends
        self._ends: list[int] = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        pad = tokenizer.pad_token_id
        self._pad: int = pad if pad is not None else next(iter(self._ends), 0)
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
        width = max(len(job.ids) for job in jobs)
        ids = np.full((len(jobs), width), self._pad)
        mask = np.zeros((len(jobs), width), dtype=np.int64)
        for row, job in enumerate(jobs):
            ids[row, width - len(job.ids) :] = job.ids
            mask[row, width - len(job.ids) :] = 1
        draw = _Draw(jobs, self._ends, self._pad, self.device)
        output = self._model.generate(
            torch.from_numpy(ids).to(self.device),
            attention_mask=torch.from_numpy(mask).to(self.device),
            max_new_tokens=max(job.limit for job in jobs),
            logits_processor=LogitsProcessorList([draw]),
        )
        return self._read(output[:, width:].tolist(), draw)

    def _read(self, rows: list[list[int]], draw: _Draw) -> list[Decoded]:
        counts, totals, ended = draw.counts.tolist(), draw.totals.tolist(), (~draw.open).tolist()
        spoken = [row[: count - end] for row, count, end in zip(rows, counts, ended, strict=True)]
        texts = self._tokenizer.batch_decode(spoken, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [
            Decoded(text, count, total / count, end)
            for text, count, total, end in zip(texts, counts, totals, ended, strict=True)
        ]


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


def _load(folder: Path, adapter: Path | None, dtype: torch.dtype) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    if adapter is None:
        return model
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, str(adapter))
    # Merged weights are faster, but half precision would round a small adapter away.
    return adapted.merge_and_unload() if dtype in (torch.float32, torch.float64) else adapted
