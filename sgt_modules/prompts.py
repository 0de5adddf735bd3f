"""Pure text: a predictor's inputs -> the generator's prompt; a signature with and without its supplement field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum

import dspy
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sgt_modules.errors import SetupError
from sgt_modules.kinds import FREE, Kind
from sgt_modules.states import mapping, text

SUPPLEMENT = "supplement"
"""The name of the input field that carries the supplement to the actor."""


@dataclass(frozen=True, slots=True)
class Template:
    """How the actor is shown a supplement: what it is told about the field, and the text with `{supplement}` in it.

    Raises `SetupError` for a text in which the supplement has no place.

    >>> Template("A hint.", "Hint (it may be wrong): {supplement}").shown("Count twice.")
    'Hint (it may be wrong): Count twice.'
    """

    description: str = "Advice for this input from a small model. It may be wrong."
    text: str = "{supplement}"

    def __post_init__(self) -> None:
        if "{supplement}" not in self.text:
            raise SetupError(f"Expected a text with {{supplement}} in it, got {self.text!r}. Say where it goes.")

    @classmethod
    def of_state(cls, state: object) -> Template:
        """The template of a saved program; the default one where an earlier version saved none."""
        found = mapping(state or {}, "a template's state")
        named = {each.name: text(found, each.name) for each in fields(cls) if each.name in found}
        return cls(**named)

    def shown(self, supplement: str) -> str:
        """What stands in the field for a supplement's text; nothing for an empty one."""
        return self.text.replace("{supplement}", supplement) if supplement.strip() else ""


ADVICE = Template()
"""The template that is used where none is given."""


def check_template(template: Template) -> Template:
    """The template itself; raises `SetupError` for anything else."""
    if not isinstance(template, Template):
        raise SetupError(f"Expected a Template, got {template!r}. Write Template(text='Hint: {{supplement}}').")
    return template


_OPENING = "Write a supplement that helps another model with this task."


def with_supplement(signature: type[dspy.Signature], template: Template = ADVICE) -> type[dspy.Signature]:
    """The signature with the supplement field as its last input; the same one if it has the field already.

    >>> list(with_supplement(dspy.Signature("question -> answer")).input_fields)
    ['question', 'supplement']
    """
    if SUPPLEMENT in signature.input_fields:
        return signature
    field = dspy.InputField(desc=template.description)
    return _keeping_instructions(signature, signature.append(SUPPLEMENT, field, str))


def without_supplement(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """The signature as it was before `with_supplement`, instructions included; the same one if it has no such field.

    >>> without_supplement(with_supplement(dspy.Signature("question -> answer"))).signature
    'question -> answer'
    """
    if SUPPLEMENT not in signature.input_fields:
        return signature
    return _keeping_instructions(signature, signature.delete(SUPPLEMENT))


def generator_prompt(
    signature: type[dspy.Signature], inputs: Mapping[str, object], *, kind: Kind | str | None = None, role: str = ""
) -> str:
    """What the generator reads: the task's instructions, each input on its own line, and no trailing newline.

    One generator serves every predictor of a program: with a `role` (the predictor's name there; a bare predictor's,
    `self`, says nothing) the prompt names it and its fields, in DSPy's own notation.

    Only exploration names a kind: a `Kind` with its instruction, `FREE` for one of the generator's own choice, or the
    bare name of a kind that is not in the table. Training rows and inference name none. An input that is not there
    reads as its default or as empty; the supplement field itself is never shown. The embedded models are trained on
    exactly this text.

    >>> print(generator_prompt(dspy.Signature("question -> answer", "Answer."), {"question": "2+2?"}, kind="free"))
    Write a supplement that helps another model with this task.
    Task: Answer.
    question: 2+2?
    Kind: a new one of your choice.
    """
    lines = [_OPENING, f"Task: {signature.instructions}"]
    if role not in ("", "self"):
        fields = (", ".join(names) for names in (_inputs(signature), signature.output_fields))
        lines.append(f"Role: {role} ({' -> '.join(fields)})")
    for name in _inputs(signature):
        default = signature.input_fields[name].default
        lines.append(f"{name}: {_text(inputs.get(name, '' if default is PydanticUndefined else default))}")
    prompt = "\n".join(lines)
    return prompt if kind is None else exploring(prompt, kind)


def _inputs(signature: type[dspy.Signature]) -> list[str]:
    """The task's own inputs."""
    return [name for name in signature.input_fields if name != SUPPLEMENT]


def exploring(prompt: str, kind: Kind | str) -> str:
    """A prompt that names no kind, turned into one that asks for a kind.

    >>> exploring("Task: Answer.", "checklist")
    'Task: Answer.\\nKind: checklist.'
    """
    if isinstance(kind, Kind):
        return f"{prompt}\nKind: {kind.name}. {kind.instruction}"
    return f"{prompt}\nKind: {'a new one of your choice' if kind == FREE else kind}."


def _keeping_instructions(old: type[dspy.Signature], new: type[dspy.Signature]) -> type[dspy.Signature]:
    """DSPy writes instructions of its own, which name every field, where the old ones are empty."""
    new.instructions = old.instructions
    return new


def _text(value: object) -> str:
    """A value as one text: a string as it is, anything else as JSON (what JSON does not know, through `str`)."""
    return value if isinstance(value, str) else json.dumps(_readable(value), ensure_ascii=False, default=str)


def _readable(value: object) -> object:
    """What a text model can make of a value: pictures, sound and files by their kind only, tools by what they do."""
    match value:
        case dspy.Image() | dspy.Audio() | dspy.File():
            return f"({type(value).__name__.lower()})"
        case dspy.Tool():
            return f"{value.name}: {value.desc or ''}".strip()
        case BaseModel():
            return {name: _readable(getattr(value, name)) for name in type(value).model_fields}
        case Mapping():
            return {str(name): _readable(each) for name, each in value.items()}
        case list() | tuple():
            return [_readable(each) for each in value]
        case set() | frozenset():
            return [_readable(each) for each in sorted(value, key=str)]
        case Enum():
            return value.value
        case _:
            return value
