"""A chat and its supplement: what the generator reads of it, and the chat with the supplement in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import dspy

from sgt_modules.errors import SetupError
from sgt_modules.prompts import SUPPLEMENT, generator_prompt

Messages = Sequence[Mapping[str, Any]]


def asked(messages: Messages) -> str:
    """The text of the last message, which must be a user's; raises `SetupError` for any other chat.

    >>> asked([{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}])
    '2+2?'
    """
    last = messages[-1] if messages else {}
    if not isinstance(last, Mapping) or last.get("role") != "user":
        raise SetupError("Expected messages whose last one is a user's.")
    return "\n".join(each for each in _texts(last.get("content")))


def prompt_of(text: str, signature: type[dspy.Signature], role: str = "") -> str:
    """What the generator reads for a user's text: the task's instructions, and the text as the task's inputs.

    A text that names inputs itself, each at the beginning of a line (`question: ...`), is taken apart by them; any
    other one is the task's last input.

    >>> task = dspy.Signature("tables, question -> sql", "Write SQL.")
    >>> prompt_of("How many?", task).splitlines()[-2:]
    ['tables: ', 'question: How many?']
    >>> prompt_of("tables: a(b)\\nquestion: How many?", task).splitlines()[-2:]
    ['tables: a(b)', 'question: How many?']
    """
    names = [name for name in signature.input_fields if name != SUPPLEMENT]
    marked = re.compile(rf"^({'|'.join(map(re.escape, names))}):[ \t]*", re.MULTILINE)
    begin, *parts = marked.split(text)
    inputs = {names[-1]: text} if begin.strip() or not parts else dict(zip(parts[::2], parts[1::2], strict=True))
    return generator_prompt(signature, {name: value.strip() for name, value in inputs.items()}, role=role)


def advised(messages: Messages, supplement: str, description: str) -> list[dict[str, Any]]:
    """The chat with a supplement at the end of its last message, under what the actor is told of it.

    >>> advised([{"role": "user", "content": "2+2?"}], "Add.", "Advice.")
    [{'role': 'user', 'content': '2+2?\\n\\nAdvice.\\nAdd.'}]
    """
    *before, last = (dict(each) for each in messages)
    if not supplement:
        return [*before, last]
    told, content = f"{description}\n{supplement}", last.get("content")
    if isinstance(content, list):
        return [*before, {**last, "content": [*cast("list[object]", content), {"type": "text", "text": told}]}]
    return [*before, {**last, "content": f"{content}\n\n{told}"}]


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise SetupError("Expected a message's content as a text, or as a list of parts.")
    parts = [each for each in cast("list[object]", content) if isinstance(each, Mapping)]
    return [str(each["text"]) for each in cast("list[Mapping[str, object]]", parts) if each.get("type") == "text"]
