"""The store's tables, their version, and how a file or a database comes to have them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from optimizers.store.rows import FRACTIONS, MET, NUMBERS, TEXTS, signed, storable
from sgt_modules.errors import RunFolderError

SCHEMA = 4
"""The version of the tables, kept in SQLite's `PRAGMA user_version`, elsewhere in the table `sgt_store`."""

APPLICATION = 0x53475431
""""SGT1", kept in SQLite's `PRAGMA application_id`: tells our files from other people's."""

PAID = ("runs", "calls", "paid_in", "paid_out", "seconds", "cost")
"""What a run paid for a rollout: the fields of a `Usage`, over all attempts."""

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
METADATA = sa.MetaData()
ROLLOUTS = sa.Table(
    "rollouts",
    METADATA,
    sa.Column("id", _INTEGER, primary_key=True),
    sa.Column("key", sa.String, nullable=False, unique=True),
    *(sa.Column(name, sa.String, nullable=False) for name in TEXTS),
    *(sa.Column(name, _INTEGER, nullable=False) for name in NUMBERS),
    *(sa.Column(name, sa.Double, nullable=False) for name in FRACTIONS),
    sa.Column("score", sa.Double),
    sa.Column("checksum", _INTEGER, nullable=False),
    sa.Index("rollouts_by_asked", "scope", "asked"),
)
sa.Index(
    "rollouts_live",
    ROLLOUTS.c.live,
    ROLLOUTS.c.run,
    sqlite_where=ROLLOUTS.c.live != "",
    postgresql_where=ROLLOUTS.c.live != "",
)
SEEN = sa.Table(
    "seen",
    METADATA,
    sa.Column("id", _INTEGER, primary_key=True),
    sa.Column("rollout", _INTEGER, sa.ForeignKey("rollouts.id"), nullable=False),
    sa.Column("run", sa.String, nullable=False),
    sa.Column("stage", sa.String, nullable=False),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("logprob", sa.Double, nullable=False),
    *(sa.Column(name, _INTEGER, nullable=False) for name in PAID[:4]),
    *(sa.Column(name, sa.Double, nullable=False) for name in PAID[4:]),
    sa.UniqueConstraint("rollout", "run", "stage"),
)
SCOPES = sa.Table(
    "scopes",
    METADATA,
    sa.Column("scope", sa.String, primary_key=True),
    sa.Column("described", sa.String, nullable=False),  # JSON
)
SAMPLES = sa.Table(
    "samples",
    METADATA,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("number", _INTEGER, primary_key=True, autoincrement=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("logprob", sa.Double, nullable=False),
    sa.Column("prompt_tokens", _INTEGER, nullable=False),
    sa.Column("tokens", _INTEGER, nullable=False),
    sa.Column("cut", _INTEGER, nullable=False),
    sa.Column("checksum", _INTEGER, nullable=False),
)
TABLES = (ROLLOUTS, SEEN, SCOPES, SAMPLES)
_VERSION = sa.Table("sgt_store", sa.MetaData(), sa.Column("version", sa.Integer, primary_key=True))

_ADVISORY = APPLICATION  # the name of PostgreSQL's lock while tables are made
_PATIENCE = 30.0
_CHUNK = 1000


def prepare(connection: sa.Connection, *, name: str, run: str) -> list[str]:
    """Check that the database is ours and of our version, or make it so when it is new; what a person should know.

    `run` is whose rollouts those of version 2 become, as that knew one run a file.

    Raises:
        RunFolderError: it is another program's, or of a version that cannot be read.
    """
    if connection.dialect.name == "sqlite":
        return _prepare_file(connection, name, run)
    return _prepare_server(connection, name)


def _prepare_file(connection: sa.Connection, name: str, run: str) -> list[str]:
    _eventually(lambda: connection.exec_driver_sql("PRAGMA journal_mode"))
    application, version, tables = (
        connection.exec_driver_sql(statement).scalar_one()
        for statement in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    connection.rollback()
    new = (application, version, tables) == (0, 0, 0)
    if not new and application != APPLICATION:
        raise RunFolderError(
            f"{name} is not a store of rollouts, but another program's database. Choose another run folder."
        )
    if not new:
        _check_version(version, name, known=(2, SCHEMA))
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "trusted_schema=OFF", "cell_size_check=ON"):
        _eventually(lambda pragma=pragma: connection.exec_driver_sql(f"PRAGMA {pragma}"))
    if version == SCHEMA:
        _check_columns(connection, name)
        return []
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()  # another process may have been faster
        if version == 2:
            migrate(connection, run)
        METADATA.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION}")
        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")
        connection.commit()
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the file itself says whose it is
        connection.rollback()
    except BaseException:
        connection.rollback()
        raise
    return [f"{name} was a store of version 2 and is one of version {SCHEMA} now."] if version == 2 else []


