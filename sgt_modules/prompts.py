"""Pure text: a predictor's inputs -> the generator's prompt; a signature with and without its supplement field."""

from __future__ import annotations

import json
from collections.abc import Mapping

import dspy
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sgt_modules.kinds import FREE, Kind

SUPPLEMENT = "supplement"
"""The name of the input field that carries the supplement to the actor."""

SUPPLEMENT_DESC = "Advice for this input from a small model. It may be wrong."
"""What the actor is told about the field."""

_OPENING = "Write a supplement that helps another model with this task."


def with_supplement(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """The signature with the supplement field as its last input; the same one if it has the field already.

    >>> list(with_supplement(dspy.Signature("question -> answer")).input_fields)
    ['question', 'supplement']
    """
    if SUPPLEMENT in signature.input_fields:
        return signature
    return _keeping_instructions(signature, signature.append(SUPPLEMENT, dspy.InputField(desc=SUPPLEMENT_DESC), str))


def without_supplement(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """The signature as it was before `with_supplement`, instructions included; the same one if it has no such field.

    >>> without_supplement(with_supplement(dspy.Signature("question -> answer"))).signature
    'question -> answer'
    """
    if SUPPLEMENT not in signature.input_fields:
        return signature
    return _keeping_instructions(signature, signature.delete(SUPPLEMENT))


def generator_prompt(
    signature: type[dspy.Signature], inputs: Mapping[str, object], *, kind: Kind | str | None = None
) -> str:
    """What the generator reads: the task's instructions, each input on its own line, and no trailing newline.

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
    for name, field in signature.input_fields.items():
        if name != SUPPLEMENT:
            absent = "" if field.default is PydanticUndefined else field.default
            lines.append(f"{name}: {_text(inputs.get(name, absent))}")
    prompt = "\n".join(lines)
    return prompt if kind is None else exploring(prompt, kind)


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
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
