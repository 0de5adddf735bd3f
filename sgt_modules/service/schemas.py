"""A program's inputs as a type that requests are checked by, and its outputs as JSON."""

from __future__ import annotations

import inspect
import typing
from typing import Any, cast

import dspy
from pydantic import BaseModel, ConfigDict, PydanticSchemaGenerationError, create_model
from pydantic_core import PydanticUndefined, to_jsonable_python

from sgt_modules.prompts import SUPPLEMENT


def build_input_model(program: dspy.Module) -> type[BaseModel]:
    """The inputs that a program takes, with their types: its signature's, or those that its `forward` names.

    An input without a type has that of a predictor's field of the same name, or any.

    >>> found = build_input_model(dspy.ChainOfThought("question: str, count: int -> answer: float"))
    >>> found(question="How many?", count=3).model_dump()
    {'question': 'How many?', 'count': 3}
    """
    fields = _signature_fields(program)
    if not isinstance(program, dspy.Predict) and (named := _parameters(program)):
        fields = {
            name: (fields.get(name, (Any, ...))[0] if kind is Any else kind, default)
            for name, (kind, default) in named.items()
        }
    types: dict[str, Any] = {name: (_checkable_type(kind), default) for name, (kind, default) in fields.items()}
    return create_model("Inputs", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **types)


def dump_outputs(prediction: object) -> dict[str, Any]:
    """What a program returned, as JSON holds it; what JSON does not know goes through `str`."""
    found = prediction.toDict() if isinstance(prediction, dspy.Prediction) else {"output": prediction}
    return cast("dict[str, Any]", to_jsonable_python(found, fallback=str))


def _signature_fields(program: dspy.Module) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for predictor in program.predictors():
        fields = cast("type[dspy.Signature]", predictor.signature).input_fields
        for name, field in fields.items():
            default = ... if field.default is PydanticUndefined else field.default
            if name != SUPPLEMENT:
                found.setdefault(name, (field.annotation, default))
        if isinstance(program, dspy.Predict) or len(program.predictors()) == 1:
            return found
    return found


def _parameters(program: dspy.Module) -> dict[str, tuple[Any, Any]]:
    """The named parameters of the class's own `forward`, or `aforward`; empty where it takes whatever comes."""
    forward = getattr(type(program), "forward", None) or cast("Any", type(program)).aforward
    try:
        hints = typing.get_type_hints(forward)
    except (NameError, TypeError):
        hints = {}
    parameters = [*inspect.signature(forward).parameters.values()][1:]
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return {
        each.name: (hints.get(each.name, Any), ... if each.default is each.empty else each.default) for each in named
    }


def _checkable_type(kind: Any) -> Any:
    """The type itself, or any where requests cannot be checked by it."""
    try:
        create_model("Probe", field=(kind, ...))
    except PydanticSchemaGenerationError:
        return Any
    return kind
