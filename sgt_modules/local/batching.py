"""Cuts requests into batches of similar length, within a budget of tokens that halves when memory runs out. Pure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sgt_modules.local.prefix_tree import group_by_prefix
from sgt_modules.samples import Sample

BATCH_TOKENS = 16384
"""Tokens of a batch if memory is no limit: on a CPU, larger batches are no faster."""

Share = Literal["prefix", "batch"]
"""Which shared tokens are read once: each prefix that several prompts share, or only the one of the whole batch."""

_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")
"""Parts of allocators' error messages: CUDA and MPS, PyTorch on a CPU under Unix, and under Windows."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One prompt to continue, as token ids: a `SampleRequest`, or a chat with an actor.

    Args:
        ids: The prompt's token ids, the opening's included.
        seed: The seed of the draws.
        temperature: 0 chooses the likeliest tokens.
        limit: The most new tokens, at least 1.
        top_p: The share of probability in (0, 1] that tokens are drawn from.
        opening: The text of the last ids. The reply begins with it, and the model does not write it.
        reply: The tokens of a given reply. If set, nothing is drawn: the model reads these tokens and its end token as
            though it wrote them, which gives their log-probability. `limit` is then one more than their number.
    """

    ids: tuple[int, ...]
    seed: int
    temperature: float
    limit: int
    top_p: float = 1.0
    opening: str = ""
    reply: tuple[int, ...] = ()


def cut_batches(
    requests: Iterable[TokenRequest], max_tokens: int, *, equal_lengths: bool = False, group_prefixes: bool = False
) -> list[list[TokenRequest]]:
    """Batches of requests, short ones first, each with rows x (longest prompt + most new tokens) up to `max_tokens`.

    A request that is larger than that is a batch of its own. With `equal_lengths`, all prompts of a batch have the same
    length; otherwise, with `group_prefixes`, prompts that share a prefix stay together, and the groups are sorted by
    their longest prompts.

    >>> short, long = TokenRequest((1,), 0, 0.0, 3), TokenRequest((1, 2, 3), 0, 0.0, 3)
    >>> [len(batch) for batch in cut_batches([long, short, short], 8)]
    [2, 1]
    >>> [len(batch) for batch in cut_batches([long, short, short], 99, equal_lengths=True)]
    [2, 1]
    """
    batches: list[list[TokenRequest]] = []
    longest = most = 0
    for request in _sort_requests(requests, group_prefixes=group_prefixes and not equal_lengths):
        longest, most = max(longest, len(request.ids)), max(most, request.limit)
        other_length = bool(batches) and equal_lengths and len(request.ids) != len(batches[-1][0].ids)
        if not batches or other_length or (longest + most) * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
            longest, most = len(request.ids), request.limit
        batches[-1].append(request)
    return batches


def _sort_requests(requests: Iterable[TokenRequest], *, group_prefixes: bool) -> list[TokenRequest]:
    """Short requests first; with `group_prefixes`, prompts that share a prefix stay together."""
    by_length = sorted(requests, key=lambda request: (len(request.ids), request.limit))
    if not group_prefixes:
        return by_length
    groups = sorted(group_by_prefix([request.ids for request in by_length]), key=lambda group: max(map(len, group)))
    rank = {prompt: number for number, group in enumerate(groups) for prompt in group}
    return sorted(by_length, key=lambda request: rank[request.ids])


def count_gpu_tokens(free_bytes: int, token_bytes: int) -> int:
    """The tokens of a batch whose keys and values take half of a GPU's free bytes, at `token_bytes` a token.

    The other half is for activations and logits. With 40 GB free and Qwen3-1.7B in bfloat16:

    >>> count_gpu_tokens(40 * 2**30, 2 * 28 * 8 * 128 * 2)
    187245
    """
    return max(BATCH_TOKENS, free_bytes // 2 // max(1, token_bytes))


def count_batch_tokens(requests: Sequence[TokenRequest]) -> int:
    """The most tokens of a batch: rows x (longest prompt + most new tokens).

    >>> count_batch_tokens([TokenRequest((1, 2), 0, 0.0, 3), TokenRequest((1,), 0, 0.0, 4)])
    12
    """
    return len(requests) * (max(len(request.ids) for request in requests) + max(request.limit for request in requests))


def run_in_batches(
    requests: Iterable[TokenRequest],
    max_tokens: int,
    run: Callable[[Sequence[TokenRequest]], Sequence[Sample]],
    *,
    equal_lengths: bool = False,
    group_prefixes: bool = False,
    free_memory: Callable[[], None] = lambda: None,
) -> tuple[dict[TokenRequest, Sample], int]:
    """Run all requests in batches; return their samples, and the token budget that fits in memory.

    Equal requests run once; batches are cut as in `cut_batches`. If a batch runs out of memory, the budget halves,
    `free_memory` is called, and the requests without a sample are cut into batches again. Raises the error of `run` if
    a single request runs out of memory, as it can be cut no further.
    """
    left, samples = dict.fromkeys(requests), dict[TokenRequest, Sample]()
    while left:
        for batch in cut_batches(left, max_tokens, equal_lengths=equal_lengths, group_prefixes=group_prefixes):
            try:
                results = run(batch)
            except (RuntimeError, MemoryError) as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                results = None
            if results is None:  # outside the handler, so that the error's frames hold the batch's tensors no longer
                max_tokens = min(max_tokens, count_batch_tokens(batch)) // 2
                logging.getLogger(__name__).warning(
                    "Out of memory on %d rows; going on with %d tokens a batch.", len(batch), max_tokens
                )
                free_memory()
                break
            samples.update(zip(batch, results, strict=True))
            for request in batch:
                del left[request]
    return samples, max_tokens


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out.

    >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    True
    >>> is_out_of_memory(RuntimeError("shapes"))
    False
    """
    return isinstance(error, MemoryError) or any(part in str(error).lower() for part in _MEMORY_MESSAGES)
