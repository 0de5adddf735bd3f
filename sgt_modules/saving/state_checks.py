"""Check a saved state before it is used: its file may come from anyone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sgt_modules.errors import SavedStateError

LARGEST = 2**53
"""Above every count and limit of this package; a float holds each whole number up to here exactly."""


def check_mapping(value: object, what: str) -> Mapping[str, Any]:
    """Return the value; raise `SavedStateError` unless it is a mapping whose keys are texts.

    >>> try:
    ...     check_mapping([], "a gate's state")
    ... except SavedStateError as error:
    ...     print(error)
    Expected a mapping as a gate's state, got []. Save the program again.
    """
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) for key in cast("Mapping[object, object]", value)
    ):
        raise SavedStateError(f"Expected a mapping as {what}, got {_shorten(value)}. Save the program again.")
    return cast("Mapping[str, Any]", value)


def read_text(state: Mapping[str, Any], name: str) -> str:
    """Read a text of the state."""
    value = state.get(name)
    if not isinstance(value, str):
        raise SavedStateError(f"Expected a text as {name!r} of a saved state, got {_shorten(value)}.")
    return value


def read_text_or_none(state: Mapping[str, Any], name: str) -> str | None:
    """Read a text of the state, or None."""
    return None if state.get(name) is None else read_text(state, name)


def read_number(state: Mapping[str, Any], name: str, least: float, most: float = LARGEST) -> float:
    """Read a finite number of the state, within bounds.

    >>> try:
    ...     read_number({"temperature": float("nan")}, "temperature", 0.0)
    ... except SavedStateError as error:
    ...     print(error)
    Expected a number in [0, 9007199254740992] as 'temperature' of a saved state, \
got nan.
    """
    value = state.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:  # NaN is not
        return value
    raise SavedStateError(
        f"Expected a number in [{least:.16g}, {most:.16g}] as {name!r} of a saved state, got {_shorten(value)}."
    )


def read_whole_number(state: Mapping[str, Any], name: str, least: int, most: int = LARGEST) -> int:
    """Read a whole number of the state, within bounds."""
    value = read_number(state, name, least, most)
    if not isinstance(value, int):
        raise SavedStateError(f"Expected a whole number as {name!r} of a saved state, got {_shorten(value)}.")
    return value


def _shorten(value: object) -> str:
    """Return the beginning of a value's text for a message."""
    try:
        return repr(value)[:60]
    except (RecursionError, ValueError):  # too deep, or a number of more digits than Python writes
        return f"a {type(value).__name__}"
