"""The store's tables and their version; creates them in a new file or database, and refuses others."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import CreateTable

from optimizers.store.rows import FLOAT_COLUMNS, INTEGER_COLUMNS, TEXT_COLUMNS
from sgt_modules.errors import RunFolderError

SCHEMA_VERSION = 4
"""The version of the tables, in SQLite's `PRAGMA user_version`, in PostgreSQL's table `sgt_store`."""

APPLICATION_ID = 0x53475431
""""SGT1" in SQLite's `PRAGMA application_id`: marks a file as ours."""

USAGE_COLUMNS = ("runs", "calls", "paid_in", "paid_out", "seconds", "cost")
"""What a run paid for a rollout over all attempts: the fields of a `Usage`."""

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
METADATA = sa.MetaData()
ROLLOUTS = sa.Table(
    "rollouts",
    METADATA,
    sa.Column("id", _INTEGER, primary_key=True),
    sa.Column("key", sa.String, nullable=False, unique=True),
    *(sa.Column(name, sa.String, nullable=False) for name in TEXT_COLUMNS),
    *(sa.Column(name, _INTEGER, nullable=False) for name in INTEGER_COLUMNS),
    *(sa.Column(name, sa.Double, nullable=False) for name in FLOAT_COLUMNS),
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
    *(sa.Column(name, _INTEGER, nullable=False) for name in USAGE_COLUMNS[:4]),
    *(sa.Column(name, sa.Double, nullable=False) for name in USAGE_COLUMNS[4:]),
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
DRAFTS = sa.Table(
    "drafts",
    sa.MetaData(),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("content", sa.String, nullable=False),  # JSON
    sa.Column("checksum", _INTEGER, nullable=False),
)
"""The actor's drafts. Stores of this version from before it lack it: `create_drafts` adds it when it is needed."""

TABLES = (ROLLOUTS, SEEN, SCOPES, SAMPLES)
_VERSION = sa.Table("sgt_store", sa.MetaData(), sa.Column("version", sa.Integer, primary_key=True))

_ADVISORY = APPLICATION_ID  # the number of PostgreSQL's advisory lock while tables are created
_LOCK_TIMEOUT = 30.0


def open_schema(connection: sa.Connection, *, name: str) -> None:
    """Checks that the database is ours and of this version, or creates the tables in a new one.

    Raises:
        RunFolderError: it is another program's, or of another version.
    """
    if connection.dialect.name == "sqlite":
        _prepare_file(connection, name)
    else:
        _prepare_server(connection, name)


def create_tables(connection: sa.Connection) -> None:
    """Creates the tables and marks a SQLite file as ours, within the caller's transaction."""
    METADATA.create_all(connection)
    create_drafts(connection)  # last: recovery relies on the pages on which the other tables begin
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")


def create_drafts(connection: sa.Connection) -> None:
    """Creates the table of drafts if it is missing, within the caller's transaction."""
    if connection.dialect.name != "sqlite":  # another process may create it at the same time
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY})")
    connection.execute(CreateTable(DRAFTS, if_not_exists=True))


def _prepare_file(connection: sa.Connection, name: str) -> None:
    _retry_while_locked(lambda: connection.exec_driver_sql("PRAGMA journal_mode"))
    application, version, tables = (
        connection.exec_driver_sql(statement).scalar_one()
        for statement in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    connection.rollback()
    new = (application, version, tables) == (0, 0, 0)
    if not new and application != APPLICATION_ID:
        raise RunFolderError(
            f"{name} is not a store of rollouts, but another program's database. Choose another run folder."
        )
    if not new:
        _check_version(version, name)
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "trusted_schema=OFF", "cell_size_check=ON"):
        _retry_while_locked(lambda pragma=pragma: connection.exec_driver_sql(f"PRAGMA {pragma}"))
    connection.rollback()
    if not new:
        return
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # another process may create the tables at the same time
    try:
        create_tables(connection)
        connection.commit()
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the file itself is marked as ours
        connection.rollback()
    except BaseException:
        connection.rollback()
        raise


def _prepare_server(connection: sa.Connection, name: str) -> None:
    with connection.begin():
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY})")
        _VERSION.create(connection, checkfirst=True)
        version = connection.execute(sa.select(_VERSION.c.version)).scalar()
        if version is None:
            if existing := {table.name for table in TABLES} & set(sa.inspect(connection).get_table_names()):
                raise RunFolderError(
                    f"{name} has tables named {', '.join(sorted(existing))} that are no store of rollouts. Choose "
                    "another database, or another schema by the URL's options."
                )
            create_tables(connection)
            connection.execute(sa.insert(_VERSION).values(version=SCHEMA_VERSION))
        else:
            _check_version(version, name)
            _check_columns(connection, name)


def _check_version(version: int, name: str) -> None:
    if version != SCHEMA_VERSION:
        raise RunFolderError(
            f"{name} is a store of rollouts of version {version}, and this package reads version {SCHEMA_VERSION}. "
            "Use the package it was written with, or another run folder."
        )


def _check_columns(connection: sa.Connection, name: str) -> None:
    inspector = sa.inspect(connection)
    for table in TABLES:
        columns = inspector.get_columns(table.name) if inspector.has_table(table.name) else []
        if missing := sorted(set(table.c.keys()) - {each["name"] for each in columns}):
            raise RunFolderError(
                f"{name} is marked as a store of version {SCHEMA_VERSION}, but its table {table.name} lacks "
                f"{', '.join(missing)}. Choose another run folder."
            )


def _retry_while_locked(act: Callable[[], object]) -> None:
    """Calls `act` again while another process locks the file: SQLite itself does not wait for every lock."""
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            act()
        except OperationalError as problem:
            if "locked" not in str(problem) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
