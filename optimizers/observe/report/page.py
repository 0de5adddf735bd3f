"""One HTML page of a template: its style and script inside, and a policy that lets it load nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from optimizers.observe.report.texts import p_text, share, signed, span

_TEMPLATES = Path(__file__).parent / "templates"
THEME = "theme.js"
"""The script of every page: light and dark, tables that sort."""


def rendered(template: str, *, title: str, scripts: Sequence[str] = (), **content: object) -> str:
    """The page's text. Whatever `content` holds is escaped; the scripts of the package are the only ones that may run.

    >>> "<script>alert" in rendered("base.html.jinja", title="<script>alert(1)</script>")
    False
    """
    script = "\n".join(_file(name) for name in (THEME, *scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            style=Markup(_file("style.css")),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            **content,
        )
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(share=share, signed=signed, span=span, p_text=p_text)
    return made


@cache
def _file(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
