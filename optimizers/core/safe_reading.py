"""JSON from a run's folder, which may be a stranger's: no link out of it, no more than so much, only an object."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from sgt_modules.errors import RunFolderError

MAX_BYTES = 64 * 2**20
"""A run's largest JSON file is a few hundred kilobytes."""

MAX_DEPTH = 64
"""Nothing that a run writes is nested more than a handful of levels."""

_T = TypeVar("T")


def read_object(file: Path, *, home: Path, most: int = MAX_BYTES) -> dict[str, Any] | None:
    """The JSON object in a file of the folder `home`; None where there is no such file.

    Raises:
        RunFolderError: the file leads out of the folder, is none (a device, a pipe), is larger than `most` bytes, or
            holds no JSON object of finite numbers, readable texts and at most `MAX_DEPTH` levels.
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
        raise RunFolderError(f"{file} is no JSON ({error}). Move it away to start the run anew.") from error
    except (OSError, RuntimeError) as error:  # pathlib's word for links in a circle
        raise RunFolderError(f"{file} cannot be read ({error}). Move it away to start the run anew.") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{file} should hold a JSON object, not a {type(content).__name__}.")
    return cast("dict[str, Any]", content)


def read_entry(content: Mapping[str, Any], name: str, kind: type[_T], default: _T, *, file: Path) -> _T:
    """An object's field of the kind that it should be; what it lacks is the default. A bool is no number here.

    Raises `RunFolderError` for a field of another kind.

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
    """A file's bytes; the file is looked at once it is open, so that none is put in its place meanwhile."""
    target = file.resolve(strict=True)
    if not target.is_relative_to(home.resolve()):
        raise RunFolderError(
            f"{file} leads out of its folder, to {target}. Put the file itself there, or leave it out."
        )
    with os.fdopen(
        os.open(target, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)), "rb"
    ) as it:
        about = os.fstat(it.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise RunFolderError(f"{file} is no regular file. Move it away to start the run anew.")
        content = it.read(most + 1) if about.st_size <= most else b""
    if about.st_size > most or len(content) > most:
        raise RunFolderError(f"{file} is larger than {most} bytes, which no run writes. Move it away.")
    return content


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def _parse_finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _check_nesting(value: object, depth: int) -> None:
    """Raise `ValueError` for what would trip whoever reads on: too many levels, half of a surrogate pair."""
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
