"""A chat and its supplement: what the generator reads of it, and the chat with the supplement in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import dspy

from sgt_modules.generator import SupplementGenerator
from sgt_modules.prompts import SUPPLEMENT

Messages = Sequence[Mapping[str, Any]]


def asked(messages: Messages) -> str:
    """The text of the last message where that is a user's; empty for any other chat, such as one that ends with a tool.

    >>> asked([{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}])
    '2+2?'
    >>> asked([{"role": "tool", "content": "4"}])
    ''
    """
    last = messages[-1] if messages else {}
    return "\n".join(_texts(last.get("content"))).strip() if last.get("role") == "user" else ""


def prompt_of(text: str, signature: type[dspy.Signature], role: str = "", *, generator: SupplementGenerator) -> str:
    """What the generator reads for a user's text: the task's instructions, and the text as the task's inputs.

    A text that names inputs itself, each at the beginning of a line (`question: ...`), is taken apart by them; any
    other one is the task's last input.

    >>> from sgt_modules.embedded import embedded_generator
    >>> task, generator = dspy.Signature("tables, question -> sql", "Write SQL."), embedded_generator()
    >>> prompt_of("How many?", task, generator=generator).splitlines()[-2:]
    ['tables: ', 'question: How many?']
    >>> prompt_of("tables: a(b)\\nquestion: How many?", task, generator=generator).splitlines()[-2:]
    ['tables: a(b)', 'question: How many?']
    """
    names = [name for name in signature.input_fields if name != SUPPLEMENT]
    return generator.prompt_for(signature, parted(text, names), role=role)


def parted(text: str, names: Collection[str]) -> dict[str, str]:
    """A text taken apart by the names that its lines begin with; one that begins otherwise is the last name's.

    >>> parted("tables: a(b)\\nquestion: How many?", ["tables", "question"])
    {'tables': 'a(b)', 'question': 'How many?'}
    >>> parted("How many?", ["tables", "question"])
    {'question': 'How many?'}
    """
    marked = re.compile(rf"^({'|'.join(map(re.escape, names))}):[ \t]*", re.MULTILINE)
    begin, *parts = marked.split(text)
    found = {[*names][-1]: text} if begin.strip() or not parts else dict(zip(parts[::2], parts[1::2], strict=True))
    return {name: value.strip() for name, value in found.items()}


def advised(messages: Messages, supplement: str, description: str) -> list[dict[str, Any]]:
    """The chat with a supplement at the end of its last message, under what the actor is told of it.

    >>> advised([{"role": "user", "content": "2+2?"}], "Add.", "Advice.")
    [{'role': 'user', 'content': '2+2?\\n\\nAdvice.\\nAdd.'}]
    """
    if not supplement:
        return [dict(each) for each in messages]
    *before, last = (dict(each) for each in messages)
    told, content = f"{description}\n{supplement}", last.get("content")
    if isinstance(content, list):
        return [*before, {**last, "content": [*cast("list[object]", content), {"type": "text", "text": told}]}]
    return [*before, {**last, "content": f"{content}\n\n{told}"}]


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = cast("list[object]", content) if isinstance(content, list) else []
    told = [cast("Mapping[str, object]", each) for each in parts if isinstance(each, Mapping)]
    return [str(each["text"]) for each in told if each.get("type") == "text" and "text" in each]
