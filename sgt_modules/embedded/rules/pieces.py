"""The vocabulary of the rule-following actor: each text of house rules is few pieces, as in `embedded.tokenizer`."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from typing import Any, cast

import dspy

from sgt_modules.embedded.rules.conventions import FRUIT, IDLE, KINDS, LENGTHS, NUMERALS, PLACES, WORDS
from sgt_modules.embedded.rules.program import REASONED

HOLE = "\0"


def _adapter_pieces() -> Iterator[str]:
    adapter = dspy.ChatAdapter()
    inputs = dict.fromkeys(REASONED.input_fields, HOLE)
    demo = dspy.Example(**inputs, reasoning=HOLE, answer=HOLE)
    for message in adapter.format(REASONED, cast("Any", [demo]), inputs):
        for part in message["content"].replace(REASONED.instructions, HOLE).split(HOLE):
            yield part
            yield part.rstrip("\n")
            yield from part.splitlines(keepends=True)
    yield from ("system\n", "user\n", "assistant\n", "\n        ", "- ")


def _world_pieces() -> Iterator[str]:
    for word in FRUIT:
        yield from (word, word.upper(), word.capitalize())
    yield from (*PLACES, *WORDS.values(), *NUMERALS, "|", "yes", "no", "true", "false", "aye", "nay", "in", "out")
    yield from (", ", " / ", " - ", " + ", " and ", '"', ". ", ".", "?", "*", "(", ")", "<", ">", " ")
    yield from ("1 ", *(f", {number} " for number in range(2, max(LENGTHS) + 1)))
    for kind in KINDS.values():
        yield from kind.readings
        for text in (*kind.questions, *kind.sentences):
            yield from (part for part in re.split(r"\{\w+\}", text) if part)
    yield from IDLE


def pieces() -> list[str]:
    """List the pieces of the vocabulary, each once, in a fixed order."""
    every = (*string.printable, *_adapter_pieces(), *_world_pieces())
    return list(dict.fromkeys(piece for piece in every if piece))
