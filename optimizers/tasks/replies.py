"""A model's reply as it is read: without its thoughts, and no longer than a reader has patience for."""

from __future__ import annotations

import re

from sgt_modules.replies import without_thoughts

FIRST, LAST = 2_000, 18_000
"""Letters that are read of a longer reply: an answer stands at the end, now and then at the beginning."""

_BOXED = re.compile(r"\\boxed\s{0,9}\{((?:[^{}]|\{[^{}]*\})*)\}")


def spoken(reply: str) -> str:
    """A reply without its thoughts (see `without_thoughts`); of one that is too long, both ends.

    >>> spoken("<think>Is it 5?</think>It is 4."), len(spoken("x" * 100_000))
    ('It is 4.', 20003)
    """
    reply = without_thoughts(reply)
    return f"{reply[:FIRST]}\n \n{reply[-LAST:]}" if len(reply) > FIRST + LAST else reply


def boxed(reply: str) -> str | None:
    """What stands in the last `\\\\boxed{}`; None where there is none.

    >>> boxed(r"First \\boxed{3}, then \\boxed{\\text{B}}.")
    '\\\\text{B}'
    """
    found = _BOXED.findall(reply)
    return found[-1] if found else None