def _prepare_server(connection: sa.Connection, name: str) -> list[str]:
    with connection.begin():
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY})")
        _VERSION.create(connection, checkfirst=True)
        version = connection.execute(sa.select(_VERSION.c.version)).scalar()
        if version is None:
            if taken := {table.name for table in TABLES} & set(sa.inspect(connection).get_table_names()):
                raise RunFolderError(
                    f"{name} has tables named {', '.join(sorted(taken))} that are no store of rollouts. Choose another "
                    "database, or another schema by the URL's options."
                )
            METADATA.create_all(connection)
            connection.execute(sa.insert(_VERSION).values(version=SCHEMA))
        else:
            _check_version(version, name, known=(SCHEMA,))
            _check_columns(connection, name)
    return []


def _check_version(version: int, name: str, *, known: Sequence[int]) -> None:
    if version not in known:
        raise RunFolderError(
            f"{name} is a store of rollouts of version {version}, and this package reads version {SCHEMA}. "
            "Use the package it was written with, or another run folder."
        )


def _check_columns(connection: sa.Connection, name: str) -> None:
    found = sa.inspect(connection)
    for table in TABLES:
        names = {each["name"] for each in found.get_columns(table.name)} if found.has_table(table.name) else set[str]()
        if missing := sorted(set(table.c.keys()) - names):
            raise RunFolderError(
                f"{name} calls itself a store of version {SCHEMA}, but its table {table.name} lacks "
                f"{', '.join(missing)}. Choose another run folder."
            )
    if connection.in_transaction() and connection.dialect.name == "sqlite":
        connection.rollback()


def _eventually(act: Callable[[], object]) -> None:
    """Do it, again while another process has the file to itself for a moment: SQLite does not wait for all locks."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            act()
        except OperationalError as problem:
            if "locked" not in str(problem) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def migrate(connection: sa.Connection, run: str) -> None:
    """Make this version of version 2, within the caller's transaction."""
    for table in ("rollouts", "seen"):
        connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {table}_2")
    METADATA.create_all(connection)
    last = 0
    while rows := _page(connection, "SELECT * FROM rollouts_2 WHERE id > ? ORDER BY id LIMIT ?", last):
        connection.execute(sa.insert(ROLLOUTS), [rollout_of_version_2(row, run) for row in rows])
        last = rows[-1]["id"]
    last = 0
    paid = "s.*, r.asked, r.tokens_in, r.tokens_out, r.seconds"
    first = "s.id = (SELECT min(id) FROM seen_2 WHERE rollout = s.rollout) AS first"
    joined = f"SELECT {paid}, {first} FROM seen_2 s JOIN rollouts_2 r ON r.id = s.rollout"
    while rows := _page(connection, f"{joined} WHERE s.id > ? ORDER BY s.id LIMIT ?", last):
        connection.execute(sa.insert(SEEN), [seen_of_version_2(row, run) for row in rows])
        last = rows[-1]["id"]
    for table in ("seen", "rollouts"):
        connection.exec_driver_sql(f"DROP TABLE {table}_2")


def rollout_of_version_2(row: Mapping[str, Any], run: str) -> dict[str, Any]:
    """A row as version 2 kept it, as this version does."""
    added = {"run": run, "writer": "", "trace": "", "cut": 0, "cost": 0.0}
    return signed({**{name: _text(value) for name, value in row.items()}, **added})


def seen_of_version_2(row: Mapping[str, Any], run: str) -> dict[str, Any]:
    """What a stage met, with what the first one paid: version 2 counted tokens and seconds, not calls.

    A paid run counts as one call for each supplement that it asked for, and at least one.
    """
    paid = row["first"] and row["seconds"] > 0
    counted = (1, max(1, row["asked"]), row["tokens_in"], row["tokens_out"], row["seconds"], 0.0)
    return {
        "id": row["id"],
        "rollout": row["rollout"],
        "run": run,
        **{name: row[name] for name in MET},
        **dict(zip(PAID, counted if paid else (0, 0, 0, 0, 0.0, 0.0), strict=True)),
    }


def _text(value: object) -> object:
    return storable(value) if isinstance(value, str) else value


def _page(connection: sa.Connection, query: str, after: int) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in connection.exec_driver_sql(query, (after, _CHUNK))]
