"""Build the type that checks a program's inputs, and convert its outputs to JSON."""

from __future__ import annotations

import inspect
import typing
from typing import Any, cast

import dspy
from pydantic import BaseModel, ConfigDict, PydanticSchemaGenerationError, create_model
from pydantic_core import PydanticUndefined, to_jsonable_python

from sgt_modules.prompts import SUPPLEMENT


def build_input_model(program: dspy.Module) -> type[BaseModel]:
    """Build a model of a program's inputs with their types: those of its signature, or of its `forward`.

    An input without a type gets that of a predictor's field of the same name, or any.

    >>> model = build_input_model(dspy.ChainOfThought("question: str, count: int -> answer: float"))
    >>> model(question="How many?", count=3).model_dump()
    {'question': 'How many?', 'count': 3}
    """
    fields = _signature_fields(program)
    if not isinstance(program, dspy.Predict) and (named_parameters := _parameters(program)):
        fields = {
            name: (fields.get(name, (Any, ...))[0] if kind is Any else kind, default)
            for name, (kind, default) in named_parameters.items()
        }
    types: dict[str, Any] = {name: (_checkable_type(kind), default) for name, (kind, default) in fields.items()}
    return create_model("Inputs", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **types)


def dump_outputs(prediction: object) -> dict[str, Any]:
    """Convert a program's result to JSON; other types are converted by `str`."""
    outputs = prediction.toDict() if isinstance(prediction, dspy.Prediction) else {"output": prediction}
    return cast("dict[str, Any]", to_jsonable_python(outputs, fallback=str))


def _signature_fields(program: dspy.Module) -> dict[str, tuple[Any, Any]]:
    fields_by_name: dict[str, tuple[Any, Any]] = {}
    for predictor in program.predictors():
        fields = cast("type[dspy.Signature]", predictor.signature).input_fields
        for name, field in fields.items():
            default = ... if field.default is PydanticUndefined else field.default
            if name != SUPPLEMENT:
                fields_by_name.setdefault(name, (field.annotation, default))
    return fields_by_name


def _parameters(program: dspy.Module) -> dict[str, tuple[Any, Any]]:
    """Return the named parameters of the class's `forward` or `aforward`; empty if it takes any arguments."""
    forward = getattr(type(program), "forward", None) or cast("Any", type(program)).aforward
    try:
        hints = typing.get_type_hints(forward)
    except (NameError, TypeError):
        hints = {}
    parameters = [*inspect.signature(forward).parameters.values()][1:]
    named_parameters = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return {
        each.name: (hints.get(each.name, Any), ... if each.default is each.empty else each.default)
        for each in named_parameters
    }


def _checkable_type(kind: Any) -> Any:
    """Return the type, or `Any` if requests cannot be checked by it."""
    try:
        create_model("Probe", field=(kind, ...))
    except PydanticSchemaGenerationError:
        return Any
    return kind
