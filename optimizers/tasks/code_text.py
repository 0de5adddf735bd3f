"""Finds the Python code in a model's answer."""

from __future__ import annotations

import re

_CODE_BLOCK = re.compile(r"```(?:python3?|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.I | re.S)
_PYTHON_FENCE = re.compile(r"```(?:python3?|py)", re.I)
_END_MARKER = re.compile(r"</code>|\n[ \t]*#*[ \t]*END SOLUTION|\n```", re.I)
_BEGIN_MARKER = re.compile(r"^.*(?:<code>|BEGIN SOLUTION)[ \t]*\r?\n?", re.I | re.S)


def extract_code(answer: str) -> str:
    """Return the code in an answer: its fenced blocks, or all of it, without the markers of DS-1000's prompts.

    Indentation stays: if the gap of a problem is inside a function, the answer's code is the function's body.

    >>> extract_code("Sort it:\\n```python\\ndf = df.sort_values('a')\\n```\\nDone.")
    "df = df.sort_values('a')"
    >>> extract_code("    return x\\n</code>\\nEND SOLUTION")
    '    return x'
    """
    closes = answer.count("```") == 1 and _PYTHON_FENCE.search(answer) is None and answer.partition("```")[0].strip()
    fenced: list[str] = [] if closes else _CODE_BLOCK.findall(answer)
    text = "\n".join(each.strip("\r\n") for each in fenced) if fenced else answer
    text = _BEGIN_MARKER.sub("", text)
    ends = _END_MARKER.search(text)
    return (text[: ends.start()] if ends else text).strip("\r\n").rstrip()
