"""The service's web pages: the form with both answers, and the description of the API. Pure.

There are no scripts and no external files: the browser sends the form. The templates escape all text from outside.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
"""The content security policy of both pages: no script runs, and nothing is fetched."""


@dataclass(frozen=True, slots=True)
class Field:
    """An input of the form. `default` is the value of an empty field; None if the field is required."""

    name: str
    kind: str
    about: str = ""
    default: str | None = None

    @property
    def example(self) -> object:
        """A value of the field's type, for the example request.

        >>> Field("question", "str").example, Field("times", "int").example
        ('...', 1)
        """
        return {"str": "...", "int": 1, "float": 1.0, "bool": True}.get(self.kind, "...")


@dataclass(frozen=True, slots=True)
class Column:
    """A text with its title; `kind` is set for a supplement."""

    title: str
    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an input: its supplements, and the answers to compare."""

    supplements: Sequence[Column]
    answers: Sequence[Column]


@dataclass(frozen=True, slots=True)
class SentForm:
    """A form that a user sent: its values, and the result or the problem."""

    values: Mapping[str, str]
    result: Result | None = None
    problem: str = ""


def fields_of(inputs: type[BaseModel]) -> list[Field]:
    """Return the fields of a program's inputs."""
    fields: list[Field] = []
    for name, each in inputs.model_fields.items():
        kind = getattr(each.annotation, "__name__", "") if isinstance(each.annotation, type) else str(each.annotation)
        fields.append(Field(name, kind or "Any", "", None if each.is_required() else _text(each.default)))
    return fields


def read_form(body: bytes, fields: Sequence[Field]) -> dict[str, str]:
    """Read a form's values by the names of its fields; others are dropped.

    >>> read_form(b"question=2%2B2%3F&x=1", [Field("question", "str")])
    {'question': '2+2?'}
    """
    try:
        form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        form = dict[str, list[str]]()
    return {each.name: form[each.name][0].replace("\r\n", "\n") for each in fields if each.name in form}


def read_values(values: Mapping[str, str], fields: Sequence[Field]) -> dict[str, Any]:
    """Convert a form's texts to the program's inputs: empty ones keep their default; fields other than text are JSON.

    >>> fields = [Field("q", "str"), Field("n", "int"), Field("l", "list"), Field("d", "int", default="1")]
    >>> read_values({"q": "4", "n": "4", "l": "[1]", "d": ""}, fields)
    {'q': '4', 'n': 4, 'l': [1]}
    """
    by_name = {each.name: each for each in fields}
    return {
        name: text if by_name[name].kind == "str" else _read(text)
        for name, text in values.items()
        if text.strip() or by_name[name].default is None
    }


def curl(address: str, fields: Sequence[Field], *, key: str = "") -> str:
    """Write a command that calls the program; `key` is the key, or the shell's variable for it.

    >>> curl("http://localhost:8000", [Field("question", "str")])
    'curl http://localhost:8000/predict -H \\'Content-Type: application/json\\' -d \\'{"question": "..."}\\''
    """
    body = {each.name: each.example for each in fields if each.default is None}
    login = f' -H "Authorization: Bearer {key}"' if key else ""
    content = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {address}/predict{login} -H 'Content-Type: application/json' -d {content}"


def page(name: str, fields: Sequence[Field], sent_form: SentForm | None = None, *, supplements: bool = True) -> str:
    """Write the page: a form with the program's inputs, and below it the result of the sent form."""
    template = _templates().get_template("form.html.jinja")
    return template.render(name=name, fields=fields, sent_form=sent_form, supplements=supplements)


def docs_page(name: str, fields: Sequence[Field], *, upstream: bool, keyed: bool) -> str:
    """Write the description of the API: each route, the inputs, and an example request."""
    request = curl("http://ADDRESS", fields, key="${SGT_KEYS%%,*}" if keyed else "")
    template = _templates().get_template("api.html.jinja")
    return template.render(name=name, fields=fields, upstream=upstream, keyed=keyed, request=request)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
