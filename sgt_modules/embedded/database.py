"""The company's database for the metric: read-only, limited in time and rows, thread-safe."""

from __future__ import annotations

import sqlite3
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence

import dspy

Rows = Sequence[Sequence[object]]

SECONDS = 1.0
MOST_ROWS = 10_000
_STEPS_BETWEEN_LOOKS = 20_000
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


class Database:
    """A serialized SQLite database that answers only SELECT; each thread opens it once.

    A query that runs for more than a second or returns more than 10,000 rows raises `sqlite3.Error`.
    """

    def __init__(self, serialized: bytes) -> None:
        self._serialized = serialized
        self._local = threading.local()
        self._cache: dict[str, list[tuple[object, ...]] | str] = {}

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        """Return the rows of a query.

        Raises:
            sqlite3.Error: the query fails, writes, or exceeds a limit.
        """
        connection = self._connection()
        deadline = time.monotonic() + SECONDS
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS_BETWEEN_LOOKS)
        rows = connection.execute(sql).fetchmany(MOST_ROWS + 1)
        if len(rows) > MOST_ROWS:
            raise sqlite3.OperationalError(f"more than {MOST_ROWS} rows")
        return rows

    def judge(self, sql: str, expected: Rows, *, ordered: bool) -> dspy.Prediction:
        """Score a query by its rows: `Prediction(score=1.0 or 0.0, feedback=what differs)`."""
        answer = self._cached_rows(sql)
        if isinstance(answer, str):
            return dspy.Prediction(score=0.0, feedback=f"The query failed: {answer}.")
        actual, correct = [tuple(row) for row in answer], [tuple(row) for row in expected]
        if actual == correct if ordered else Counter(actual) == Counter(correct):
            return dspy.Prediction(score=1.0, feedback="The rows are as expected.")
        return dspy.Prediction(
            score=0.0,
            feedback=f"Expected {len(correct)} rows like {correct[:2]}, got {len(actual)} like {actual[:2]}.",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return Database, (self._serialized,)

    def _cached_rows(self, sql: str) -> list[tuple[object, ...]] | str:
        """Return the rows or the error message, from a cache: the data never change."""
        if sql not in self._cache:
            try:
                self._cache[sql] = self.rows(sql)
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                self._cache[sql] = str(error)
        return self._cache[sql]

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "owner"):
            self._local.owner = _Connection(self._serialized)
        return self._local.owner.connection


class _Connection:
    """A thread's connection; it closes when the thread or the database ends."""

    def __init__(self, serialized: bytes) -> None:
        self.connection = sqlite3.connect(":memory:", check_same_thread=False)  # another thread may close it
        weakref.finalize(self, self.connection.close)
        self.connection.deserialize(serialized)
        self.connection.execute("PRAGMA query_only = ON").close()
        self.connection.set_authorizer(_authorize_reading)


def _authorize_reading(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY
