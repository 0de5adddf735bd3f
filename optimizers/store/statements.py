"""The store's SQL statements, for SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from optimizers.store.rows import STAGE_COLUMNS
from optimizers.store.schema import DRAFTS, ROLLOUTS, SAMPLES, SCOPES, SEEN, USAGE_COLUMNS

_Insert = sqlite.Insert | postgresql.Insert

LISTED_ROLLOUTS = sa.select(ROLLOUTS, *(SEEN.c[name] for name in STAGE_COLUMNS), SEEN.c.id.label("seen_id")).join_from(
    SEEN, ROLLOUTS
)
"""Rollouts with the columns of each stage that lists them."""

IS_LIVE = ROLLOUTS.c.live != sa.literal_column("''")
"""Selects live runs: SQLite uses their index only for this very condition."""

_REWARDED = (ROLLOUTS.c.key == sa.bindparam("key"), ROLLOUTS.c.score.is_not(None))
SELECT_ANY = LISTED_ROLLOUTS.where(ROLLOUTS.c.key == sa.bindparam("key")).order_by(SEEN.c.id).limit(1)
SELECT_REWARDED = LISTED_ROLLOUTS.where(*_REWARDED).order_by(SEEN.c.id).limit(1)


class CompiledStatement(NamedTuple):
    """A statement as text for the database's driver, with its constant values.

    Those that run for each rollout are compiled once: SQLAlchemy takes longer to compile one than SQLite to run it.
    """

    text: str
    constants: Mapping[str, object]

    @classmethod
    def compile(cls, statement: sa.ClauseElement, dialect: sa.Dialect) -> CompiledStatement:
        """Compiles a statement for a dialect, with named parameters."""
        compiled = statement.compile(dialect=dialect)
        return cls(str(compiled), {name: value for name, value in (compiled.params or {}).items() if value is not None})

    def run(self, connection: sa.Connection, values: Mapping[str, object]) -> sa.CursorResult[Any]:
        """Runs the statement once."""
        return connection.exec_driver_sql(self.text, {**self.constants, **values})

    def run_all(self, connection: sa.Connection, rows: Sequence[Mapping[str, object]]) -> None:
        """Runs the statement for each row."""
        if rows:
            connection.exec_driver_sql(self.text, [{**self.constants, **row} for row in rows])


class Statements:
    """The statements that run for each rollout."""

    def __init__(self, dialect: sa.Dialect) -> None:
        if dialect.name == "sqlite":
            insert, dialect = sqlite.insert, sqlite.dialect(paramstyle="named")
        else:
            insert = postgresql.insert
        self.insert_rollout = CompiledStatement.compile(_insert_rollout(insert(ROLLOUTS)), dialect)
        self.insert_seen = CompiledStatement.compile(_insert_seen(insert(SEEN)), dialect)
        self.find_rewarded = CompiledStatement.compile(sa.select(ROLLOUTS.c.id).where(*_REWARDED), dialect)
        self.upsert_sample = _upsert(insert(SAMPLES), ("run", "stage", "number"))
        self.insert_draft = insert(DRAFTS).on_conflict_do_nothing(index_elements=["key"])
        self.upsert_scope = _upsert(insert(SCOPES), ("scope",))


def _insert_rollout(insert: _Insert) -> _Insert:
    """Inserts a rollout; a newer outcome of its key replaces an older one, but a failure never replaces a reward."""
    save = insert.values({column.name: sa.bindparam(column.name) for column in ROLLOUTS.c if column.name != "id"})
    return save.on_conflict_do_update(
        index_elements=["key"],
        set_={column.name: save.excluded[column.name] for column in ROLLOUTS.c if column.name not in ("id", "key")},
        where=sa.or_(save.excluded.score.is_not(None), ROLLOUTS.c.score.is_(None)),
    )


def _insert_seen(insert: _Insert) -> _Insert:
    """Lists a rollout under a stage of a run, with what the stage paid; adds to what it paid before."""
    columns = (*STAGE_COLUMNS, "run", *USAGE_COLUMNS)
    see = insert.from_select(
        ["rollout", *columns],
        sa.select(ROLLOUTS.c.id, *(sa.bindparam(f"seen_{name}", type_=SEEN.c[name].type) for name in columns)).where(
            ROLLOUTS.c.key == sa.bindparam("key")
        ),
    )
    return see.on_conflict_do_update(
        index_elements=["rollout", "run", "stage"],
        set_={name: SEEN.c[name] + see.excluded[name] for name in USAGE_COLUMNS},
        where=sa.or_(see.excluded.runs > 0, see.excluded.calls > 0),
    )


def _upsert(insert: _Insert, key: Sequence[str]) -> _Insert:
    """Inserts a row, or replaces the one with its key."""
    others = (column.name for column in insert.table.c if column.name not in key)
    return insert.on_conflict_do_update(index_elements=key, set_={name: insert.excluded[name] for name in others})
