"""Stores a program's answer as text and restores it, so that another metric can score it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

import dspy
from pydantic import BaseModel, TypeAdapter

_KNOWN_ATTRIBUTES = {"_store", "_completions", "_lm_usage"}
"""The attributes of a `dspy.Prediction`; one with more attributes is not stored."""


class _NotWritableError(Exception):
    """A value cannot be restored from text."""


def dump_answer(prediction: object, program: dspy.Module) -> str:
    """The part of a prediction that the texts of its fields do not have, as JSON; empty if it cannot be restored.

    Stored are JSON's types, tuples and sets, and values that pydantic restores as equal from a field's declared type.

    >>> dump_answer(dspy.Prediction(answer="4", parts=["3", "1"]), dspy.Predict("question -> answer"))
    '{"typed": {"parts": ["3", "1"]}, "completions": null}'
    """
    if type(prediction) is not dspy.Prediction or set(vars(prediction)) - _KNOWN_ATTRIBUTES:
        return ""
    values = cast("Any", prediction)
    fields, types, many = dict(values.items()), _output_types(program), values.completions
    try:
        typed = {name: _dump_value(each, types.get(name)) for name, each in fields.items() if type(each) is not str}
        content: dict[str, object] = {"typed": typed, "completions": None}
        if many is not None and _identities({name: [each] for name, each in fields.items()}) == _identities(many):
            content["completions"] = "one"
        elif many is not None:
            own = {name: [_dump_value(each, types.get(name)) for each in column] for name, column in many.items()}
            content["completions"] = own
        if (usage := values.get_lm_usage()) is not None:
            content["usage"] = _dump_value(usage, None)
        return json.dumps(content)  # unsorted, as a metric may iterate over a mapping
    except Exception:  # noqa: BLE001 - whatever a user's value raises, such as a number of too many digits
        return ""


def load_answer(output: Mapping[str, str], text: str, program: dspy.Module) -> dspy.Prediction | None:
    """Restore a prediction from the texts of its fields and the text of `dump_answer`; None if that is empty.

    >>> program, text = dspy.Predict("question -> answer"), '{"completions": null, "typed": {"parts": ["3", "1"]}}'
    >>> load_answer({"answer": "4", "parts": "['3', '1']"}, text, program)
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
            prediction = dspy.Prediction(**fields)
        elif many == "one":
            prediction = dspy.Prediction.from_completions({name: [each] for name, each in fields.items()})
        else:
            columns = {name: [_load_value(each, types.get(name)) for each in column] for name, column in many.items()}
            prediction = dspy.Prediction.from_completions(columns)
            cast("Any", prediction)._store = fields
        prediction.set_lm_usage(_load_value(content.get("usage"), None))
    except Exception:  # noqa: BLE001 - whatever a user's type or validator raises
        return None
    return prediction


def text_of_value(value: object) -> str:
    """A field's value as text; the name of its type if its `__str__` raises."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a user's type raises
        return f"<{type(value).__name__}>"


def _identities(columns: Any) -> dict[str, list[int]]:
    """The identity of each value, to compare columns without the values' own `==`, which may raise."""
    return {name: [id(each) for each in column] for name, column in columns.items()}


def _output_types(program: dspy.Module) -> dict[str, Any]:
    """The declared type of each output field of the program's predictors; the last one if a name repeats."""
    signatures = [cast("type[dspy.Signature]", each.signature) for each in program.predictors()]
    return {name: each.annotation for own in signatures for name, each in own.output_fields.items()}


def _dump_value(value: Any, declared: Any) -> object:
    """A value as JSON that `_load_value` restores as equal; raises `_NotWritableError` if that is impossible."""
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
            compares = type(read) is type(value) and type(read).__eq__ is not object.__eq__
            if read is value or (compares and read == value):
                return written
        except Exception:  # noqa: BLE001 - whatever a user's type or validator raises
            continue
    raise _NotWritableError


def _to_plain(value: Any) -> object:
    """Replaces models in a value by mappings of their fields, as DSPy's types dump themselves as prompt text."""
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
