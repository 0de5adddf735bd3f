"""A damaged SQLite store: found, moved aside, and its readable rows written to a new one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from optimizers.store.damage import UNREADABLE, beside, damage, has_columns, opened, torn_log
from optimizers.store.leaves import rows_of_leaves
from optimizers.store.rows import UnreadableRowError, check, sample_of, signed
from optimizers.store.schema import (
    APPLICATION,
    METADATA,
    PAID,
    ROLLOUTS,
    SAMPLES,
    SCHEMA,
    SCOPES,
    SEEN,
    TABLES,
    rollout_of_version_2,
    seen_of_version_2,
)

_CHUNK = 500
_LEAST = {"rollouts": 128, "seen": 32, "scopes": 8, "samples": 32}
"""No row takes fewer bytes: how many there are at most where nothing else tells."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was kept of a damaged store, in rows by table, how many at least are lost, and where the old file is now."""

    path: Path
    aside: Path
    why: str
    kept: Mapping[str, int]
    lost: Mapping[str, int]

    def __str__(self) -> str:
        """The same in words."""
        tables = [f"{count} rows of {name}" for name, count in self.kept.items() if count or self.lost[name]]
        gone = [f"{count} of {name}" for name, count in self.lost.items() if count]
        return (
            f"{self.path} was damaged{f': {self.why}' if self.why else ''}. Kept: {', '.join(tables) or 'nothing'}. "
            f"Lost, at least: {', '.join(gone) or 'nothing that is known of'}. The damaged file is {self.aside.name} "
            "now; what is lost is paid again when a run needs it."
        )


def salvaged_if_damaged(path: Path, *, run: str = "run") -> list[str]:
    """Salvage the file if it is a damaged store of ours; what a person should know. Other files are left alone."""
    ready = beside(path, ".salvaged")
    if not path.exists() and ready.exists():  # a salvage that was killed at its last step
        ready.rename(path)
    if not path.is_file():
        return []
    if path.stat().st_size == 0:
        return [f"{path} was empty, so it is begun anew."]
    notes = torn_log(path)
    return [*notes, str(salvage(path, run=run))] if damage(path) else notes


def salvage(path: str | Path, *, run: str = "run") -> Salvaged:
    """Move a damaged store aside and write a new one of every row that can be read and is as it was written.

    Of a file of version 2, the rollouts become `run`'s. Nothing is deleted. No other process may use the file.
    """
    path = Path(path)
    aside = next(each for n in range(1, 10**6) if not (each := beside(path, f".damaged-{n}")).exists())
    draft, ready = beside(path, ".salvaging"), beside(path, ".salvaged")
    for old in (draft, ready):
        old.unlink(missing_ok=True)
    why = damage(path) if path.stat().st_size else "it is empty"
    kept, lost = _rewritten(path, draft, run)
    draft.rename(ready)
    for end in ("", "-wal", "-shm"):
        if (each := beside(path, end)).exists():
            each.rename(beside(aside, end))
    ready.rename(path)
    return Salvaged(path, aside, why, kept, lost)


def _rewritten(path: Path, draft: Path, run: str) -> tuple[dict[str, int], dict[str, int]]:
    """Write what can be read of a store to a new one; rows kept and lost by table."""
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(draft)), poolclass=sa.NullPool)
    with engine.begin() as into:
        METADATA.create_all(into)
        into.exec_driver_sql(f"PRAGMA application_id={APPLICATION}")
        into.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")
    repaired = beside(path, ".repaired")
    try:
        source = path if _has_tables(path) else _with_fresh_head(path, repaired, like=draft)
        with engine.begin() as into, closing(opened(source)) as connection:
            return _copied(source, connection, into, path.stat().st_size, run)
    finally:
        engine.dispose()
        for end in ("", "-wal", "-shm"):
            beside(repaired, end).unlink(missing_ok=True)


def _copied(
    source: Path, connection: sqlite3.Connection, into: sa.Connection, size: int, run: str
) -> tuple[dict[str, int], dict[str, int]]:
    old = _asked(connection, "PRAGMA user_version") == 2
    kept_ids: set[int] = set()
    kept: dict[str, int] = {}
    lost: dict[str, int] = {}
    for table in TABLES:
        if old and table not in (ROLLOUTS, SEEN):
            kept[table.name] = lost[table.name] = 0
            continue
        most, known = size // _LEAST[table.name], _highest(connection, table)
        top = most if known is None else min(known, most)
        taken = _upgraded(table, run, connection if old else None)
        count, read = 0, set[int]()
        for rows in _every(source, connection, table, top):
            sound = [
                (row["rowid_"], made)
                for row in rows
                if row["rowid_"] not in read and (made := taken(row)) is not None and _sound(table, made, kept_ids)
            ]
            if not sound:
                continue
            numbers, made = zip(*sound, strict=True)
            if table is ROLLOUTS:
                made = [signed(row) for row in made]  # no checksum covers a key
                kept_ids.update(row["id"] for row in made)
            count += into.execute(sa.insert(table).prefix_with("OR IGNORE"), list(made)).rowcount
            read.update(numbers)
        kept[table.name], lost[table.name] = count, max(0 if known is None else top, max(read, default=0)) - count
    into.execute(_unmet())
    return kept, lost


def _unmet() -> sa.Insert:
    """Rollouts that no readable stage met, as met by a stage `salvaged`, so that they answer; with what they cost."""
    c = ROLLOUTS.c
    paid = (1, sa.func.max(1, c.asked), c.tokens_in, c.tokens_out, c.seconds, c.cost)
    met = (c.id, c.run, sa.literal("salvaged"), sa.literal("none"), sa.literal(0.0))
    return sa.insert(SEEN).from_select(
        ["rollout", "run", "stage", "source", "logprob", *PAID],
        sa.select(*met, *paid).where(c.id.not_in(sa.select(SEEN.c.rollout))),
    )


