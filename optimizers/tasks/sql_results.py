"""Compares the results of two queries, and describes where they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from optimizers.tasks.sandbox import SqlOutcome

ResultRow = tuple[object, ...]
_MAX_ROWS, _MAX_CHARACTERS = 3, 160


def is_same_result(expected: Sequence[ResultRow], actual: Sequence[ResultRow], *, ordered: bool) -> bool:
    """Return whether some order of the second result's columns makes both results equal.

    Results are bags of rows, or lists if `ordered`. Values compare as in Python: 1 equals 1.0 but not '1', NULL equals
    NULL. Two results without rows are equal. Definition: the result comparison of the test-suite evaluation (Zhong et
    al. 2020, arXiv 2010.02840, section 2).

    >>> is_same_result([(1, "a"), (1, "a")], [("a", 1), ("a", 1)], ordered=False)
    True
    >>> is_same_result([(1,), (1,)], [(1,)], ordered=False)
    False
    >>> is_same_result([(1,), (2,)], [(2,), (1,)], ordered=True)
    False
    """
    if len(expected) != len(actual):
        return False
    if not expected:
        return True
    if len(expected[0]) != len(actual[0]):
        return False
    ours, theirs = list(zip(*expected, strict=True)), list(zip(*actual, strict=True))
    if ordered:  # rows stay in place, so the columns must be equal
        return Counter(ours) == Counter(theirs)
    return _can_match(ours, theirs, [], [])


def _can_match(
    ours: Sequence[ResultRow], theirs: Sequence[ResultRow], left: list[ResultRow], right: list[ResultRow]
) -> bool:
    """Return whether the remaining columns can be matched, so that both sides stay the same bag of rows."""
    if not ours:
        return True
    left = [*left, ours[0]]
    wanted = Counter(zip(*left, strict=True))
    for place, column in enumerate(theirs):
        if column in theirs[:place]:  # an equal column has been tried
            continue
        tried = [*right, column]
        rest = [*theirs[:place], *theirs[place + 1 :]]
        if Counter(zip(*tried, strict=True)) == wanted and _can_match(ours[1:], rest, left, tried):
            return True
    return False


def describe_difference(expected: SqlOutcome, actual: SqlOutcome, *, ordered: bool) -> str:
    """Describe where two different results differ."""
    sizes = f"Expected {describe_size(expected)}, got {describe_size(actual)}."
    if expected.rows and actual.rows and len(expected.columns) != len(actual.columns):
        return f"{sizes} Columns returned: {_cut(', '.join(actual.columns))}."
    wanted, got = Counter(expected.rows), Counter(actual.rows)
    missing, extra = list((wanted - got).elements()), list((got - wanted).elements())
    if ordered and not missing and not extra:
        first = next(n for n, pair in enumerate(zip(expected.rows, actual.rows, strict=True)) if pair[0] != pair[1])
        return (
            f"The rows are right, but not their order: row {first + 1} should be {_cut(repr(expected.rows[first]))} "
            f"and is {_cut(repr(actual.rows[first]))}."
        )
    return f"{sizes}{_list_rows('Missing', missing)}{_list_rows('Too many', extra)}"


def describe_size(outcome: SqlOutcome) -> str:
    """Describe how many rows and columns a result has."""
    rows, columns = len(outcome.rows), len(outcome.columns)
    return f"{rows} row{'s' * (rows != 1)} of {columns} column{'s' * (columns != 1)}"


def _list_rows(name: str, rows: Sequence[ResultRow]) -> str:
    if not rows:
        return ""
    more = f" and {len(rows) - _MAX_ROWS} more" if len(rows) > _MAX_ROWS else ""
    return f" {name}: {', '.join(_cut(repr(row)) for row in rows[:_MAX_ROWS])}{more}."


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + "..."
