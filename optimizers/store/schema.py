"""The store's tables, their version, and how a file or a database comes to have them."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from optimizers.store.rows import FRACTIONS, NUMBERS, TEXTS
from sgt_modules.errors import RunFolderError

SCHEMA = 4
"""The version of the tables, kept in SQLite's `PRAGMA user_version`, elsewhere in the table `sgt_store`."""

APPLICATION = 0x53475431
""""SGT1", kept in SQLite's `PRAGMA application_id`: tells our files from other people's."""

PAID = ("runs", "calls", "paid_in", "paid_out", "seconds", "cost")
"""What a run paid for a rollout: the fields of a `Meter`, over all attempts."""

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


def prepare(connection: sa.Connection, *, name: str) -> None:
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
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION}")
        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")


def _prepare_file(connection: sa.Connection, name: str) -> None:
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
        _check_version(version, name)
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "trusted_schema=OFF", "cell_size_check=ON"):
        _eventually(lambda pragma=pragma: connection.exec_driver_sql(f"PRAGMA {pragma}"))
    connection.rollback()
    if not new:
        return
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # another process may create the tables at the same time
    try:
        create_tables(connection)
        connection.commit()
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the file itself says whose it is
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
            if taken := {table.name for table in TABLES} & set(sa.inspect(connection).get_table_names()):
                raise RunFolderError(
                    f"{name} has tables named {', '.join(sorted(taken))} that are no store of rollouts. Choose another "
                    "database, or another schema by the URL's options."
                )
            create_tables(connection)
            connection.execute(sa.insert(_VERSION).values(version=SCHEMA))
        else:
            _check_version(version, name)
            _check_columns(connection, name)


def _check_version(version: int, name: str) -> None:
    if version != SCHEMA:
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
