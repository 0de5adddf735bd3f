"""Loads what the arguments of a command name: an object as `module:attribute`, and examples in a file."""

from __future__ import annotations

import csv
import difflib
import importlib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import dspy

from sgt_modules.calling import find_entry
from sgt_modules.errors import SetupError

EXAMPLE_SUFFIXES = (".jsonl", ".csv", ".parquet")


def load_attribute(name: str, *, what: str) -> Any:
    """Load the object that `module:attribute` names; the attribute may have dots, the module may be in this folder.

    Raises `SetupError` if there is no such object.

    >>> load_attribute("json:decoder.JSONDecodeError", what="an error").__name__
    'JSONDecodeError'
    >>> try:
    ...     load_attribute("json.loads", what="a metric")
    ... except SetupError as error:
    ...     print(error)
    Expected a metric as module:attribute, got 'json.loads'.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise SetupError(f"Expected {what} as module:attribute, got {name!r}.")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module}.".startswith(f"{missing.name}."):
            raise
        raise SetupError(
            f"Expected {what} in the module {module!r}, but there is none of that name. "
            f"{did_you_mean(module, [each.stem for each in Path.cwd().glob('*.py')])}"
            "Call it from the folder that holds it, or install it."
        ) from None
    for part in path.split("."):
        if not hasattr(found, part):
            names = [each for each in dir(found) if not each.startswith("_")]
            raise SetupError(
                f"Expected {what} as {name!r}, but {part!r} is not there. {did_you_mean(part, names)}".strip()
            )
        found = getattr(found, part)
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the known names that are most similar, and a space after it; empty if none is similar.

    >>> did_you_mean("programm", ["metric", "program"])
    "Did you mean 'program'? "
    >>> did_you_mean("x", ["metric", "program"])
    ''
    """
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3)
    return f"Did you mean {' or '.join(repr(by_lower[each]) for each in close)}? " if close else ""


def load_program(name: str) -> dspy.Module:
    """Load the program that `module:attribute` names: a module, or a callable without arguments that returns one."""
    found = load_attribute(name, what="a program")
    if callable(found) and not isinstance(found, dspy.Module):
        found = found()
    if not isinstance(found, dspy.Module):
        raise SetupError(f"Expected a dspy.Module at {name!r}, or what makes one, got a {type(found).__name__}.")
    return found


def read_examples(file: Path, inputs: Sequence[str]) -> list[dspy.Example]:
    """Read a file of one example per row: JSON lines, CSV with a header, or Parquet. `inputs` are the input fields.

    Raises `SetupError` for a file of another type, without rows, or without an input field.
    """
    if file.suffix not in EXAMPLE_SUFFIXES:
        raise SetupError(f"Expected a file that ends in {', '.join(EXAMPLE_SUFFIXES)}, got {file}.")
    if not file.is_file():
        raise SetupError(f"There is no file {file}.")
    rows = _read_rows(file)
    if not rows:
        raise SetupError(f"{file} has no rows. Give it some examples.")
    for number, row in enumerate(rows, 1):
        if missing := [name for name in inputs if name not in row]:
            raise SetupError(f"Row {number} of {file} lacks {', '.join(missing)}; it has {', '.join(row)}.")
    return [dspy.Example(**dict(row)).with_inputs(*inputs) for row in rows]


def input_names(program: dspy.Module) -> list[str]:
    """The names of the program's inputs: of its `forward`, or of the signature of a single predictor."""
    if isinstance(program, dspy.Predict):
        return [*cast("type[dspy.Signature]", program.signature).input_fields]
    parameters = inspect.signature(find_entry(program)).parameters.values()
    named = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    if named:
        return named
    first = program.predictors()[0]
    return [*cast("type[dspy.Signature]", first.signature).input_fields]


def _read_rows(file: Path) -> list[Mapping[str, Any]]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as parquet

            return cast("list[Mapping[str, Any]]", parquet.read_table(file).to_pylist())
        with file.open(encoding="utf-8", newline="") as lines:
            if file.suffix == ".csv":
                return [*csv.DictReader(lines)]
            return [_parse_object(line, file, number) for number, line in enumerate(lines, 1) if line.strip()]
    except SetupError:
        raise
    except (OSError, ValueError, csv.Error) as problem:
        raise SetupError(f"{file} cannot be read: {problem}.") from problem


def _parse_object(line: str, file: Path, number: int) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as problem:
        raise SetupError(f"Expected a JSON object in line {number} of {file}: {problem}.") from problem
    if not isinstance(found, dict):
        raise SetupError(f"Expected a JSON object in line {number} of {file}, got a {type(found).__name__}.")
    return cast("Mapping[str, Any]", found)
