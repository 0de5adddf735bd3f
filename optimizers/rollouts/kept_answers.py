"""A program's answer as text that gives the same answer again, so that another metric can judge it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

import dspy
from pydantic import BaseModel, TypeAdapter

_KNOWN_ATTRIBUTES = {"_store", "_completions", "_lm_usage"}
"""What a `dspy.Prediction` holds; one that holds more is not kept."""


class _NotWritableError(Exception):
    """A value cannot be written so that the same is read again."""


def dump_answer(prediction: object, program: dspy.Module) -> str:
    """All of a prediction that its fields' texts do not tell, as JSON; empty where that cannot be kept.

    Kept are JSON's types, tuples and sets, and what pydantic reads back as an equal value of a field's declared type.

    >>> dump_answer(dspy.Prediction(answer="4", parts=["3", "1"]), dspy.Predict("question -> answer"))
    '{"typed": {"parts": ["3", "1"]}, "completions": null}'
    """
    if type(prediction) is not dspy.Prediction or set(vars(prediction)) - _KNOWN_ATTRIBUTES:
        return ""
    found = cast("Any", prediction)
    fields, types, many = dict(found.items()), _output_types(program), found.completions
    try:
        typed = {name: _dump_value(each, types.get(name)) for name, each in fields.items() if type(each) is not str}
        content: dict[str, object] = {"typed": typed, "completions": None}
        if many is not None and {name: [each] for name, each in fields.items()} == dict(many.items()):
            content["completions"] = "one"
        elif many is not None:
            own = {name: [_dump_value(each, types.get(name)) for each in column] for name, column in many.items()}
            content["completions"] = own
        if (usage := found.get_lm_usage()) is not None:
            content["usage"] = _dump_value(usage, None)
        return json.dumps(content)  # in its own order, in which a metric may walk a mapping
    except (_NotWritableError, RecursionError):
        return ""


def load_answer(output: Mapping[str, str], text: str, program: dspy.Module) -> dspy.Prediction | None:
    """The prediction whose fields read `output`, and of which `dump_answer` wrote `text`; None where it wrote nothing.

    >>> asked = dspy.Predict("question -> answer")
    >>> load_answer({"answer": "4", "parts": "['3', '1']"}, '{"completions": null, "typed": {"parts": ["3", "1"]}}', asked)
    Prediction(
        answer='4',
        parts=['3', '1']
    )
    """
    if not text:
        return None
    types = _output_types(program)
    try:
        content = json.loads(text)
        typed = {name: _load_value(each, types.get(name)) for name, each in content["typed"].items()}
        fields = {name: typed.get(name, each) for name, each in output.items()}
        many = content["completions"]
        if many is None:
            found = dspy.Prediction(**fields)
        elif many == "one":
            found = dspy.Prediction.from_completions({name: [each] for name, each in fields.items()})
        else:
            columns = {name: [_load_value(each, types.get(name)) for each in column] for name, column in many.items()}
            found = dspy.Prediction.from_completions(columns)
            cast("Any", found)._store = fields
        found.set_lm_usage(_load_value(content.get("usage"), None))
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError):
        return None
    return found


def _output_types(program: dspy.Module) -> dict[str, Any]:
    """The declared type of each output field of the program's predictors; of one name, the last."""
    signatures = [cast("type[dspy.Signature]", each.signature) for each in program.predictors()]
    return {name: each.annotation for own in signatures for name, each in own.output_fields.items()}


def _dump_value(value: Any, declared: Any) -> object:
    """A value as JSON, from which `_load_value` makes an equal one; raises `_NotWritableError` where that cannot be."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    try:
        return _dump_container(value)
    except _NotWritableError:
        return {"declared": _dump_typed(value, declared)}


def _dump_container(value: Any) -> object:
    """A container of JSON's types as JSON; raises `_NotWritableError` for anything else."""
    if type(value) is list:
        return [_dump_value(each, None) for each in value]
    if type(value) is dict and all(type(name) is str for name in value):
        return {"dict": {name: _dump_value(each, None) for name, each in value.items()}}
    if type(value) in (tuple, set, frozenset):
        return {type(value).__name__: [_dump_value(each, None) for each in value]}
    raise _NotWritableError


def _dump_typed(value: Any, declared: Any) -> object:
    if declared is None:
        raise _NotWritableError
    forms = [lambda: TypeAdapter(declared).dump_python(value, mode="json"), lambda: _to_plain(value)]
    for form in forms:
        try:
            written = form()
            read = TypeAdapter(declared).validate_python(json.loads(json.dumps(written)))
        except Exception:  # noqa: BLE001 - whatever a user's type or validator raises
            continue
        if read is value or (type(read) is type(value) and read == value and type(read).__eq__ is not object.__eq__):
            return written
    raise _NotWritableError


def _to_plain(value: Any) -> object:
    """A value whose models are mappings of their fields: DSPy's own types write themselves as what a prompt shows."""
    if isinstance(value, BaseModel):
        return {name: _to_plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, list | tuple | set | frozenset):
        return [_to_plain(each) for each in cast("Iterable[Any]", value)]
    return {name: _to_plain(each) for name, each in value.items()} if isinstance(value, dict) else value


def _load_value(written: Any, declared: Any) -> Any:
    if isinstance(written, list):
        return [_load_value(each, None) for each in cast("list[Any]", written)]
    if not isinstance(written, dict):
        return written
    ((form, content),) = cast("dict[str, Any]", written).items()
    if form == "dict":
        return {name: _load_value(each, None) for name, each in content.items()}
    if form in (makers := {"tuple": tuple, "set": set, "frozenset": frozenset}):
        return makers[form](_load_value(each, None) for each in content)
    return TypeAdapter(declared).validate_python(content)
