"""A prompt as its sentences, which joined are the prompt again: what impact is measured of, and a prompt shortened by.

`sentencex` (Wikimedia; some 300 languages in one pass, no model, no download) finds the ends of sentences. What it
takes apart is kept whole here: code between fences is one sentence; each item of a list, heading and row of a table
begins a new one, and so does the paragraph after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import sentencex

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_ITEM = re.compile(r"\s*(?:[-*+•‣◦]|\(?(?:\d{1,3}|[A-Za-z])[.)])[ \t]+")
_HEADING = re.compile(r"\s*#{1,6}[ \t]")
_ROW = re.compile(r"\s*\|")


def split_sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text, each with the white space behind it: joined, they are the text.

    `language` (ISO 639) says whose abbreviations and ordinals count; sentences of other languages are found too.

    >>> split_sentences("Use e.g. a table. Then:\\n1. Add. Carry.\\n2. Stop.")
    ['Use e.g. a table. ', 'Then:\\n', '1. Add. ', 'Carry.\\n', '2. Stop.']
    """
    parts: list[str] = []
    for block in _split_blocks(text):
        for part in _split_block(block, language):
            if parts and not (part.strip() and parts[-1].strip()):
                parts[-1] += part
            else:
                parts.append(part)
    return parts


def _split_block(block: str, language: str) -> list[str]:
    """A block's sentences; a list's marker belongs to the first."""
    if _FENCE.match(block) or _ROW.match(block) or _HEADING.match(block):
        return [block]
    found = _ITEM.match(block)
    marker = found[0] if found else ""
    rest = cast("list[str]", list(cast("Any", sentencex).segment(language, block[len(marker) :])))
    return [marker + rest[0], *rest[1:]] if rest else [block]


def _split_blocks(text: str) -> Iterator[str]:
    """Runs of lines that no sentence crosses."""
    block, closing, listed = "", "", False
    for line in text.splitlines(keepends=True):
        if closing:
            block += line
            if line.strip().startswith(closing) and not line.strip().strip(closing[0]):
                yield block
                block, closing = "", ""
            continue
        fence = _FENCE.match(line)
        own = bool(fence or _ITEM.match(line) or _HEADING.match(line) or _ROW.match(line))
        outdented = listed and bool(line.strip()) and not line[0].isspace()
        if block and (own or outdented or _is_whole(block)):
            yield block
            block = ""
        listed = bool(_ITEM.match(line)) or (listed and not outdented and bool(line.strip()))
        closing = fence[1] if fence else ""
        block += line
    if block:
        yield block


def _is_whole(block: str) -> bool:
    """Whether a block is whole as it is: a heading, a row of a table, a paragraph that a blank line ended."""
    return bool(_HEADING.match(block) or _ROW.match(block)) or not block.splitlines()[-1].strip()
