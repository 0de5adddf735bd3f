"""A worker for SQL: it opens a database for reading only, and SQLite's authorizer lets a query only select."""

from __future__ import annotations

import base64
import os
import resource
import sqlite3
import time
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote

from .serving import AnswerFunction, serve

_STEPS = 1000  # of SQLite's virtual machine, between two calls of the progress handler
_OVERHEAD = 128 << 20  # bytes that the interpreter maps besides the query's memory
_WRITES = """
ALTER_TABLE ANALYZE ATTACH CREATE_INDEX CREATE_TABLE CREATE_TEMP_INDEX CREATE_TEMP_TABLE CREATE_TEMP_TRIGGER
CREATE_TEMP_VIEW CREATE_TRIGGER CREATE_VIEW CREATE_VTABLE DELETE DETACH DROP_INDEX DROP_TABLE DROP_TRIGGER DROP_VIEW
DROP_VTABLE INSERT PRAGMA REINDEX SAVEPOINT TRANSACTION UPDATE
"""
_ACTIONS = {getattr(sqlite3, f"SQLITE_{name}"): name.replace("_", " ") for name in _WRITES.split()}
_HARMLESS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
# SQLite's own functions, by the chapters of its documentation: core, aggregate, window, date, mathematics, JSON.
_COMPUTES = """
-> ->> abs changes char coalesce concat concat_ws format glob hex ifnull iif if instr last_insert_rowid length like
likelihood likely lower ltrim max min nullif octet_length printf quote random randomblob replace round rtrim sign
soundex substr substring total_changes trim typeof unhex unicode unistr unlikely upper zeroblob sqlite_version
avg count group_concat string_agg sum total median percentile match regexp
row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
date time datetime julianday unixepoch strftime timediff current_date current_time current_timestamp
acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow power
radians sin sinh sqrt tan tanh trunc
json json_array json_array_length json_error_position json_extract json_insert json_object json_patch json_pretty
json_quote json_remove json_replace json_set json_type json_valid json_group_array json_group_object
"""
FUNCTIONS = frozenset(_COMPUTES.split())


class Guard:
    """SQLite's authorizer and progress handler for one query."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.refused = ""

    def authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        """Allows selecting, and functions that only compute."""
        if action in _HARMLESS or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in FUNCTIONS):
            return sqlite3.SQLITE_OK
        what = _ACTIONS.get(action, "the function" if action == sqlite3.SQLITE_FUNCTION else f"action {action}")
        self.refused = self.refused or " ".join(each for each in (what, first, second) if each)
        return sqlite3.SQLITE_DENY

    def is_late(self) -> int:
        """Ends the query at its deadline, by another number than 0."""
        return int(time.monotonic() > self.deadline)

    def explain(self, raised: Exception) -> dict[str, str]:
        """Says why a query has no rows."""
        if self.refused:
            return {"error": f"A query may only read, and this asks for {self.refused}.", "reason": "refused"}
        if self.is_late():
            return {"error": "The query's time is up.", "reason": "time"}
        too_big = isinstance(raised, sqlite3.DataError) or "too big" in str(raised) or "out of memory" in str(raised)
        return {"error": f"{type(raised).__name__}: {raised}", "reason": "limit" if too_big else "error"}


def open_database(database: str, limits: dict[str, Any]) -> sqlite3.Connection:
    """Opens a connection that can only read, with bounds on texts, values and attached files.

    A database without a journal has no writer, so SQLite reads it as immutable, without locks.
    """
    has_writer = os.path.exists(f"{database}-wal") or os.path.exists(f"{database}-journal")
    address = f"file:{quote(database)}?mode=ro" + ("" if has_writer else "&immutable=1")
    connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=0, cached_statements=0)
    for which, most in (
        (sqlite3.SQLITE_LIMIT_LENGTH, limits["value_bytes"]),
        (sqlite3.SQLITE_LIMIT_SQL_LENGTH, limits["value_bytes"]),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
        (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 1),
        (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
    ):
        connection.setlimit(which, most)
    connection.text_factory = lambda stored: stored.decode(errors="ignore")
    for setting in ("query_only=1", "trusted_schema=0", "temp_store=2", f"hard_heap_limit={limits['memory_bytes']}"):
        connection.execute(f"PRAGMA {setting}").close()
    return connection


def run_query(database: str, sql: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of an `SqlOutcome`."""
    began, guard = time.monotonic(), Guard(limits["seconds"])
    result: dict[str, Any] = {"rows": [], "columns": [], "error": "", "reason": "rows"}
    try:
        with closing(open_database(database, limits)) as connection:
            _declare_json_tables(connection, sql)
            connection.set_authorizer(guard.authorize)
            connection.set_progress_handler(guard.is_late, _STEPS)
            result |= _read_rows(connection.execute(sql), limits)
    except (sqlite3.Error, sqlite3.Warning) as raised:
        result |= guard.explain(raised)
    except (MemoryError, OverflowError) as raised:
        error = f"The query needs more memory than it may have ({type(raised).__name__})."
        result |= {"error": error, "reason": "limit"}
    except ValueError as raised:  # a zero character within the text
        result |= {"error": str(raised), "reason": "error"}
    return {**result, "seconds": time.monotonic() - began}


def _declare_json_tables(connection: sqlite3.Connection, sql: str) -> None:
    """Uses SQLite's tables of JSON once: their first use declares them, and the authorizer would refuse that."""
    for name in ("json_each", "json_tree"):
        if name in sql.lower():
            with suppress(sqlite3.Error):
                connection.execute(f"SELECT 1 FROM {name}('[]')").close()


def _read_rows(cursor: sqlite3.Cursor, limits: dict[str, Any]) -> dict[str, Any]:
    if cursor.description is None:
        return {"error": "There is no query in it.", "reason": "error"}
    rows: list[list[object]] = []
    size = 0
    for row in cursor:
        size += sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
        if len(rows) == limits["rows"] or size > limits["result_bytes"]:
            bound = f"{limits['rows']} rows" if len(rows) == limits["rows"] else f"{limits['result_bytes']} bytes"
            return {"error": f"The result has more than {bound}.", "reason": "limit"}
        rows.append([_encode(cell) for cell in row])
    return {"rows": rows, "columns": [each[0] for each in cursor.description]}


def _encode(cell: object) -> object:
    return {"base64": base64.b64encode(cell).decode()} if isinstance(cell, bytes) else cell


def prepare(settings: dict[str, Any], _caller: int) -> AnswerFunction:
    """Limits the process's memory, and where the kernel has the layers, its files and system calls.

    Raises:
        OSError: the kernel refuses a layer of the isolation.
    """
    limits = settings["limits"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if settings["layers"]:
        from . import kernel, landlock, seccomp  # Linux only

        most = limits["memory_bytes"] + limits["result_bytes"] * 8 + _OVERHEAD
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        kernel.refuse_new_privileges()
        if "landlock" in settings["layers"]:
            landlock.restrict(("/",), ())
        if "seccomp" in settings["layers"]:
            seccomp.restrict()
    return lambda request: run_query(request["database"], request["query"], limits)


def start_serving() -> None:
    """Answers queries until the caller ends."""
    serve(prepare)
