"""Make text storable, and a supplement harmless before it enters another model's prompt. Pure.

A supplement is text from a model. It must not forge the markers that an adapter puts between fields, close a tag, or
start a chat turn. A space is inserted into such text: a person or a language model reads it the same, but no parser
takes it for a marker. All other text stays the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_KEPT = "\n\t"
_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Unicode marks that change the direction in which text is shown."""

_SPACED = (
    re.compile(r"\[(?=\[\s*##)"),  # [[ ## field ## ]], as ChatAdapter and JSONAdapter write it
    re.compile(r"<(?=[|\uff5c])"),  # <|im_start|>, <|eot_id|>
    re.compile(r"[|\uff5c](?=>)"),
    re.compile(r"<(?=/?(?:s|bos|eos|think|start_of_turn|end_of_turn|SYS)>|<SYS>)", re.IGNORECASE),
    re.compile(r"\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS)\])", re.IGNORECASE),
)
"""Patterns after which a space is inserted."""

_TURN = re.compile(
    r"^([^\S\n]*)(system|user|human|assistant|model|developer|tool)(?=\s*:)", re.IGNORECASE | re.MULTILINE
)


def clean_text(text: str) -> str:
    """Replaces what a database cannot hold: NUL, and halves of surrogate pairs.

    >>> clean_text("a\\x00b")
    'a\ufffdb'
    """
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", "\ufffd") if "\0" in text else text


def harmless(text: str, fields: Iterable[str]) -> str:
    """Remove control characters, and insert a space into text that looks like a marker, a tag or a chat turn.

    `fields` are the names of the signature's fields. Only their tags and headings change; other markup and code stay
    the same.

    >>> harmless("[[ ## sql ## ]] SELECT 1", ["sql"])
    '[ [ ## sql ## ]] SELECT 1'
    >>> harmless("</question><b>bold</b>", ["question"])
    '< /question><b>bold</b>'
    >>> harmless("Right: 4; wrong: 5.", ["answer"])
    'Right: 4; wrong: 5.'
    """
    text = _DIRECTION.sub("", "".join(each for each in text if each in _KEPT or unicodedata.category(each) != "Cc"))
    for marker in _SPACED:
        text = marker.sub(lambda match: f"{match[0]} ", text)
    text = _TURN.sub(r"\1\2 ", text)
    names = "|".join(re.escape(name) for name in (*fields, "completed"))
    text = re.sub(rf"<(?=/?\s*(?:{names})\b)", "< ", text, flags=re.IGNORECASE)
    return re.sub(rf"^(?=(?:{names})\s*:)", "- ", text, flags=re.MULTILINE)
