"""Whether two queries have the same result, and where results differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from optimizers.tasks.sandbox import SqlOutcome

Row = tuple[object, ...]
_SHOWN_ROWS, _SHOWN_CHARS = 3, 160


def same_result(expected: Sequence[Row], came: Sequence[Row], *, ordered: bool) -> bool:
    """Whether some order of the second result's columns makes both the same bag of rows, or list where `ordered`.

    Values are the same as in Python: 1 is 1.0 but not '1', NULL is NULL. Two results without a row are the same.
    Definition: the result comparison of the test-suite evaluation (Zhong et al. 2020, arXiv 2010.02840, section 2).

    >>> same_result([(1, "a"), (1, "a")], [("a", 1), ("a", 1)], ordered=False)
    True
    >>> same_result([(1,), (1,)], [(1,)], ordered=False)
    False
    >>> same_result([(1,), (2,)], [(2,), (1,)], ordered=True)
    False
    """
    if len(expected) != len(came):
        return False
    if not expected:
        return True
    if len(expected[0]) != len(came[0]):
        return False
    ours, theirs = list(zip(*expected, strict=True)), list(zip(*came, strict=True))
    if ordered:  # rows stay where they are, so it is the columns that must be the same
        return Counter(ours) == Counter(theirs)
    return _can_match(ours, theirs, [], [])


def _can_match(ours: Sequence[Row], theirs: Sequence[Row], left: list[Row], right: list[Row]) -> bool:
    """Whether the columns not yet placed can be, so that both sides stay the same bag of rows after each."""
    if not ours:
        return True
    left = [*left, ours[0]]
    wanted = Counter(zip(*left, strict=True))
    for place, column in enumerate(theirs):
        if column in theirs[:place]:  # the same column again would fare the same
            continue
        tried = [*right, column]
        rest = [*theirs[:place], *theirs[place + 1 :]]
        if Counter(zip(*tried, strict=True)) == wanted and _can_match(ours[1:], rest, left, tried):
            return True
    return False


def difference(expected: SqlOutcome, came: SqlOutcome, *, ordered: bool) -> str:
    """Where two results that are not the same differ, in words."""
    sizes = f"Expected {size(expected)}, got {size(came)}."
    if expected.rows and came.rows and len(expected.columns) != len(came.columns):
        return f"{sizes} Columns that came: {_cut(', '.join(came.columns))}."
    wanted, got = Counter(expected.rows), Counter(came.rows)
    missing, extra = list((wanted - got).elements()), list((got - wanted).elements())
    if ordered and not missing and not extra:
        first = next(n for n, pair in enumerate(zip(expected.rows, came.rows, strict=True)) if pair[0] != pair[1])
        return (
            f"The rows are right, but not their order: row {first + 1} should be {_cut(repr(expected.rows[first]))} "
            f"and is {_cut(repr(came.rows[first]))}."
        )
    return f"{sizes}{_told('Missing', missing)}{_told('Too many', extra)}"


def size(outcome: SqlOutcome) -> str:
    """How many rows and columns a result has, in words."""
    rows, columns = len(outcome.rows), len(outcome.columns)
    return f"{rows} row{'s' * (rows != 1)} of {columns} column{'s' * (columns != 1)}"


def _told(name: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    more = f" and {len(rows) - _SHOWN_ROWS} more" if len(rows) > _SHOWN_ROWS else ""
    return f" {name}: {', '.join(_cut(repr(row)) for row in rows[:_SHOWN_ROWS])}{more}."


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
