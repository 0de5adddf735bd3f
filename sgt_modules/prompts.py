"""Pure text: a predictor's inputs -> the generator's prompt; a signature with and without its supplement field."""

from __future__ import annotations

import json
from collections.abc import Mapping

import dspy
from pydantic import BaseModel

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
    return signature.append(SUPPLEMENT, dspy.InputField(desc=SUPPLEMENT_DESC), str)


def without_supplement(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """The signature as it was before `with_supplement`, instructions included; the same one if it has no such field.

    >>> without_supplement(with_supplement(dspy.Signature("question -> answer"))).signature
    'question -> answer'
    """
    return signature.delete(SUPPLEMENT) if SUPPLEMENT in signature.input_fields else signature


def generator_prompt(
    signature: type[dspy.Signature], inputs: Mapping[str, object], *, kind: Kind | str | None = None
) -> str:
    """What the generator reads: the task's instructions, each input on its own line, and no trailing newline.

    Only exploration names a kind: a `Kind` with its instruction, `FREE` for one of the generator's own choice, or the
    bare name of a kind that is not in the table. Training rows and inference name none. An input that is not there
    reads as empty; the supplement field itself is never shown. The embedded models are trained on exactly this text.

    >>> print(generator_prompt(dspy.Signature("question -> answer", "Answer."), {"question": "2+2?"}, kind="free"))
    Write a supplement that helps another model with this task.
    Task: Answer.
    question: 2+2?
    Kind: a new one of your choice.
    """
    lines = [_OPENING, f"Task: {signature.instructions}"]
    lines += [f"{name}: {_text(inputs.get(name, ''))}" for name in signature.input_fields if name != SUPPLEMENT]
    if kind is not None:
        lines.append(_kind_line(kind))
    return "\n".join(lines)


def _kind_line(kind: Kind | str) -> str:
    if isinstance(kind, Kind):
        return f"Kind: {kind.name}. {kind.instruction}"
    return "Kind: a new one of your choice." if kind == FREE else f"Kind: {kind}."


def _text(value: object) -> str:
    """A value as one text: a string as it is, anything else as JSON (what JSON does not know, through `str`)."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
