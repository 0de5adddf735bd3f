"""Finds the answer field of a structured reply: JSON, a Python dictionary, a tag or a DSPy marker. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

_NAMES = (
    *("final_answer", "answer", "correct_answer", "answer_letter", "choice", "final_choice", "selected_option"),
    *("correct_option", "option", "letter", "selection", "final"),
)
"""Names of an answer field, the most reliable first."""
_TAG = re.compile(r"<(?:final_?)?answer>(.*?)</(?:final_?)?answer>", re.I | re.S)
_MARKER = re.compile(r"\[\[ ## (\w{1,40}) ## \]\]")
_PAIR = re.compile(
    rf"""(['"])(?:{"|".join(_NAMES)})\1\s{{0,9}}:\s{{0,9}}(?:(['"])((?:(?!\2)[^\n]){{0,300}})\2|\[([^\]\n]{{0,300}})\])""",
    re.I,
)
"""A pair in a mapping that is not valid JSON: single quotes, or cut short."""
_DEPTH = 3
"""Maximum nesting depth of the field."""


def find_answer_field(reply: str) -> str | None:
    """Return the text of a reply's last answer field; None without such a field, empty if the field is empty.

    >>> [find_answer_field(each) for each in ("{'reasoning': 'Not A.', 'answer': 'B'}", '{"answer": null}', "B")]
    ['B', '', None]
    """
    for read in (_read_tag, _read_marker, _read_json, _read_pair):
        if (field := read(reply)) is not None:
            return field
    return None


def _read_tag(reply: str) -> str | None:
    texts = _TAG.findall(reply) if "</" in reply else []
    return texts[-1] if texts else None


def _read_marker(reply: str) -> str | None:
    """Return the text after `[[ ## answer ## ]]`, up to the next marker."""
    parts = _MARKER.split(reply)
    texts = [text for name, text in zip(parts[1::2], parts[2::2], strict=True) if name.lower() in _NAMES]
    return texts[-1].strip() if texts else None


def _read_json(reply: str) -> str | None:
    start, end = reply.find("{"), reply.rfind("}")
    if not 0 <= start < end:
        return None
    try:
        value: object = json.loads(reply[start : end + 1])
    except (ValueError, RecursionError):
        return None
    return _search_mapping(value, _DEPTH)


def _search_mapping(value: object, depth: int) -> str | None:
    """Return the answer in a mapping, or in a mapping inside it."""
    if not isinstance(value, dict) or not depth:
        return None
    mapping = cast("dict[str, Any]", value)
    fields = {re.sub(r"[\s-]+", "_", key.strip().lower()): each for key, each in mapping.items()}
    for name in _NAMES:
        if name in fields and not isinstance(fields[name], Mapping):
            return _to_text(fields[name])
    answers = (_search_mapping(each, depth - 1) for each in fields.values())
    return next((each for each in answers if each is not None), None)


def _to_text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_to_text(each) for each in cast("list[object]", value))
    return "" if value is None else str(value)


def _read_pair(reply: str) -> str | None:
    texts = [each[3] or each[4] or "" for each in _PAIR.finditer(reply)]
    return re.sub(r"['\"]", "", texts[-1]) if texts else None
