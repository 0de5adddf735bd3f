"""Reads JSON safely from a run's folder, which may come from a stranger: no links out of it, bounded, only objects."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from sgt_modules.errors import RunFolderError

MAX_BYTES = 64 * 2**20
"""The largest file that is read; a run's own JSON files have at most a few hundred kilobytes."""

MAX_DEPTH = 64
"""The deepest nesting that is read; a run's own JSON has a few levels."""

_T = TypeVar("_T")


def read_object(file: Path, *, home: Path, most: int = MAX_BYTES) -> dict[str, Any] | None:
    """The JSON object in a file of the folder `home`; None if there is no such file.

    Raises:
        RunFolderError: the file links out of the folder, is not a regular file, is larger than `most` bytes, or is no
            JSON object of finite numbers, valid texts and at most `MAX_DEPTH` levels.
    """
    if not file.is_symlink() and not file.exists():
        return None
    try:
        text = _read_bounded(file, home, most).decode("utf-8")
        content = json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_finite)
        _check_nesting(content, 0)
    except RunFolderError:
        raise
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{file} is no JSON ({error}). Move it away to start the run again.") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: pathlib found links in a circle
        raise RunFolderError(f"{file} cannot be read ({error}). Move it away to start the run again.") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{file} should hold a JSON object, not a {type(content).__name__}.")
    return cast("dict[str, Any]", content)


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a file of one a line. Raises `RunFolderError` for a line that holds none."""
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            wanted = f"Expected a JSON object in {file}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as problem:
                raise RunFolderError(f"{wanted}, got what is none ({problem}).") from problem
            if not isinstance(row, dict):
                raise RunFolderError(f"{wanted}, got a {type(row).__name__}.")
            yield cast("dict[str, Any]", row)


def read_entry(content: Mapping[str, Any], name: str, kind: type[_T], default: _T, *, file: Path) -> _T:
    """A field of an object, checked to be of type `kind`; a missing field is the default. A bool is no number here.

    Raises `RunFolderError` for a field of another type.

    >>> read_entry({"calls": 3}, "calls", int, 0, file=Path("spent.json"))
    3
    >>> try:
    ...     read_entry({"calls": "many"}, "calls", int, 0, file=Path("spent.json"))
    ... except RunFolderError as error:
    ...     print(error)
    spent.json should hold a number as 'calls', not 'many'.
    """
    value = content.get(name, default)
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and kind is not bool):
        wanted = {"dict": "an object", "list": "a list", "str": "a text"}.get(kind.__name__, "a number")
        raise RunFolderError(f"{file} should hold {wanted} as {name!r}, not {str(value)[:40]!r}.")
    return cast("_T", value)


def _read_bounded(file: Path, home: Path, most: int) -> bytes:
    """The bytes of a file. It is checked after it is opened, so that it cannot be replaced in between."""
    target = file.resolve(strict=True)
    if not target.is_relative_to(home.resolve()):
        raise RunFolderError(
            f"{file} leads out of its folder, to {target}. Put the file itself there, or leave it out."
        )
    with os.fdopen(
        os.open(target, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)), "rb"
    ) as it:
        status = os.fstat(it.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise RunFolderError(f"{file} is no regular file. Move it away to start the run again.")
        content = it.read(most + 1) if status.st_size <= most else b""
    if status.st_size > most or len(content) > most:
        raise RunFolderError(f"{file} is larger than {most} bytes, which no run writes. Move it away.")
    return content


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def _parse_finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _check_nesting(value: object, depth: int) -> None:
    """Raise `ValueError` for content that breaks later code: too many levels, half of a surrogate pair."""
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} levels")
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, dict):
        for name, each in cast("dict[str, object]", value).items():
            name.encode("utf-8")
            _check_nesting(each, depth + 1)
    elif isinstance(value, list):
        for each in cast("list[object]", value):
            _check_nesting(each, depth + 1)
