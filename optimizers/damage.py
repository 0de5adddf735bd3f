"""What is wrong with a SQLite store's file, found by looking at it before it is used."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from optimizers.store_schema import APPLICATION

CHECKED_WHOLE = 64 * 2**20
"""Files of at most so many bytes are checked page by page when they are opened; of larger ones, length and head."""

_MAGIC = b"SQLite format 3\0"
_LOG_HEAD, _FRAME_HEAD = 32, 24


def damage(path: Path) -> str:
    """What is wrong with a store's file; empty where nothing is, or where it is no store of ours."""
    with path.open("rb") as file:
        head = file.read(100)
    size, log = path.stat().st_size, beside(path, "-wal")
    ours = head[68:72] == struct.pack(">I", APPLICATION)
    if not head.startswith(_MAGIC[: len(head)]):
        return "its head is overwritten" if ours else ""
    if len(head) < 100:
        return f"only {len(head)} bytes of it are there"
    page, pages = struct.unpack(">H", head[16:18])[0], struct.unpack(">I", head[28:32])[0]
    page = 65536 if page == 1 else page
    if ours and size < page * pages and not (log.exists() and log.stat().st_size):
        return f"only {size // page} of its {pages} pages are there"
    try:
        with closing(opened(path)) as connection:
            ours = ours or connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION
            if not ours or size > CHECKED_WHOLE:
                return ""
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as problem:
        locked = isinstance(problem, sqlite3.OperationalError) and "locked" in str(problem)
        return str(problem) if ours and not locked else ""
    return "" if said == "ok" else str(said).splitlines()[-1]


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
            read: int = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            after = _log_frames(log)
    except sqlite3.Error:
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
    """A connection that trusts nothing in the file."""
    connection = sqlite3.connect(path, timeout=30.0)
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection
