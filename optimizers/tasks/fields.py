"""The field of a structured reply that holds the answer: of JSON, a Python dictionary, a tag or a DSPy marker. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

_NAMES = (
    *("final_answer", "answer", "correct_answer", "answer_letter", "choice", "final_choice", "selected_option"),
    *("correct_option", "option", "letter", "selection", "final"),
)
"""Names of such a field, the surest first."""
_TAG = re.compile(r"<(?:final_?)?answer>(.*?)</(?:final_?)?answer>", re.I | re.S)
_MARKER = re.compile(r"\[\[ ## (\w{1,40}) ## \]\]")
_PAIR = re.compile(
    rf"""(['"])(?:{"|".join(_NAMES)})\1\s{{0,9}}:\s{{0,9}}(?:(['"])((?:(?!\2)[^\n]){{0,300}})\2|\[([^\]\n]{{0,300}})\])""",
    re.I,
)
"""One pair of a mapping that is no JSON: single quotes, or cut short."""
_DEPTH = 3
"""How deep a mapping may hold the field."""


def answer_field(reply: str) -> str | None:
    """What stands in the last answer field of a reply; None where it has none, empty where the field is.

    >>> answer_field("{'reasoning': 'Not A.', 'answer': 'B'}"), answer_field('{"answer": null}'), answer_field("B")
    ('B', '', None)
    """
    for read in (_tagged, _marked, _of_json, _of_pair):
        if (found := read(reply)) is not None:
            return found
    return None


def _tagged(reply: str) -> str | None:
    found = _TAG.findall(reply) if "</" in reply else []
    return found[-1] if found else None


def _marked(reply: str) -> str | None:
    """The text behind `[[ ## answer ## ]]`, up to the next marker."""
    parts = _MARKER.split(reply)
    found = [text for name, text in zip(parts[1::2], parts[2::2], strict=True) if name.lower() in _NAMES]
    return found[-1].strip() if found else None


def _of_json(reply: str) -> str | None:
    start, end = reply.find("{"), reply.rfind("}")
    if not 0 <= start < end:
        return None
    try:
        value: object = json.loads(reply[start : end + 1])
    except (ValueError, RecursionError):
        return None
    return _within(value, _DEPTH)


def _within(value: object, depth: int) -> str | None:
    """The answer in a mapping, or in a mapping that it holds."""
    if not isinstance(value, dict) or not depth:
        return None
    fields = {_name(key): each for key, each in cast("dict[str, Any]", value).items()}
    for name in _NAMES:
        if name in fields and not isinstance(fields[name], Mapping):
            return _written(fields[name])
    found = (_within(each, depth - 1) for each in fields.values())
    return next((each for each in found if each is not None), None)


def _name(key: str) -> str:
    return re.sub(r"[\s-]+", "_", key.strip().lower())


def _written(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_written(each) for each in cast("list[object]", value))
    return "" if value is None else str(value)


def _of_pair(reply: str) -> str | None:
    found = [each[3] or each[4] or "" for each in _PAIR.finditer(reply)]
    return re.sub(r"['\"]", "", found[-1]) if found else None
