"""What a store holds, counted in one pass over all of its rows, each compared with its checksum."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from optimizers.store.rows import FRACTIONS, NUMBERS, SEPARATOR, TEXTS, checksum
from optimizers.store.schema import ROLLOUTS, SEEN

_PAGE = 2_000
_ROUGH_PAGE = 500

Outcome = Literal["rewarded", "failed", "unreadable"]
Transaction = Callable[[], AbstractContextManager[sa.Connection]]
"""Opens a transaction that may raise what the database says as it is."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a store holds: distinct rollouts, of all runs; rewarded, failed, and not as they were written.

    `stages` counts what the stages of one run met. Where `unreadable` is not 0, `optimizers.store.recovery.recover`
    puts what can be read into a new store; a run pays again for what cannot.
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
    found = Counter[Outcome]()
    for rows, broken in _pages(transaction):
        found["unreadable"] += broken
        for _, words, cost, seconds, created, score, written in rows:
            found[_outcome(words, cost, seconds, created, score, written)] += 1
    query = sa.select(SEEN.c.stage, sa.func.count()).where(SEEN.c.run == run).group_by(SEEN.c.stage)
    try:
        with transaction() as connection:
            stages = {str(stage): int(count) for stage, count in connection.execute(query)}
    except DBAPIError:
        stages, found["unreadable"] = {}, found["unreadable"] + 1
    return Scan(found.total(), found["rewarded"], found["failed"], found["unreadable"], stages)


def _outcome(
    words: bytes | str, cost: float, seconds: float, created: float, score: float | None, written: int
) -> Outcome:
    try:
        words = words if isinstance(words, bytes) else words.encode()
        if checksum(words, cost, seconds, created, score) != written:
            return "unreadable"
    except (struct.error, AttributeError):  # of another type than was written
        return "unreadable"
    return "failed" if score is None else "rewarded"


def _pages(transaction: Transaction) -> Iterator[tuple[Sequence[Any], int]]:
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


def _one_by_one(transaction: Transaction, last: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    broken = 0
    for number in range(last + 1, last + 1 + _ROUGH_PAGE):
        try:
            with transaction() as connection:
                found += _read(connection, ROLLOUTS.c.id == number, 1)
        except DBAPIError:
            broken += 1
    return found, broken


def _read(connection: sa.Connection, where: sa.ColumnElement[bool], most: int) -> Sequence[Any]:
    """Id, texts and numbers joined, fractions, score and checksum; the words of a file are bytes, whatever they are."""
    c = ROLLOUTS.c
    texts, numbers = [c[name] for name in TEXTS], [c[name] for name in NUMBERS]
    if connection.dialect.name == "sqlite":
        form = SEPARATOR.join([*["%s"] * len(texts), *["%d"] * len(numbers)])
        words: sa.ColumnElement[Any] = sa.cast(sa.func.printf(form, *texts, *numbers), sa.LargeBinary)
    else:
        words = sa.func.concat_ws(SEPARATOR, *texts, *numbers)
    columns = (c.id, words, *(c[name] for name in FRACTIONS), c.score, c.checksum)
    return connection.execute(sa.select(*columns).where(where).order_by(c.id).limit(most)).all()


def _top(transaction: Transaction) -> int:
    try:
        with transaction() as connection:
            return connection.execute(sa.select(sa.func.max(ROLLOUTS.c.id))).scalar() or 0
    except DBAPIError:
        return 0
