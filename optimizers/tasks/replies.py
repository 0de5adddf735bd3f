"""Prepares a model's reply for reading: without its thoughts, cut to a maximum length."""

from __future__ import annotations

import re

from sgt_modules.replies import remove_thoughts

FIRST_CHARACTERS, LAST_CHARACTERS = 2_000, 18_000
"""How many characters of a longer reply are read: an answer is at the end, sometimes at the beginning."""

_BOX = re.compile(r"\\boxed\s{0,9}\{((?:[^{}]|\{[^{}]*\})*)\}")


def visible_reply(reply: str) -> str:
    """Return a reply without its thoughts (see `remove_thoughts`); of a long reply, only both ends.

    >>> visible_reply("<think>Is it 5?</think>It is 4."), len(visible_reply("x" * 100_000))
    ('It is 4.', 20003)
    """
    reply = remove_thoughts(reply)
    if len(reply) <= FIRST_CHARACTERS + LAST_CHARACTERS:
        return reply
    return f"{reply[:FIRST_CHARACTERS]}\n \n{reply[-LAST_CHARACTERS:]}"


def find_boxed(reply: str) -> str | None:
    """Return the content of the last `\\\\boxed{}`; None if the reply has none.

    >>> find_boxed(r"First \\boxed{3}, then \\boxed{\\text{B}}.")
    '\\\\text{B}'
    """
    contents = _BOX.findall(reply)
    return contents[-1] if contents else None
