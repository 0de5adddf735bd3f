"""A worker for SQL: it opens a database for reading only, and lets a query do nothing but select."""

from __future__ import annotations

import base64
import os
import resource
import signal
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote

from .line import standard

_STEPS = 1000  # of SQLite's machine, between two looks at the clock
_OVERHEAD = 128 << 20  # what the interpreter maps besides the query's memory
_WRITES = """
ALTER_TABLE ANALYZE ATTACH CREATE_INDEX CREATE_TABLE CREATE_TEMP_INDEX CREATE_TEMP_TABLE CREATE_TEMP_TRIGGER
CREATE_TEMP_VIEW CREATE_TRIGGER CREATE_VIEW CREATE_VTABLE DELETE DETACH DROP_INDEX DROP_TABLE DROP_TRIGGER DROP_VIEW
DROP_VTABLE INSERT PRAGMA REINDEX SAVEPOINT TRANSACTION UPDATE
"""
_ASKS = {getattr(sqlite3, f"SQLITE_{name}"): name.replace("_", " ") for name in _WRITES.split()}
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


class Reading:
    """What one query may do: it is asked of everything SQLite is about to do, and from time to time."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.refused = ""

    def allows(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        """SQLite's authorizer: selecting, and functions that only compute."""
        if action in _HARMLESS or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in FUNCTIONS):
            return sqlite3.SQLITE_OK
        asked = _ASKS.get(action, "the function" if action == sqlite3.SQLITE_FUNCTION else f"action {action}")
        self.refused = self.refused or " ".join(each for each in (asked, first, second) if each)
        return sqlite3.SQLITE_DENY

    def is_late(self) -> int:
        """SQLite's progress handler: not 0 ends the query."""
        return int(time.monotonic() > self.deadline)


def address(database: str) -> str:
    """A file as SQLite's URI, for reading only; what no one is writing to is read without locks."""
    still = not (os.path.exists(f"{database}-wal") or os.path.exists(f"{database}-journal"))
    return f"file:{quote(database)}?mode=ro" + ("&immutable=1" if still else "")


def opened(database: str, limits: dict[str, Any]) -> sqlite3.Connection:
    """A connection that can only read, with bounds on texts, values and attached files."""
    connection = sqlite3.connect(address(database), uri=True, isolation_level=None, timeout=0, cached_statements=0)
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


def answered(database: str, sql: str, limits: dict[str, Any]) -> dict[str, Any]:
    """A query's rows, or why there are none."""
    began, reading = time.monotonic(), Reading(limits["seconds"])
    said: dict[str, Any] = {"rows": [], "columns": [], "error": "", "reason": "rows"}
    try:
        with closing(opened(database, limits)) as connection:
            _make_ready(connection, sql)
            connection.set_authorizer(reading.allows)
            connection.set_progress_handler(reading.is_late, _STEPS)
            said |= _rows(connection.execute(sql), limits)
    except (sqlite3.Error, sqlite3.Warning) as raised:
        said |= _why(raised, reading)
    except (MemoryError, OverflowError) as raised:
        said |= {"error": f"The query needs more memory than it may have ({type(raised).__name__}).", "reason": "limit"}
    except ValueError as raised:  # a zero character within the text
        said |= {"error": str(raised), "reason": "error"}
    return {**said, "seconds": time.monotonic() - began}


def _make_ready(connection: sqlite3.Connection, sql: str) -> None:
    """SQLite declares its tables of JSON when they are first used, which its authorizer would take for writing."""
    for name in ("json_each", "json_tree"):
        if name in sql.lower():
            with suppress(sqlite3.Error):
                connection.execute(f"SELECT 1 FROM {name}('[]')").close()


def _rows(cursor: sqlite3.Cursor, limits: dict[str, Any]) -> dict[str, Any]:
    if cursor.description is None:
        return {"error": "There is no query in it.", "reason": "error"}
    rows: list[list[object]] = []
    size = 0
    for row in cursor:
        size += sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
        if len(rows) == limits["rows"] or size > limits["result_bytes"]:
            which = f"{limits['rows']} rows" if len(rows) == limits["rows"] else f"{limits['result_bytes']} bytes"
            return {"error": f"The result has more than {which}.", "reason": "limit"}
        rows.append([_sendable(cell) for cell in row])
    return {"rows": rows, "columns": [each[0] for each in cursor.description]}


def _sendable(cell: object) -> object:
    return {"base64": base64.b64encode(cell).decode()} if isinstance(cell, bytes) else cell


def _why(raised: Exception, reading: Reading) -> dict[str, str]:
    if reading.refused:
        return {"error": f"A query may only read, and this asks for {reading.refused}.", "reason": "refused"}
    if reading.is_late():
        return {"error": "The query's time is up.", "reason": "time"}
    too_big = isinstance(raised, sqlite3.DataError) or "too big" in str(raised) or "out of memory" in str(raised)
    return {"error": f"{type(raised).__name__}: {raised}", "reason": "limit" if too_big else "error"}


def _confine(layers: Iterable[str]) -> None:
    """This process itself needs no network, no other program, and no file to write."""
    from . import landlock, seccomp, syscalls

    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if "landlock" in layers:
        landlock.restrict(landlock.rules(("/",), ()))
    if "seccomp" in layers:
        seccomp.restrict()


def main() -> None:
    """Answer queries until nobody asks any more."""
    ours = standard()
    asked = ours.receive()
    if asked is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limits = asked["limits"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if asked["layers"]:
        most = limits["memory_bytes"] + limits["result_bytes"] * 8 + _OVERHEAD
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        _confine(asked["layers"])
    ours.send({"problem": ""})
    while (request := ours.receive()) is not None:
        ours.send(answered(request["database"], request["query"], limits))
