"""The store's statements, in the words of each kind of database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from optimizers.store.rows import MET
from optimizers.store.schema import PAID, ROLLOUTS, SAMPLES, SCOPES, SEEN

_Insert = sqlite.Insert | postgresql.Insert

MET_ROLLOUTS = sa.select(ROLLOUTS, *(SEEN.c[name] for name in MET), SEEN.c.id.label("met")).join_from(SEEN, ROLLOUTS)
"""Rollouts with what a stage says of each."""

LIVE = ROLLOUTS.c.live != sa.literal_column("''")
"""Of live runs: what SQLite must read word for word to take their index."""

_REWARDED = (ROLLOUTS.c.key == sa.bindparam("key"), ROLLOUTS.c.score.is_not(None))
TRIED = MET_ROLLOUTS.where(ROLLOUTS.c.key == sa.bindparam("key")).order_by(SEEN.c.id).limit(1)
KNOWN = MET_ROLLOUTS.where(*_REWARDED).order_by(SEEN.c.id).limit(1)


class Spelled(NamedTuple):
    """A statement as the database's driver reads it, with the values that it brings itself.

    What each rollout needs is spelled once: SQLAlchemy would take longer over it than SQLite over its execution.
    """

    text: str
    own: Mapping[str, object]

    @classmethod
    def of(cls, statement: sa.ClauseElement, dialect: sa.Dialect) -> Spelled:
        """The statement for a dialect, with named parameters."""
        compiled = statement.compile(dialect=dialect)
        return cls(str(compiled), {name: value for name, value in (compiled.params or {}).items() if value is not None})

    def run(self, connection: sa.Connection, values: Mapping[str, object]) -> sa.CursorResult[Any]:
        """Execute it once."""
        return connection.exec_driver_sql(self.text, {**self.own, **values})

    def run_all(self, connection: sa.Connection, rows: Sequence[Mapping[str, object]]) -> None:
        """Execute it for each row."""
        if rows:
            connection.exec_driver_sql(self.text, [{**self.own, **row} for row in rows])


class Statements:
    """What runs for each rollout."""

    def __init__(self, dialect: sa.Dialect) -> None:
        if dialect.name == "sqlite":
            insert, dialect = sqlite.insert, sqlite.dialect(paramstyle="named")
        else:
            insert = postgresql.insert
        self.save = Spelled.of(_save(insert(ROLLOUTS)), dialect)
        self.see = Spelled.of(_see(insert(SEEN)), dialect)
        self.known = Spelled.of(sa.select(ROLLOUTS.c.id).where(*_REWARDED), dialect)
        self.keep_sample = _replacing(insert(SAMPLES), ("run", "stage", "number"))
        self.describe = _replacing(insert(SCOPES), ("scope",))


def _save(insert: _Insert) -> _Insert:
    """A rollout; the newer outcome of a key replaces the older, but a failure never hides a reward."""
    save = insert.values({column.name: sa.bindparam(column.name) for column in ROLLOUTS.c if column.name != "id"})
    return save.on_conflict_do_update(
        index_elements=["key"],
        set_={column.name: save.excluded[column.name] for column in ROLLOUTS.c if column.name not in ("id", "key")},
        where=sa.or_(save.excluded.score.is_not(None), ROLLOUTS.c.score.is_(None)),
    )


def _see(insert: _Insert) -> _Insert:
    """That a stage of a run met a rollout, and what it paid for it; paid again, it adds up."""
    given = (*MET, "run", *PAID)
    see = insert.from_select(
        ["rollout", *given],
        sa.select(ROLLOUTS.c.id, *(sa.bindparam(f"met_{name}", type_=SEEN.c[name].type) for name in given)).where(
            ROLLOUTS.c.key == sa.bindparam("key")
        ),
    )
    return see.on_conflict_do_update(
        index_elements=["rollout", "run", "stage"],
        set_={name: SEEN.c[name] + see.excluded[name] for name in PAID},
        where=sa.or_(see.excluded.runs > 0, see.excluded.calls > 0),
    )


def _replacing(insert: _Insert, key: Sequence[str]) -> _Insert:
    """A row that replaces the one of its key."""
    others = (column.name for column in insert.table.c if column.name not in key)
    return insert.on_conflict_do_update(index_elements=key, set_={name: insert.excluded[name] for name in others})
