"""Counts a store's rollouts in one pass that compares each row with its checksum."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from optimizers.store.rows import FLOAT_COLUMNS, INTEGER_COLUMNS, SEPARATOR, TEXT_COLUMNS, compute_checksum
from optimizers.store.schema import ROLLOUTS, SEEN

_PAGE = 2_000
_PAGE_ONE_BY_ONE = 500

Outcome = Literal["rewarded", "failed", "unreadable"]
Transaction = Callable[[], AbstractContextManager[sa.Connection]]
"""Opens a transaction that raises the driver's own errors."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Counts of a store's rollouts, of all runs: rewarded, failed, and unreadable.

    `stages` counts the rollouts by stage of one run. If `unreadable` is not 0, `optimizers.store.recovery.recover`
    copies the readable rows to a new store; a run pays again for the others.
    """

    rollouts: int
    rewarded: int
    failed: int
    unreadable: int
    stages: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def intact(self) -> bool:
        """Whether every row is readable and matches its checksum."""
        return self.unreadable == 0


def scan_rollouts(transaction: Transaction, run: str) -> Scan:
    """Reads every rollout of a store once, and counts the stages of a run."""
    counts = Counter[Outcome]()
    for rows, broken in _read_pages(transaction):
        counts["unreadable"] += broken
        for _, texts, cost, seconds, created, score, checksum in rows:
            counts[_classify(texts, cost, seconds, created, score, checksum)] += 1
    query = sa.select(SEEN.c.stage, sa.func.count()).where(SEEN.c.run == run).group_by(SEEN.c.stage)
    try:
        with transaction() as connection:
            stages = {str(stage): int(count) for stage, count in connection.execute(query)}
    except DBAPIError:
        stages, counts["unreadable"] = {}, counts["unreadable"] + 1
    return Scan(counts.total(), counts["rewarded"], counts["failed"], counts["unreadable"], stages)


def _classify(
    texts: bytes | str, cost: float, seconds: float, created: float, score: float | None, checksum: int
) -> Outcome:
    try:
        texts = texts if isinstance(texts, bytes) else texts.encode()
        if compute_checksum(texts, cost, seconds, created, score) != checksum:
            return "unreadable"
    except (struct.error, AttributeError):  # another type than the column's
        return "unreadable"
    return "failed" if score is None else "rewarded"


def _read_pages(transaction: Transaction) -> Iterator[tuple[Sequence[Any], int]]:
    """Yields the rows in the order of their ids, a page at a time, with the number of rows that raise an error."""
    last, highest = 0, _find_highest_id(transaction)
    while True:
        try:
            with transaction() as connection:
                rows = _read(connection, ROLLOUTS.c.id > last, _PAGE)
        except DBAPIError:
            rows, broken = _read_one_by_one(transaction, last)
            yield rows, broken
            last += _PAGE_ONE_BY_ONE
            if last >= highest:
                return
            continue
        if not rows:
            return
        yield rows, 0
        last = rows[-1][0]


def _read_one_by_one(transaction: Transaction, last: int) -> tuple[list[Any], int]:
    rows: list[Any] = []
    broken = 0
    for number in range(last + 1, last + 1 + _PAGE_ONE_BY_ONE):
        try:
            with transaction() as connection:
                rows += _read(connection, ROLLOUTS.c.id == number, 1)
        except DBAPIError:
            broken += 1
    return rows, broken


def _read(connection: sa.Connection, where: sa.ColumnElement[bool], limit: int) -> Sequence[Any]:
    """Selects id, joined texts and integers, floats, score and checksum; from a file, the joined texts are bytes."""
    c = ROLLOUTS.c
    columns = [c[name] for name in (*TEXT_COLUMNS, *INTEGER_COLUMNS)]
    if connection.dialect.name == "sqlite":
        form = SEPARATOR.join([*["%s"] * len(TEXT_COLUMNS), *["%d"] * len(INTEGER_COLUMNS)])
        texts: sa.ColumnElement[Any] = sa.cast(sa.func.printf(form, *columns), sa.LargeBinary)
    else:
        texts = sa.func.concat_ws(SEPARATOR, *columns)
    query = sa.select(c.id, texts, *(c[name] for name in FLOAT_COLUMNS), c.score, c.checksum)
    return connection.execute(query.where(where).order_by(c.id).limit(limit)).all()


def _find_highest_id(transaction: Transaction) -> int:
    try:
        with transaction() as connection:
            return connection.execute(sa.select(sa.func.max(ROLLOUTS.c.id))).scalar() or 0
    except DBAPIError:
        return 0
