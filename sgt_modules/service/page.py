"""The service's web pages: the form with both answers, and the description of the API. Pure.

There are no scripts and no external files: the browser sends the form. All text from outside is escaped.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import parse_qs

from pydantic import BaseModel

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
"""The content security policy of both pages: no script runs, and nothing is fetched."""

_SILENT = "The generator keeps silent on this input."


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
    values = sent_form.values if sent_form else {}
    form = "".join(_input_html(each, values.get(each.name, "")) for each in fields)
    twice = " The program runs twice, with its supplements and without." if supplements else ""
    result_html = _result_html(sent_form) if sent_form else ""
    return _document_html(
        name,
        f"<h1>{escape(name)}</h1>"
        f'<p>Type an input and send it.{twice} <a href="docs">The API</a></p>'
        f'<form method="post" action="./" accept-charset="utf-8">{form}<button>Ask</button></form>{result_html}',
    )


def docs_page(name: str, fields: Sequence[Field], *, upstream: bool, keyed: bool) -> str:
    """Write the description of the API: each route, the inputs, and an example request."""
    key = "${SGT_KEYS%%,*}" if keyed else ""
    inputs = "".join(
        f"<tr><td><code>{escape(each.name)}</code></td><td><code>{escape(each.kind)}</code></td>"
        f"<td>{'needed' if each.default is None else f'by default <code>{escape(each.default)}</code>'}</td></tr>"
        for each in fields
    )
    chat = {
        True: "A chat for the endpoint behind this one: its last message gets a supplement, and that endpoint's answer "
        "comes back as it is.",
        False: f"The program as the chat model <code>{escape(name)}</code>: the last message is its input, taken apart "
        "by the names of inputs that lines begin with (<code>name: ...</code>).",
    }[upstream]
    rows = [
        (
            "POST /predict",
            "The inputs below as a JSON object; gives <code>outputs</code> and <code>supplements</code>.",
        ),
        (
            "POST /v1/chat/completions",
            f"{chat} <code>stream</code> and <code>stream_options.include_usage</code> are heeded.",
        ),
        ("GET /v1/models", "The models that chats may name."),
        ("GET /health", "Whether the service is there; needs no key."),
        ("GET /metrics", "Counts for Prometheus."),
        ("GET /openapi.json", "The routes for programs that read OpenAPI."),
    ]
    table = "".join(f"<tr><td><code>{route}</code></td><td>{about}</td></tr>" for route, about in rows)
    login = (
        "<p>Each request brings a key: <code>Authorization: Bearer KEY</code>. A browser asks for it as the password; "
        "the user's name may be anything.</p>"
        if keyed
        else ""
    )
    return _document_html(
        f"{name}: the API",
        f'<h1>{escape(name)}: the API</h1><p><a href="./">Try it</a></p>{login}'
        f"<h2>Routes</h2><table>{table}</table><h2>Inputs</h2><table>{inputs}</table>"
        f"<h2>A request</h2><pre>{escape(curl('http://ADDRESS', fields, key=key))}</pre>"
        "<h2>Errors</h2><p>All routes answer errors in OpenAI's form:</p>"
        '<pre>{"error": {"message": "...", "type": "...", "param": null, "code": "..."}}</pre>'
        "<p>400 and 422: the request. 401: the key. 404: no such route or model. 408, 413 and 429: the limits. "
        "502 and 504: what answers behind the service.</p>",
    )


def _input_html(field: Field, value: str) -> str:
    name, needed = escape(field.name), " required" if field.default is None else ""
    hint = f" <small>{escape(field.kind)}</small>"
    if field.default is not None:
        hint += f" <small>by default {escape(field.default)}</small>"
    about = f" <small>{escape(field.about)}</small>" if field.about else ""
    rows = 1 if field.kind in ("int", "float", "bool") else min(8, 2 + value.count("\n"))
    return (  # a line break right behind the tag is not part of the text
        f'<label for="in-{name}">{name}{hint}{about}</label>'
        f'<textarea id="in-{name}" name="{name}" rows="{rows}"{needed}>\n{escape(value)}</textarea>'
    )


def _result_html(sent_form: SentForm) -> str:
    if sent_form.problem or sent_form.result is None:
        problem = f'<pre class="problem" role="alert">{escape(sent_form.problem)}</pre>'
        return f"<section><h2>It did not work</h2>{problem}</section>"
    result = sent_form.result
    read = "".join(
        f"<h3>{escape(each.title)}{f' <small>{escape(each.kind)}</small>' if each.kind else ''}</h3>"
        f"{f'<pre>{escape(each.text)}</pre>' if each.text.strip() else f'<p>{_SILENT}</p>'}"
        for each in result.supplements
    )
    answers = "".join(
        f"<div><h2>{escape(each.title)}</h2><pre>{escape(each.text)}</pre></div>" for each in result.answers
    )
    same = ""
    if len(result.answers) > 1:
        alike = len({each.text for each in result.answers}) == 1
        same = f"<p>{'Both answers are the same.' if alike else 'The answers differ.'}</p>"
    title = "Supplements" if len(result.supplements) > 1 else "Supplement"
    supplements = f"<section><h2>{title}</h2>{read}</section>" if result.supplements else ""
    return f'{supplements}<section class="answers">{answers}</section>{same}'


def _document_html(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


_STYLE = """
:root{color-scheme:light dark;--line:#c9ced6;--soft:#f3f5f8;--dim:#586069;--go:#1f5fbf;--bad:#a3211b}
@media(prefers-color-scheme:dark){:root{--line:#444c56;--soft:#22272e;--dim:#a2abb6;--go:#6cb0ff;--bad:#ff8f85}}
*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,sans-serif}
main{max-width:68rem;margin:0 auto;padding:1.25rem}
h1{font-size:1.5rem;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:1.5rem 0 .5rem}
h3{font-size:.95rem;font-weight:600;margin:.75rem 0 .25rem;overflow-wrap:anywhere}
small{color:var(--dim);font-weight:400}
a{color:var(--go)}
label{display:block;font-weight:600;margin:1rem 0 .25rem;overflow-wrap:anywhere}
textarea{width:100%;font:inherit;padding:.5rem;border:1px solid var(--line);border-radius:6px;resize:vertical}
button{margin-top:1rem;font:inherit;font-weight:600;padding:.5rem 1.5rem;border:0;border-radius:6px;
background:#1f5fbf;color:#fff;cursor:pointer}
pre{margin:0;padding:.75rem;background:var(--soft);border:1px solid var(--line);border-radius:6px;
white-space:pre-wrap;overflow-wrap:anywhere}
.problem{border-color:var(--bad);color:var(--bad)}
.answers{display:grid;gap:0 1.25rem}
@media(min-width:48rem){.answers{grid-template-columns:repeat(auto-fit,minmax(20rem,1fr))}}
table{border-collapse:collapse;width:100%}
td{border-top:1px solid var(--line);padding:.5rem .75rem .5rem 0;vertical-align:top;overflow-wrap:anywhere}
td:first-child{min-width:8rem}
"""