def _every(
    source: Path, connection: sqlite3.Connection, table: sa.Table, top: int
) -> Iterator[Sequence[dict[str, Any]]]:
    """The rows that can be read, some at a time: through the table's tree, and where some are missing, leaf by leaf.

    A leaf does not say whose it is. Types and checksums tell, but not for `scopes`, which whoever uses it writes anew.
    """
    count = 0
    for first in range(1, top + 1, _CHUNK):
        if rows := _found(connection, table.name, first, min(first + _CHUNK - 1, top)):
            count += len(rows)
            yield rows
    if count < top and table is not SCOPES:
        yield from rows_of_leaves(source, table.name)


def _found(connection: sqlite3.Connection, table: str, first: int, last: int) -> list[dict[str, Any]]:
    """The rows of these numbers that can be read, looked for in halves where some are missing.

    A scan that meets an overwritten page raises, or ends there as if the table did: SQLite may take the page for an
    empty one. The rows behind it are found by their numbers all the same.
    """
    try:
        rows = _numbered(connection, table, first, last)
    except UNREADABLE:
        rows = []
    if len(rows) > last - first or first == last:
        return rows
    middle = (first + last) // 2
    return _found(connection, table, first, middle) + _found(connection, table, middle + 1, last)


def _numbered(connection: sqlite3.Connection, table: str, first: int, last: int) -> list[dict[str, Any]]:
    found = connection.execute(
        f"SELECT rowid AS rowid_, * FROM {table} WHERE rowid BETWEEN ? AND ? ORDER BY rowid", (first, last)
    )
    names = [each[0] for each in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def _upgraded(
    table: sa.Table, run: str, old: sqlite3.Connection | None
) -> Callable[[Mapping[str, Any]], dict[str, Any] | None]:
    """What makes a table's row of this version; `old` is the connection to a store of version 2, if it is one."""

    def taken(row: Mapping[str, Any]) -> dict[str, Any] | None:
        row = {name: value for name, value in row.items() if name != "rowid_"}
        try:
            if old is not None and table is ROLLOUTS:
                return rollout_of_version_2(row, run)
            if old is not None and table is SEEN:
                return seen_of_version_2({**row, **_payment(old, row)}, run)
        except (KeyError, TypeError, ValueError, sqlite3.Error):
            return None
        return row

    return taken


def _payment(old: sqlite3.Connection, row: Mapping[str, Any]) -> dict[str, Any]:
    """What version 2 knows of a rollout's cost, and whether the row was the first to meet it."""
    names = ("asked", "tokens_in", "tokens_out", "seconds")
    found = old.execute(f"SELECT {', '.join(names)} FROM rollouts WHERE id = ?", (row["rollout"],)).fetchone()
    first = old.execute("SELECT min(id) FROM seen WHERE rollout = ?", (row["rollout"],)).fetchone()[0]
    return {**dict(zip(names, found, strict=True)), "first": first == row["id"]}


def _sound(table: sa.Table, row: Mapping[str, Any], rollouts: set[int]) -> bool:
    """Whether a row is as it was written, as far as can be told."""
    typed = set(row) == set(table.c.keys()) and all(
        isinstance(row[column.name], column.type.python_type) or (column.nullable and row[column.name] is None)
        for column in table.c
    )
    if not typed or (table is SEEN and row["rollout"] not in rollouts):
        return False
    try:
        if table is ROLLOUTS:
            check(row)
        elif table is SAMPLES:
            sample_of(row)
    except UnreadableRowError:
        return False
    return True


def _asked(connection: sqlite3.Connection, question: str) -> int | None:
    """A number that the file tells, 0 where it tells nothing; None where it cannot be read."""
    try:
        answer = connection.execute(question).fetchone()[0]
    except UNREADABLE:
        return None
    return answer if isinstance(answer, int) else 0


def _highest(connection: sqlite3.Connection, table: sa.Table) -> int | None:
    """The highest id of a table, as far as it can be told; rollouts are pointed at by `seen` too."""
    found = [_asked(connection, f"SELECT max(rowid) FROM {table.name}")]
    if table is ROLLOUTS:
        found.append(_asked(connection, "SELECT max(rollout) FROM seen"))
    return max((each for each in found if each is not None), default=None)


def _has_tables(path: Path) -> bool:
    try:
        with closing(opened(path)) as connection:
            return has_columns(connection) or _asked(connection, "PRAGMA user_version") == 2
    except UNREADABLE:
        return False


def _with_fresh_head(path: Path, copy: Path, *, like: Path) -> Path:
    """A copy whose first page, which lists the tables, is that of a new store: they always begin on the same pages."""
    shutil.copyfile(path, copy)
    head = bytearray(like.read_bytes()[:4096])
    size = struct.unpack(">H", head[16:18])[0]
    log = beside(path, "-wal")
    if log.exists() and log.stat().st_size:
        shutil.copyfile(log, beside(copy, "-wal"))
        head[18:20] = b"\2\2"  # read through the write-ahead log
    head[28:32] = struct.pack(">I", -(-path.stat().st_size // size))
    head[32:40] = bytes(8)  # no free pages that anyone knows of
    with copy.open("r+b") as file:
        file.write(head[:size])
        file.seek(0, os.SEEK_END)
        file.truncate(-(-file.tell() // size) * size)
    return copy
