"""Rows of a damaged SQLite table whose tree no longer leads to them, read from its leaf pages."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from optimizers.store.damage import UNREADABLE, beside, opened

_LEAF, _INNER = 0x0D, 0x05
"""How a page of a table's tree begins (SQLite's "Database File Format", section 1.6)."""
_ENTRY = struct.Struct(">IB")
_AT_ONCE = 100
"""Leaves that one page leads to: their entries of 5 bytes fit even the smallest page with room to spare, and keys of
one byte are below 128."""


def rows_of_leaves(source: Path, table: str) -> Iterator[list[dict[str, Any]]]:
    """Whatever the file's leaf pages hold, read as rows of the table, some at a time; `rowid_` is their number.

    A copy of the file gets a root page that leads to some leaves, and then to the next: an overwritten page of the
    tree costs what it held, not all that it led to. Pages of other tables give rows that are none of this one's, and
    whoever asks must tell them apart. The source stays as it is.
    """
    copy = beside(source, ".leaves")
    try:
        shutil.copyfile(source, copy)
        with closing(opened(copy)) as connection:
            root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            size = connection.execute("PRAGMA page_size").fetchone()[0]
        if root is None or not 2 <= root[0] <= copy.stat().st_size // size:
            return
        leaves = _leaves(source, size)
        for first in range(0, len(leaves), _AT_ONCE):
            yield _read(copy, table, root[0], size, leaves[first : first + _AT_ONCE])
    except UNREADABLE:
        return
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            beside(copy, end).unlink(missing_ok=True)


def _leaves(source: Path, size: int) -> list[int]:
    """The numbers of the pages that begin as a table's leaf does, from 2: the first lists the tables."""
    with source.open("rb") as file:
        pages = iter(lambda: file.read(size), b"")
        return [number for number, page in enumerate(pages, 1) if number > 1 and page[0] == _LEAF]


def _read(copy: Path, table: str, root: int, size: int, leaves: Sequence[int]) -> list[dict[str, Any]]:
    """The rows on these leaves; where one of them cannot be read, those of the others."""
    *others, last = leaves
    begin = size - _ENTRY.size * len(others)
    head = struct.pack(">BHHHBI", _INNER, 0, len(others), begin, 0, last)
    slots = b"".join(struct.pack(">H", begin + _ENTRY.size * n) for n in range(len(others)))
    entries = b"".join(_ENTRY.pack(leaf, n) for n, leaf in enumerate(others, 1))
    with copy.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write((head + slots).ljust(begin, b"\0") + entries)
    try:
        with closing(opened(copy)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f"SELECT rowid AS rowid_, * FROM {table} NOT INDEXED")]
    except UNREADABLE:
        if not others:
            return []
    half = len(leaves) // 2
    return _read(copy, table, root, size, leaves[:half]) + _read(copy, table, root, size, leaves[half:])
