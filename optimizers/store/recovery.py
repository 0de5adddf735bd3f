"""Damaged SQLite stores: find the damage, move the file aside, copy its readable rows to a new store."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import sqlalchemy as sa

from optimizers.store.rows import UnreadableRowError, add_checksum, read_sample, verify
from optimizers.store.schema import (
    APPLICATION_ID,
    DRAFTS,
    ROLLOUTS,
    SAMPLES,
    SCHEMA_VERSION,
    SEEN,
    TABLES,
    USAGE_COLUMNS,
    create_tables,
)
from sgt_modules.errors import RunFolderError

QUICK_CHECK_LIMIT = 64 * 2**20
"""Larger files are opened without SQLite's `quick_check`, which reads every page."""

READ_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged file raises; the latter where SQLite's own message quotes bytes of the file."""

_TRANSIENT_CODES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOMEM,
}
"""SQLite's codes for a file in use or without write access, and for a failing disk or memory: no damage."""

_MAGIC = b"SQLite format 3\0"
_HEADER_SIZE = 100
_MARKS = (b"CREATE TABLE rollouts", b"supplement VARCHAR")
_MARKS_RANGE = 2**16
_CHUNK = 500
_SMALLEST_ROW = 32
"""Bytes: with the file's size, the highest row number to try."""
_GAP = 50_000
"""So many unreadable row numbers above the highest known one end a table: more than one page leads to."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Rows by table that the new store at `path` holds, and that are known to be lost; `aside` is the old file."""

    path: Path
    aside: Path
    damage: str
    kept: Mapping[str, int]
    lost: Mapping[str, int]

    def __str__(self) -> str:
        """The note for people."""
        kept = ", ".join(f"{rows} rows of {name}" for name, rows in self.kept.items() if rows)
        lost = ", ".join(f"{rows} of {name}" for name, rows in self.lost.items() if rows)
        return (
            f"{self.path} was damaged ({self.damage or 'no damage found'}). Kept: {kept or 'nothing'}. "
            f"Lost, at least: {lost or 'nothing'}. The damaged file is now {self.aside.name}. A run that needs a lost "
            "row pays for it again."
        )


def recover_if_damaged(path: Path) -> list[str]:
    """Recovers the file if it is a damaged store; returns notes. Leaves every other file as it is."""
    notes = _finish_interrupted(path)
    if not path.is_file():
        return notes
    if path.stat().st_size == 0:
        return [*notes, f"{path} was empty, so a new store begins there."]
    damage = find_damage(path)
    return [*notes, str(_recover(path, damage))] if damage else notes


def recover(path: str | Path) -> Recovery:
    """Moves a store's file aside and writes its readable rows to a new store at the same path.

    The old file stays, as `<name>.damaged-1` or with the next free number. No other process may use the store
    meanwhile. Raises `RunFolderError` for an intact file that is no store of this version, and leaves it as it is.
    """
    path = Path(path)
    _finish_interrupted(path)
    damage = find_damage(path)
    if not damage:
        with closing(open_file(path)) as connection:
            if _read_identity(connection) != (APPLICATION_ID, SCHEMA_VERSION):
                raise RunFolderError(f"Expected a store of rollouts of version {SCHEMA_VERSION}, got {path}.")
    return _recover(path, damage)


def _recover(path: Path, damage: str) -> Recovery:
    draft, ready = _sibling(path, ".recovering"), _sibling(path, ".recovered")
    draft.unlink(missing_ok=True)
    kept, lost = _write_readable_rows(path, draft)
    draft.rename(ready)
    return Recovery(path, _replace(path, ready), damage, kept, lost)


