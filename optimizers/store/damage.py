"""What is wrong with a SQLite store's file, found by looking at it before it is used."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from optimizers.store.schema import APPLICATION, SCHEMA, TABLES

CHECKED_WHOLE = 64 * 2**20
"""Files of at most so many bytes are checked page by page when they are opened; of larger ones, length and head."""

_MAGIC = b"SQLite format 3\0"
_TABLE, _OWN_COLUMN = b"CREATE TABLE rollouts", "supplement VARCHAR"
_TABLES_WITHIN = 2**16
_PASSING = ("locked", "busy", "readonly", "unable to open", "disk I/O", "full")
"""What SQLite says of a file that is in use, or on a disk that is in trouble: whoever opens it is told."""

UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What is raised of a damaged file; the latter where SQLite's own message repeats what it found."""

_LOG_HEAD, _FRAME_HEAD = 32, 24


def damage(path: Path) -> str:
    """What is wrong with a store's file; empty where nothing is, or where it is no store of ours."""
    with path.open("rb") as file:
        begin = file.read(_TABLES_WITHIN)
    head, size, log = begin[:100], path.stat().st_size, beside(path, "-wal")
    signed = head[68:72] == struct.pack(">I", APPLICATION)
    ours = signed or _TABLE in begin
    if not head.startswith(_MAGIC[: len(head)]):
        return "its head is overwritten" if ours else ""
    if len(head) < 100:
        return f"only {len(head)} bytes of it are there"
    page, pages = struct.unpack(">H", head[16:18])[0], struct.unpack(">I", head[28:32])[0]
    page = 65536 if page == 1 else page
    if ours and size < page * pages and not (log.exists() and log.stat().st_size):
        return f"only {size // page} of its {pages} pages are there"
    try:
        return _said(path, signed=signed, whole=size <= CHECKED_WHOLE)
    except UNREADABLE as problem:
        passing = isinstance(problem, sqlite3.OperationalError) and any(each in str(problem) for each in _PASSING)
        return str(problem) if ours and not passing else ""


def _said(path: Path, *, signed: bool, whole: bool) -> str:
    """What SQLite says of a file that it can open; it may raise whatever `UNREADABLE` holds."""
    with closing(opened(path)) as connection:
        signed = signed or connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION
        tables = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'rollouts'").fetchall()
        if not signed:
            return "its head is overwritten" if tables and _OWN_COLUMN in str(tables[0][0]) else ""
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == SCHEMA and tables and not has_columns(connection):
            return "its list of tables is overwritten"
        said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0]) if whole else "ok"
    return "" if said == "ok" else said.splitlines()[-1]


def has_columns(connection: sqlite3.Connection) -> bool:
    """Whether the tables have the columns of this version."""
    return all(
        {each[1] for each in connection.execute(f"PRAGMA table_info({table.name})")} == set(table.c.keys())
        for table in TABLES
    )


def torn_log(path: Path) -> list[str]:
    """Bring the write-ahead log into the file, as SQLite does by itself; what was told of it that could not be read.

    SQLite reads the log up to the first frame whose checksum is wrong, and says nothing of what stands behind it.
    """
    log = beside(path, "-wal")
    before = _log_frames(log)
    if before is None:
        return []
    try:
        with closing(opened(path)) as connection:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if application != APPLICATION and (application, tables) != (0, 0):
                return []
            read: int = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            after = _log_frames(log)
    except UNREADABLE:
        return []
    if after is None or after.begun != before.begun or (read >= before.committed and not before.cut):
        return []
    lost = f"{log} was torn: what was saved last, {before.committed - read or 'some'} pages of it, is lost"
    return [f"{lost}, and is paid again when a run needs it."]


class _Frames(NamedTuple):
    """Of a write-ahead log: how it begins, frames up to the last that ends a transaction, and whether one is cut."""

    begun: bytes
    committed: int
    cut: bool


def _log_frames(log: Path) -> _Frames | None:
    """What stands in a log, whether or not SQLite would read it; None without one."""
    if not log.exists() or log.stat().st_size <= _LOG_HEAD:
        return None
    size, committed = log.stat().st_size, 0
    with log.open("rb") as file:
        head = file.read(_LOG_HEAD)
        step = struct.unpack(">I", head[8:12])[0] + _FRAME_HEAD
        if not 512 <= step - _FRAME_HEAD <= 65536:
            return _Frames(head, 0, cut=True)
        whole, rest = divmod(size - _LOG_HEAD, step)
        for number in range(whole):
            file.seek(_LOG_HEAD + number * step)
            frame = file.read(_FRAME_HEAD)
            if frame[8:16] == head[16:24] and any(frame[4:8]):
                committed = number + 1
    return _Frames(head, committed, cut=rest > 0)


def beside(path: Path, end: str) -> Path:
    """The file whose name ends in so much more."""
    return path.with_name(path.name + end)


def opened(path: Path) -> sqlite3.Connection:
    """A connection that trusts nothing in the file, and reads texts that are none as well as it can."""
    connection = sqlite3.connect(path, timeout=30.0)
    try:
        connection.text_factory = lenient
        connection.execute("PRAGMA trusted_schema=OFF").close()
    except BaseException:
        connection.close()
        raise
    return connection


def lenient(raw: bytes) -> str:
    """Bytes as text, whatever they are; a checksum tells that they are not what was written."""
    return raw.decode("utf-8", "replace")
