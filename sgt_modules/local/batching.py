"""What is decoded together: jobs of like length under a budget of tokens, which halves when memory runs out. Pure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sgt_modules.local.prefixes import families

logger = logging.getLogger(__name__)

ROOM = 16384
"""Tokens of a batch where memory is not the question: more are no faster on a CPU."""

Share = Literal["prefix", "batch"]
"""What is read once: each run of tokens that several prompts begin with, or the one that all of a batch begin with."""

_EXHAUSTED = ("out of memory", "can't allocate memory", "not enough memory")
"""How allocators complain: CUDA's and MPS's, PyTorch's own for CPUs on Unix, and on Windows."""


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt to continue: its token ids, the seed of its draws, the temperature (0 = the likeliest token), the most
    new tokens (at least 1), and the share of probability in (0, 1] that tokens are drawn from.

    `opening` is the text of the last ids: with it the reply begins, and it is none of what the model writes. With a
    `reply`, nothing is drawn: the model reads these tokens and its end token as though it wrote them, which tells how
    likely they are; `limit` is then one more than their number.
    """

    ids: tuple[int, ...]
    seed: int
    temperature: float
    limit: int
    top_p: float = 1.0
    opening: str = ""
    reply: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a job became: its text, its number of tokens with the end token, their mean log-probability (natural,
    untempered), and whether the model ended it by itself."""

    text: str
    tokens: int
    logprob: float
    ended: bool


def batches(jobs: Iterable[Job], max_tokens: int, *, alike: bool = False, near: bool = False) -> list[list[Job]]:
    """Jobs in order of length, cut so that rows x (longest prompt + most new tokens) stays within `max_tokens`.

    A job that is larger than that by itself is a batch of its own. With `alike`, a batch has prompts of one length;
    otherwise, with `near`, prompts that share a prefix stay together, and such groups are in order of length.

    >>> short, long = Job((1,), 0, 0.0, 3), Job((1, 2, 3), 0, 0.0, 3)
    >>> [len(batch) for batch in batches([long, short, short], 8)]
    [2, 1]
    >>> [len(batch) for batch in batches([long, short, short], 99, alike=True)]
    [2, 1]
    """
    cut: list[list[Job]] = []
    longest = most = 0
    for job in _ordered(jobs, near=near and not alike):
        longest, most = max(longest, len(job.ids)), max(most, job.limit)
        other = bool(cut) and alike and len(job.ids) != len(cut[-1][0].ids)
        if not cut or other or (longest + most) * (len(cut[-1]) + 1) > max_tokens:
            cut.append([])
            longest, most = len(job.ids), job.limit
        cut[-1].append(job)
    return cut


def _ordered(jobs: Iterable[Job], *, near: bool) -> list[Job]:
    """Short ones first; where they stay `near`, those of one family of prompts after each other."""
    ordered = sorted(jobs, key=lambda job: (len(job.ids), job.limit))
    if not near:
        return ordered
    groups = sorted(families([job.ids for job in ordered]), key=lambda group: max(map(len, group)))
    rank = {prompt: number for number, group in enumerate(groups) for prompt in group}
    return sorted(ordered, key=lambda job: rank[job.ids])


def roomy(free: int, token: int) -> int:
    """The tokens of a batch that half of a GPU's `free` bytes hold, a token's keys and values taking `token` bytes.

    The other half is for activations and logits. With 40 GB free and Qwen3-1.7B in bfloat16:

    >>> roomy(40 * 2**30, 2 * 28 * 8 * 128 * 2)
    187245
    """
    return max(ROOM, free // 2 // max(1, token))


def room_of(jobs: Sequence[Job]) -> int:
    """The tokens a batch may take: rows x (longest prompt + most new tokens).

    >>> room_of([Job((1, 2), 0, 0.0, 3), Job((1,), 0, 0.0, 4)])
    12
    """
    return len(jobs) * (max(len(job.ids) for job in jobs) + max(job.limit for job in jobs))


def within_memory(
    jobs: Iterable[Job],
    max_tokens: int,
    run: Callable[[Sequence[Job]], Sequence[Decoded]],
    *,
    alike: bool = False,
    near: bool = False,
    release: Callable[[], None] = lambda: None,
) -> tuple[dict[Job, Decoded], int]:
    """Every job run in batches, and the budget that held; equal jobs are run once.

    A batch that runs out of memory halves the budget, calls `release` and is cut anew with what is left; what is done
    stays done. Raises what `run` raises for a single job, as that can be cut no further.
    """
    left, done = dict.fromkeys(jobs), dict[Job, Decoded]()
    while left:
        for batch in batches(left, max_tokens, alike=alike, near=near):
            try:
                results = run(batch)
            except (RuntimeError, MemoryError) as error:
                if len(batch) == 1 or not exhausted(error):
                    raise
                results = None
            if results is None:  # past the handler, so that the error's frames no longer hold the batch's tensors
                max_tokens = min(max_tokens, room_of(batch)) // 2
                logger.warning("Out of memory on %d rows; going on with %d tokens a batch.", len(batch), max_tokens)
                release()
                break
            done.update(zip(batch, results, strict=True))
            for job in batch:
                del left[job]
    return done, max_tokens


def exhausted(error: Exception) -> bool:
    """Whether an error says that memory ran out.

    >>> exhausted(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")), exhausted(RuntimeError("shapes"))
    (True, False)
    """
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _EXHAUSTED)
