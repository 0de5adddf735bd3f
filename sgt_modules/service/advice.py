"""Build the generator's prompt for a chat, and add the supplement to the chat. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import dspy

from sgt_modules.generator import SupplementGenerator
from sgt_modules.prompts import SUPPLEMENT

Messages = Sequence[Mapping[str, Any]]


def last_user_text(messages: Messages) -> str:
    """Return the text of the last message if it is a user's; empty if it is, for example, a tool's.

    >>> last_user_text([{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}])
    '2+2?'
    >>> last_user_text([{"role": "tool", "content": "4"}])
    ''
    """
    last = messages[-1] if messages else {}
    return "\n".join(_texts(last.get("content"))).strip() if last.get("role") == "user" else ""


def prompt_of(text: str, signature: type[dspy.Signature], role: str = "", *, generator: SupplementGenerator) -> str:
    """Return the generator's prompt for a user's text: the task's instructions, and the text as the task's inputs.

    A text with lines that begin with names of inputs (`question: ...`) is split there. Any other text is the task's
    last input.

    >>> from sgt_modules.embedded import embedded_generator
    >>> task, generator = dspy.Signature("tables, question -> sql", "Write SQL."), embedded_generator()
    >>> prompt_of("How many?", task, generator=generator).splitlines()[-2:]
    ['tables: ', 'question: How many?']
    >>> prompt_of("tables: a(b)\\nquestion: How many?", task, generator=generator).splitlines()[-2:]
    ['tables: a(b)', 'question: How many?']
    """
    names = [name for name in signature.input_fields if name != SUPPLEMENT]
    return generator.prompt_for(signature, split_inputs(text, names), role=role)


def split_inputs(text: str, names: Collection[str]) -> dict[str, str]:
    """Split a text at lines that begin with a name; a text that begins otherwise belongs to the last name.

    >>> split_inputs("tables: a(b)\\nquestion: How many?", ["tables", "question"])
    {'tables': 'a(b)', 'question': 'How many?'}
    >>> split_inputs("How many?", ["tables", "question"])
    {'question': 'How many?'}
    """
    marked = re.compile(rf"^({'|'.join(map(re.escape, names))}):[ \t]*", re.MULTILINE)
    begin, *parts = marked.split(text)
    inputs = {[*names][-1]: text} if begin.strip() or not parts else dict(zip(parts[::2], parts[1::2], strict=True))
    return {name: value.strip() for name, value in inputs.items()}


def add_supplement(messages: Messages, supplement: str, description: str) -> list[dict[str, Any]]:
    """Add a supplement to the end of a chat's last message, below a description for the actor.

    >>> add_supplement([{"role": "user", "content": "2+2?"}], "Add.", "Advice.")
    [{'role': 'user', 'content': '2+2?\\n\\nAdvice.\\nAdd.'}]
    """
    if not supplement:
        return [dict(each) for each in messages]
    *before, last = (dict(each) for each in messages)
    advice, content = f"{description}\n{supplement}", last.get("content")
    if isinstance(content, list):
        return [*before, {**last, "content": [*cast("list[object]", content), {"type": "text", "text": advice}]}]
    return [*before, {**last, "content": f"{content}\n\n{advice}"}]


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = cast("list[object]", content) if isinstance(content, list) else []
    mappings = [cast("Mapping[str, object]", each) for each in parts if isinstance(each, Mapping)]
    return [str(each["text"]) for each in mappings if each.get("type") == "text" and "text" in each]
