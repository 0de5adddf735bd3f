"""Connections to a store's database: one to a SQLite file, a pool of them to a server."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError

from optimizers.store.recovery import READ_ERRORS, decode, recover_if_damaged
from optimizers.store.schema import open_schema
from optimizers.store.statements import CompiledStatement
from sgt_modules.errors import RunFolderError, SGTError

DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")

_POOL_SIZE = 8
_CONFLICTS = ("40P01", "40001")  # PostgreSQL's deadlock_detected and serialization_failure
_ATTEMPTS = 5


class Database:
    """A store's open database with its tables, safe for many threads; `notes` are for the user.

    Raises `RunFolderError` for what cannot be opened, is another program's, or is of another version.
    """

    def __init__(self, where: str | Path) -> None:
        url = parse_url(where)
        self.name = display_url(url)
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._resources = ExitStack()
        try:
            self._engine, self._file = self._connect(url)
        except (DBAPIError, OSError, UnicodeDecodeError) as problem:
            self.close()
            raise RunFolderError(
                f"{self.name} cannot be opened as a store of rollouts "
                f"({type(problem).__name__}: {_first_line(problem)}). "
                "Choose another run folder, or remove the file to start again."
            ) from problem
        except BaseException:
            self.close()
            raise

    def _connect(self, url: sa.URL) -> tuple[sa.Engine, sa.Connection | None]:
        if is_file(url):
            path = Path(str(url.database))
            path.parent.mkdir(parents=True, exist_ok=True)
            self.notes += recover_if_damaged(path)
        engine = _create_engine(url)
        self._resources.callback(engine.dispose)
        file = self._resources.enter_context(engine.connect()) if is_file(url) else None
        with ExitStack() as opening:
            connection = file or opening.enter_context(engine.connect())
            open_schema(connection, name=self.name)
        return engine, file

    @property
    def dialect(self) -> sa.Dialect:
        """SQLAlchemy's dialect of this kind of database."""
        return self._engine.dialect

    @contextmanager
    def begin_raw(self) -> Iterator[sa.Connection]:
        """A connection within one transaction, with the driver's own errors; all threads share a file's connection."""
        if self._file is None:
            with self._engine.begin() as connection:
                yield connection
        else:
            with self._lock, self._file.begin():
                yield self._file

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """As `begin_raw`, with `SGTError` for the driver's errors."""
        try:
            with self.begin_raw() as connection:
                yield connection
        except (DBAPIError, UnicodeDecodeError) as problem:
            raise self._explain(problem) from problem

    def has_row(self, statement: CompiledStatement, values: Mapping[str, object]) -> bool:
        """Whether a query finds a row. Queries a file without SQLAlchemy, which takes longer than SQLite itself."""
        if self._file is None:
            with self.transaction() as connection:
                return statement.run(connection, values).first() is not None
        try:
            with self._lock:
                file = cast("sqlite3.Connection", self._file.connection.driver_connection)
                return file.execute(statement.text, {**statement.constants, **values}).fetchone() is not None
        except READ_ERRORS as problem:
            raise self._explain(problem) from problem

    def write(self, act: Callable[[sa.Connection], object]) -> None:
        """Calls `act` in one transaction; tries again after a conflict with another transaction."""
        for _ in range(_ATTEMPTS - 1):
            try:
                with self.begin_raw() as connection:
                    act(connection)
            except DBAPIError as problem:
                if not _is_conflict(problem):
                    raise self._explain(problem) from problem
            else:
                return
        with self.transaction() as connection:
            act(connection)

    def close(self) -> None:
        """Closes every connection."""
        self._resources.close()

    def _explain(self, problem: Exception) -> SGTError:
        return SGTError(
            f"{self.name} failed ({_first_line(problem)}). What was saved before is safe. Check the disk or the "
            "server, then start again with the same log_dir: a damaged file is recovered when it is opened. "
            "optimizers.store.recovery.recover(path) recovers a file above 64 MB, which is not checked page by page."
        )


def parse_url(where: str | Path) -> sa.URL:
    """Parses a path or an SQLAlchemy URL; raises `RunFolderError` for one that leads to no store.

    >>> parse_url("runs/demo/rollouts.sqlite").render_as_string()
    'sqlite:///runs/demo/rollouts.sqlite'
    """
    if isinstance(where, Path) or "://" not in where:
        return sa.URL.create("sqlite", database=str(where))
    try:
        url = sa.make_url(where)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in DRIVERS or not url.database:
        display = "an address that cannot be read" if url is None else url.render_as_string(hide_password=True)
        raise RunFolderError(
            f"Expected a path, sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE as a store, got {display}."
        )
    return url


def display_url(url: sa.URL) -> str:
    """The name of a database in messages, without its password."""
    return str(url.database) if is_file(url) else url.render_as_string(hide_password=True)


def is_file(url: sa.URL) -> bool:
    """Whether the URL is that of a SQLite file."""
    return url.drivername.startswith("sqlite")


def _create_engine(url: sa.URL) -> sa.Engine:
    """Creates an engine: one connection to a file, for all threads in turn; a pool of connections to a server.

    Raises `RunFolderError` where PostgreSQL's driver is not installed.
    """
    if is_file(url):
        arguments = {"check_same_thread": False, "timeout": 30.0}
        engine = sa.create_engine(url, poolclass=sa.StaticPool, connect_args=arguments)
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "text_factory", decode))
        return engine
    try:
        return sa.create_engine(url, pool_size=_POOL_SIZE, max_overflow=0, pool_pre_ping=True)
    except ImportError as missing:
        raise RunFolderError(
            f"{display_url(url)} needs psycopg, which is not installed: pip install 'dspy-sgt[postgresql]'."
        ) from missing


def _is_conflict(problem: DBAPIError) -> bool:
    """Whether this transaction failed because of another one, and may be tried again."""
    return cast("str | None", getattr(problem.orig, "sqlstate", None)) in _CONFLICTS


def _first_line(problem: BaseException) -> str:
    """The first line of the driver's message, without our statement, which may hold a prompt."""
    original = problem.orig if isinstance(problem, DBAPIError) and problem.orig is not None else problem
    return str(original).strip().partition("\n")[0]
