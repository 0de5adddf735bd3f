"""For the API page: doctests as Python code, and each object once, at the module that defines it."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)


def fenced(text: str) -> str:
    """Return the text with a code fence around each doctest, up to the next empty line.

    mkdocstrings reads a docstring as Markdown, where `>>>` would be three nested quotations.

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


class DefinedHere(griffe.Extension):
    """Hides names that a package only imports from its modules."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called by griffe once a whole package is read."""
        _hide_imported(pkg)


def _hide_imported(module: griffe.Module) -> None:
    module.exports = None
    for each in module.modules.values():
        if isinstance(each, griffe.Module):
            _hide_imported(each)
