"""For the API pages: doctests of a docstring as Python code, not as quotations.

mkdocstrings reads a docstring as Markdown, where `>>>` would be three nested quotations.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)


def fenced(text: str) -> str:
    """The text with each doctest, up to the next empty line, in a code fence.

    >>> fenced("Two.\\n\\n>>> 1 + 1\\n2")
    'Two.\\n\\n```pycon\\n>>> 1 + 1\\n2\\n```'
    """
    return _DOCTEST.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


class FencedDoctests(griffe.Extension):
    """Fences the doctests of every object that griffe reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe once an object and its members are read."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
