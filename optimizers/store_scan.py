"""What a store holds, counted in one pass over all of its rows, each compared with its checksum."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from optimizers.store_rows import FRACTIONS, NUMBERS, SEPARATOR, TEXTS, checksum
from optimizers.store_schema import ROLLOUTS, SEEN

_PAGE = 2_000
_ROUGH_PAGE = 500

Transaction = Callable[[], AbstractContextManager[sa.Connection]]
"""Opens a transaction that may raise what the database says as it is."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a store holds: distinct rollouts, of all runs; rewarded, failed, and not as they were written.

    `stages` counts what the stages of one run met. Where `unreadable` is not 0, `optimizers.salvage.salvage` puts what
    can be read into a new store; a run pays again for what cannot.
    """

    rollouts: int
    rewarded: int
    failed: int
    unreadable: int
    stages: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def whole(self) -> bool:
        """Whether every row is as it was written."""
        return self.unreadable == 0


def scanned(transaction: Transaction, run: str) -> Scan:
    """Read every rollout of a store once, and count the stages of a run."""
    rewarded = failed = unreadable = 0
    for rows, broken in _pages(transaction):
        unreadable += broken
        for _, words, score, found, *fractions in rows:
            if not _sound(words, score, found, fractions):
                unreadable += 1
            elif score is None:
                failed += 1
            else:
                rewarded += 1
    query = sa.select(SEEN.c.stage, sa.func.count()).where(SEEN.c.run == run).group_by(SEEN.c.stage)
    try:
        with transaction() as connection:
            stages = {str(stage): int(count) for stage, count in connection.execute(query)}
    except DBAPIError:
        stages, unreadable = {}, unreadable + 1
    return Scan(rewarded + failed + unreadable, rewarded, failed, unreadable, stages)


def _sound(words: bytes | str, score: float | None, found: int, fractions: Sequence[float]) -> bool:
    try:
        return found == checksum(words if isinstance(words, bytes) else words.encode(), *fractions, score)
    except (struct.error, AttributeError):  # of another type than was written
        return False


def _pages(transaction: Transaction) -> Iterator[tuple[Sequence[sa.Row[Any]], int]]:
    """The rows by their ids, some at a time, and how many among them could not even be read."""
    last, top = 0, _top(transaction)
    while True:
        try:
            with transaction() as connection:
                rows = _read(connection, ROLLOUTS.c.id > last, _PAGE)
        except DBAPIError:
            rows, broken = _one_by_one(transaction, last)
            yield rows, broken
            last += _ROUGH_PAGE
            if last >= top:
                return
            continue
        if not rows:
            return
        yield rows, 0
        last = rows[-1][0]


def _one_by_one(transaction: Transaction, last: int) -> tuple[list[sa.Row[Any]], int]:
    found: list[sa.Row[Any]] = []
    broken = 0
    for number in range(last + 1, last + 1 + _ROUGH_PAGE):
        try:
            with transaction() as connection:
                found += _read(connection, ROLLOUTS.c.id == number, 1)
        except DBAPIError:
            broken += 1
    return found, broken


def _read(connection: sa.Connection, where: sa.ColumnElement[bool], most: int) -> Sequence[sa.Row[Any]]:
    """Id, texts and numbers joined, score, checksum and fractions; of a file, as bytes, whatever became of them."""
    c = ROLLOUTS.c
    texts, numbers = [c[name] for name in TEXTS], [c[name] for name in NUMBERS]
    if connection.dialect.name == "sqlite":
        form = SEPARATOR.join([*["%s"] * len(texts), *["%d"] * len(numbers)])
        words: sa.ColumnElement[Any] = sa.cast(sa.func.printf(form, *texts, *numbers), sa.LargeBinary)
    else:
        words = sa.func.concat_ws(SEPARATOR, *texts, *numbers)
    columns = (c.id, words.label("words"), c.score, c.checksum, *(c[name] for name in FRACTIONS))
    return connection.execute(sa.select(*columns).where(where).order_by(c.id).limit(most)).all()


def _top(transaction: Transaction) -> int:
    try:
        with transaction() as connection:
            return connection.execute(sa.select(sa.func.max(ROLLOUTS.c.id))).scalar() or 0
    except DBAPIError:
        return 0
