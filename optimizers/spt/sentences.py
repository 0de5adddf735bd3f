"""Splits a prompt into sentences, whose join is the prompt: the units of impact and of shortening.

`sentencex` (Wikimedia; about 300 languages in one pass, no model, no download) finds the ends of sentences. It does not
know Markdown, so this module adds: fenced code is one sentence; each list item, heading and table row begins a new
sentence, and so does the paragraph after it.
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
    """Split a text into sentences, each with the white space after it; joined, they are the text.

    `language` (ISO 639) selects the abbreviations and ordinals; sentences of other languages are found too.

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
    """The sentences of a block; a list marker belongs to the first."""
    if _FENCE.match(block) or _ROW.match(block) or _HEADING.match(block):
        return [block]
    found = _ITEM.match(block)
    marker = found[0] if found else ""
    rest = cast("list[str]", list(cast("Any", sentencex).segment(language, block[len(marker) :])))
    return [marker + rest[0], *rest[1:]] if rest else [block]


def _split_blocks(text: str) -> Iterator[str]:
    """Yields groups of lines; no sentence continues from one group to the next."""
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
    """Whether a block is complete: a heading, a table row, a paragraph that a blank line ended."""
    return bool(_HEADING.match(block) or _ROW.match(block)) or not block.splitlines()[-1].strip()
