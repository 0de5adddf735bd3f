"""The Python code in a model's answer."""

from __future__ import annotations

import re

_FENCED = re.compile(r"```(?:python3?|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.I | re.S)
_TAGGED = re.compile(r"```(?:python3?|py)", re.I)
_ENDS = re.compile(r"</code>|\n[ \t]*#*[ \t]*END SOLUTION|\n```", re.I)
_BEGINS = re.compile(r"^.*(?:<code>|BEGIN SOLUTION)[ \t]*\r?\n?", re.I | re.S)


def code_in(answer: str) -> str:
    """The code that an answer holds: its fenced blocks, or all of it, without the markers of DS-1000's prompts.

    Indentation stays: where a problem's gap stands within a function, the answer's code is its body.

    >>> code_in("Sort it:\\n```python\\ndf = df.sort_values('a')\\n```\\nDone.")
    "df = df.sort_values('a')"
    >>> code_in("    return x\\n</code>\\nEND SOLUTION")
    '    return x'
    """
    closes = answer.count("```") == 1 and _TAGGED.search(answer) is None and answer.partition("```")[0].strip()
    fenced: list[str] = [] if closes else _FENCED.findall(answer)
    text = "\n".join(each.strip("\r\n") for each in fenced) if fenced else answer
    text = _BEGINS.sub("", text)
    ends = _ENDS.search(text)
    return (text[: ends.start()] if ends else text).strip("\r\n").rstrip()