def find_damage(path: Path, *, quick_check_limit: int = QUICK_CHECK_LIMIT) -> str:
    """Says what is wrong with a store's file; empty if nothing is, or if the file is no store of this version."""
    try:
        with closing(open_file(path)) as connection:
            connection.execute("BEGIN")  # one view of a file that another process may be creating
            application, version = _read_identity(connection)
            if application != APPLICATION_ID:
                return "its header is overwritten" if _has_tables(connection) else ""
            if version != SCHEMA_VERSION:
                return ""
            if not _has_tables(connection):
                return "its list of tables is overwritten"
            if path.stat().st_size > quick_check_limit:
                return ""
            report = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except READ_ERRORS as problem:
        code = getattr(problem, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        return str(problem) if code & 0xFF not in _TRANSIENT_CODES and _is_marked(path) else ""
    return "" if report == "ok" else report.splitlines()[-1]


def open_file(path: Path) -> sqlite3.Connection:
    """Connects to a file without trusting what it holds; a text that is no UTF-8 is read with replacements."""
    connection = sqlite3.connect(path, timeout=30.0)
    try:
        connection.text_factory = decode
        connection.execute("PRAGMA trusted_schema=OFF").close()
    except BaseException:
        connection.close()
        raise
    return connection


def _open_damaged(path: Path) -> sqlite3.Connection:
    """As `open_file`; SQLite then also reads a file that is shorter than its header says."""
    connection = open_file(path)
    connection.execute("PRAGMA writable_schema=ON").close()
    connection.execute("PRAGMA cell_size_check=ON").close()
    return connection


def decode(raw: bytes) -> str:
    """Bytes as text, with replacements where they are no UTF-8: the row's checksum then shows that they changed."""
    return raw.decode("utf-8", "replace")


def _is_marked(path: Path) -> bool:
    """Whether a file that SQLite cannot read begins as our stores do, or was cut off within SQLite's header."""
    with path.open("rb") as file:
        begin = file.read(_MARKS_RANGE)
    cut = len(begin) < _HEADER_SIZE and begin.startswith(_MAGIC[: len(begin)])
    return cut or begin[68:72] == APPLICATION_ID.to_bytes(4, "big") or all(mark in begin for mark in _MARKS)


def _has_tables(connection: sqlite3.Connection) -> bool:
    """Whether every table has the columns of this version."""
    return all(
        {column[1] for column in connection.execute(f"PRAGMA table_info({table.name})")} == set(table.c.keys())
        for table in TABLES
    )


def _read_identity(connection: sqlite3.Connection) -> tuple[int, int]:
    """A file's application id and version."""
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    return application, version


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _finish_interrupted(path: Path) -> list[str]:
    """Puts a finished copy in its place if the process was killed before it could; returns notes."""
    ready = _sibling(path, ".recovered")
    if not ready.exists():
        return []
    _replace(path, ready)
    return [f"{path} was damaged, and a recovery that was interrupted is now complete. The damaged file is next to it."]


def _replace(path: Path, ready: Path) -> Path:
    """Moves a file aside with its write-ahead log, and `ready` into its place; returns where the old file is."""
    aside = next(each for n in count(1) if not (each := _sibling(path, f".damaged-{n}")).exists())
    for suffix in ("-wal", "-shm", ""):  # the file last: after a kill, its log and it still get the same number
        if (each := _sibling(path, suffix)).exists():
            each.rename(_sibling(aside, suffix))
    ready.rename(path)
    return aside


def _write_readable_rows(path: Path, draft: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Writes a new store at `draft`; returns rows kept and rows lost by table."""
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(draft)), poolclass=sa.NullPool)
    copy = _sibling(path, ".copy")
    try:
        with engine.begin() as new:
            create_tables(new)
        source = path if _has_readable_schema(path) else _copy_with_first_page_of(draft, path, copy)
        with engine.begin() as new, closing(_open_damaged(source)) as old:
            size = sum(each.stat().st_size for each in (path, _sibling(path, "-wal")) if each.exists())
            return _copy_rows(old, new, size)
    finally:
        engine.dispose()
        for suffix in ("", "-wal", "-shm"):
            _sibling(copy, suffix).unlink(missing_ok=True)


def _has_readable_schema(path: Path) -> bool:
    """Whether SQLite can read the list of tables, and it is that of this version."""
    try:
        with closing(_open_damaged(path)) as connection:
            return _has_tables(connection)
    except READ_ERRORS:
        return False


def _copy_with_first_page_of(new: Path, path: Path, copy: Path) -> Path:
    """Copies a file and replaces its first page, which lists the tables, by that of a new store.

    A new store's tables begin on the same pages. A size of 0 in the header makes SQLite take the file's own size.
    """
    shutil.copyfile(path, copy)
    if (log := _sibling(path, "-wal")).exists():
        shutil.copyfile(log, _sibling(copy, "-wal"))
    page = bytearray(new.read_bytes()[:4096])
    page[18:20] = b"\2\2"  # read the write-ahead log too
    page[28:32] = bytes(4)
    with copy.open("r+b") as file:
        file.write(page)
    return copy


def _copy_rows(old: sqlite3.Connection, new: sa.Connection, size: int) -> tuple[dict[str, int], dict[str, int]]:
    """Copies every table of a file of so many bytes; returns rows kept and rows lost by table."""
    kept: dict[str, int] = {}
    lost: dict[str, int] = {}
    rollouts = set[int]()
    for table in (*TABLES, *([DRAFTS] if _has_drafts(old) else [])):
        limit, copied = size // _SMALLEST_ROW, 0
        highest = min(_find_highest_row(old, table), limit)
        for rows in _read_rows(old, table.name, highest, limit):
            highest = max(highest, *(number for number, _ in rows))
            intact = [row for _, row in rows if _is_intact(table, row, rollouts)]
            if table is ROLLOUTS:
                intact = [add_checksum(row) for row in intact]  # the checksum does not cover the key
                rollouts.update(row["id"] for row in intact)
            if intact:
                copied += new.execute(sa.insert(table).prefix_with("OR IGNORE"), intact).rowcount
        kept[table.name], lost[table.name] = copied, highest - copied
    new.execute(_insert_unlisted_rollouts())
    return kept, lost


def _read_rows(
    old: sqlite3.Connection, table: str, highest: int, limit: int
) -> Iterator[Sequence[tuple[int, dict[str, Any]]]]:
    """Yields the readable rows with their numbers, a chunk at a time; where some are missing, reads one by one.

    `highest` is the highest row number that is known, `limit` the highest that is possible. An overwritten page may
    also end a query early, without an error.
    """
    last_read = 0
    for first in range(1, limit + 1, _CHUNK):
        if first > max(highest, last_read + _GAP):
            return
        numbers = range(first, first + _CHUNK)
        try:
            rows = _select(old, table, first, numbers[-1])
            complete = len(rows) == _CHUNK or (not rows and first > highest)
        except READ_ERRORS:
            rows, complete = [], False
        if not complete:
            rows = []
            for number in numbers:
                with suppress(*READ_ERRORS):
                    rows += _select(old, table, number, number)
        if rows:
            last_read = numbers[-1]
            yield rows


def _select(old: sqlite3.Connection, table: str, first: int, last: int) -> list[tuple[int, dict[str, Any]]]:
    cursor = old.execute(f"SELECT rowid, * FROM {table} WHERE rowid BETWEEN ? AND ? ORDER BY rowid", (first, last))
    names = [column[0] for column in cursor.description[1:]]
    return [(number, dict(zip(names, values, strict=True))) for number, *values in cursor]


def _has_drafts(old: sqlite3.Connection) -> bool:
    """Whether a file has the table of drafts, which stores from before it lack."""
    with suppress(*READ_ERRORS):
        return bool(old.execute(f"PRAGMA table_info({DRAFTS.name})").fetchall())
    return False


def _find_highest_row(old: sqlite3.Connection, table: sa.Table) -> int:
    """The highest row number of a table, as far as the file says it; `seen` points to rollouts too."""
    highest = 0
    for query in (f"SELECT max(rowid) FROM {table.name}", *(["SELECT max(rollout) FROM seen"] * (table is ROLLOUTS))):
        with suppress(*READ_ERRORS):
            number = old.execute(query).fetchone()[0]
            highest = max(highest, number if isinstance(number, int) else 0)
    return highest


def _is_intact(table: sa.Table, row: Mapping[str, Any], rollouts: set[int]) -> bool:
    """Whether a row has its columns' types, its checksum, and, in `seen`, a rollout that was copied."""
    typed = all(
        isinstance(row[column.name], column.type.python_type) or (column.nullable and row[column.name] is None)
        for column in table.c
    )
    if not typed or (table is SEEN and row["rollout"] not in rollouts):
        return False
    try:
        if table is ROLLOUTS:
            verify(row)
        elif table is SAMPLES:
            read_sample(row)
        elif table is DRAFTS:
            return row["checksum"] == crc32(row["content"].encode())
    except UnreadableRowError:
        return False
    return True


def _insert_unlisted_rollouts() -> sa.Insert:
    """Lists rollouts that no readable row of `seen` names under a stage `recovered`, so that they count and answer."""
    c = ROLLOUTS.c
    listed = (c.id, c.run, sa.literal("recovered"), sa.literal("none"), sa.literal(0.0))
    paid = (1, sa.func.max(1, c.asked), c.tokens_in, c.tokens_out, c.seconds, c.cost)
    return sa.insert(SEEN).from_select(
        ["rollout", "run", "stage", "source", "logprob", *USAGE_COLUMNS],
        sa.select(*listed, *paid).where(c.id.not_in(sa.select(SEEN.c.rollout))),
    )
