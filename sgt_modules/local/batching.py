"""Batches of requests: alike in length, within a budget of tokens, which halves when memory runs out. Pure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sgt_modules.local.prefix_tree import families
from sgt_modules.samples import Sample

logger = logging.getLogger(__name__)

ROOM = 16384
"""Tokens of a batch where memory does not matter: more are no faster on a CPU."""

Share = Literal["prefix", "batch"]
"""Which tokens are read once: each run that several prompts begin with, or the one that a whole batch begins with."""

_EXHAUSTED = ("out of memory", "can't allocate memory", "not enough memory")
"""Parts of allocators' messages: of CUDA and MPS, of PyTorch on a CPU under Unix, and under Windows."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A `SampleRequest`, or a chat for an actor, as the token ids of one prompt to continue.

    Args:
        ids: The prompt's token ids, the opening's included.
        seed: The seed of the draws.
        temperature: 0 takes the likeliest tokens.
        limit: The most new tokens, at least 1.
        top_p: The share of probability in (0, 1] that tokens are drawn from.
        opening: The text of the last ids. The reply begins with it, and the model does not write it.
        reply: Where it is set, nothing is drawn: the model reads these tokens and its end token as though it wrote
            them, which gives their log-probability. `limit` is then one more than their number.
    """

    ids: tuple[int, ...]
    seed: int
    temperature: float
    limit: int
    top_p: float = 1.0
    opening: str = ""
    reply: tuple[int, ...] = ()


def batches(
    requests: Iterable[TokenRequest], max_tokens: int, *, alike: bool = False, near: bool = False
) -> list[list[TokenRequest]]:
    """Requests in order of length, cut so that rows x (longest prompt + most new tokens) stays within `max_tokens`.

    A request that is larger than that is a batch of its own. With `alike`, a batch has prompts of one length;
    otherwise, with `near`, prompts that share a prefix stay together, and such groups are in order of length.

    >>> short, long = TokenRequest((1,), 0, 0.0, 3), TokenRequest((1, 2, 3), 0, 0.0, 3)
    >>> [len(batch) for batch in batches([long, short, short], 8)]
    [2, 1]
    >>> [len(batch) for batch in batches([long, short, short], 99, alike=True)]
    [2, 1]
    """
    cut: list[list[TokenRequest]] = []
    longest = most = 0
    for request in _ordered(requests, near=near and not alike):
        longest, most = max(longest, len(request.ids)), max(most, request.limit)
        other = bool(cut) and alike and len(request.ids) != len(cut[-1][0].ids)
        if not cut or other or (longest + most) * (len(cut[-1]) + 1) > max_tokens:
            cut.append([])
            longest, most = len(request.ids), request.limit
        cut[-1].append(request)
    return cut


def _ordered(requests: Iterable[TokenRequest], *, near: bool) -> list[TokenRequest]:
    """Short requests first; with `near`, prompts of one family stand together."""
    ordered = sorted(requests, key=lambda request: (len(request.ids), request.limit))
    if not near:
        return ordered
    groups = sorted(families([request.ids for request in ordered]), key=lambda group: max(map(len, group)))
    rank = {prompt: number for number, group in enumerate(groups) for prompt in group}
    return sorted(ordered, key=lambda request: rank[request.ids])


def roomy(free: int, token: int) -> int:
    """The tokens of a batch that half of a GPU's `free` bytes hold, a token's keys and values taking `token` bytes.

    The other half is for activations and logits. With 40 GB free and Qwen3-1.7B in bfloat16:

    >>> roomy(40 * 2**30, 2 * 28 * 8 * 128 * 2)
    187245
    """
    return max(ROOM, free // 2 // max(1, token))


def room_of(requests: Sequence[TokenRequest]) -> int:
    """The tokens a batch may take: rows x (longest prompt + most new tokens).

    >>> room_of([TokenRequest((1, 2), 0, 0.0, 3), TokenRequest((1,), 0, 0.0, 4)])
    12
    """
    return len(requests) * (max(len(request.ids) for request in requests) + max(request.limit for request in requests))


def within_memory(
    requests: Iterable[TokenRequest],
    max_tokens: int,
    run: Callable[[Sequence[TokenRequest]], Sequence[Sample]],
    *,
    alike: bool = False,
    near: bool = False,
    release: Callable[[], None] = lambda: None,
) -> tuple[dict[TokenRequest, Sample], int]:
    """Run every request in batches; return the samples, and the budget that fitted. Equal requests run once.

    A batch that runs out of memory halves the budget and calls `release`; what is left is cut into batches again, and
    what is done stays done. Raises what `run` raises for a single request, as that can be cut no further.
    """
    left, done = dict.fromkeys(requests), dict[TokenRequest, Sample]()
    while left:
        for batch in batches(left, max_tokens, alike=alike, near=near):
            try:
                results = run(batch)
            except (RuntimeError, MemoryError) as error:
                if len(batch) == 1 or not exhausted(error):
                    raise
                results = None
            if results is None:  # outside the handler, so that the error's frames hold the batch's tensors no longer
                max_tokens = min(max_tokens, room_of(batch)) // 2
                logger.warning("Out of memory on %d rows; going on with %d tokens a batch.", len(batch), max_tokens)
                release()
                break
            done.update(zip(batch, results, strict=True))
            for request in batch:
                del left[request]
    return done, max_tokens


def exhausted(error: Exception) -> bool:
    """Whether an error says that memory ran out.

    >>> exhausted(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")), exhausted(RuntimeError("shapes"))
    (True, False)
    """
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _EXHAUSTED)
