"""How a store's database is reached: a SQLite file by one connection, a server by a pool of them."""

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
from optimizers.store.schema import prepare
from optimizers.store.statements import Spelled
from sgt_modules.errors import RunFolderError, SGTError

DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")

_POOL = 8
_COLLIDED = ("40P01", "40001")  # PostgreSQL's deadlock_detected and serialization_failure
_ATTEMPTS = 5


class Database:
    """A store's database, open and with its tables; safe from many threads. `notes`: what a person should know of it.

    Raises `RunFolderError` for what cannot be opened, is not ours, or is of another version.
    """

    def __init__(self, where: str | Path) -> None:
        url = address(where)
        self.name = name_of(url)
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._open = ExitStack()
        try:
            self._engine, self._one = self._opened(url)
        except (DBAPIError, OSError, UnicodeDecodeError) as problem:
            self.close()
            raise RunFolderError(
                f"{self.name} cannot be opened as a store of rollouts ({type(problem).__name__}: {_said(problem)}). "
                "Choose another run folder, or remove the file to start anew."
            ) from problem
        except BaseException:
            self.close()
            raise

    def _opened(self, url: sa.URL) -> tuple[sa.Engine, sa.Connection | None]:
        if is_file(url):
            path = Path(str(url.database))
            path.parent.mkdir(parents=True, exist_ok=True)
            self.notes += recover_if_damaged(path)
        engine = _engine(url)
        self._open.callback(engine.dispose)
        one = self._open.enter_context(engine.connect()) if is_file(url) else None
        with ExitStack() as opening:
            connection = one or opening.enter_context(engine.connect())
            prepare(connection, name=self.name)
        return engine, one

    @property
    def dialect(self) -> sa.Dialect:
        """How this kind of database is spoken to."""
        return self._engine.dialect

    @contextmanager
    def bare(self) -> Iterator[sa.Connection]:
        """A connection within one transaction; a file has a single one, for all threads in turn."""
        if self._one is None:
            with self._engine.begin() as connection:
                yield connection
        else:
            with self._lock, self._one.begin():
                yield self._one

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """The same; what the database says is told in our words."""
        try:
            with self.bare() as connection:
                yield connection
        except (DBAPIError, UnicodeDecodeError) as problem:
            raise self._failure(problem) from problem

    def has(self, statement: Spelled, values: Mapping[str, object]) -> bool:
        """Whether a query finds anything. A file is asked past SQLAlchemy, which would take longer than SQLite."""
        if self._one is None:
            with self.transaction() as connection:
                return statement.run(connection, values).first() is not None
        try:
            with self._lock:
                file = cast("sqlite3.Connection", self._one.connection.driver_connection)
                return file.execute(statement.text, {**statement.own, **values}).fetchone() is not None
        except READ_ERRORS as problem:
            raise self._failure(problem) from problem

    def write(self, act: Callable[[sa.Connection], object]) -> None:
        """Do it in one transaction, again where another one stood in its way."""
        for _ in range(_ATTEMPTS - 1):
            try:
                with self.bare() as connection:
                    act(connection)
            except DBAPIError as problem:
                if not _collided(problem):
                    raise self._failure(problem) from problem
            else:
                return
        with self.transaction() as connection:
            act(connection)

    def close(self) -> None:
        """Close every connection."""
        self._open.close()

    def _failure(self, problem: Exception) -> SGTError:
        return SGTError(
            f"{self.name} failed ({_said(problem)}). What was saved before is safe. See to the disk or the server, "
            "then start again with the same log_dir: a damaged file is recovered when it is opened, or by "
            "optimizers.store.recovery.recover."
        )


def address(where: str | Path) -> sa.URL:
    """The address of a path or an SQLAlchemy URL; raises `RunFolderError` for one that leads to no store.

    >>> address("runs/demo/rollouts.sqlite").render_as_string()
    'sqlite:///runs/demo/rollouts.sqlite'
    """
    if isinstance(where, Path) or "://" not in where:
        return sa.URL.create("sqlite", database=str(where))
    try:
        url = sa.make_url(where)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in DRIVERS or not url.database:
        shown = "an address that cannot be read" if url is None else url.render_as_string(hide_password=True)
        raise RunFolderError(
            f"Expected a path, sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE as a store, got {shown}."
        )
    return url


def name_of(url: sa.URL) -> str:
    """What messages call a database, without its password."""
    return str(url.database) if is_file(url) else url.render_as_string(hide_password=True)


def is_file(url: sa.URL) -> bool:
    """Whether it is a SQLite file."""
    return url.drivername.startswith("sqlite")


def _engine(url: sa.URL) -> sa.Engine:
    """One connection for all threads to a file (the store serves them in turn); a pool of them to a server.

    Raises `RunFolderError` where PostgreSQL's driver is not installed.
    """
    if is_file(url):
        arguments = {"check_same_thread": False, "timeout": 30.0}
        engine = sa.create_engine(url, poolclass=sa.StaticPool, connect_args=arguments)
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "text_factory", decode))
        return engine
    try:
        return sa.create_engine(url, pool_size=_POOL, max_overflow=0, pool_pre_ping=True)
    except ImportError as missing:
        raise RunFolderError(
            f"{name_of(url)} needs psycopg, which is not installed: pip install 'dspy-sgt[postgresql]'."
        ) from missing


def _collided(problem: DBAPIError) -> bool:
    """Whether two transactions stood in each other's way, so that this one may be tried again."""
    return cast("str | None", getattr(problem.orig, "sqlstate", None)) in _COLLIDED


def _said(problem: BaseException) -> str:
    """What the database said, in one line and without our statement, which may hold a prompt."""
    original = problem.orig if isinstance(problem, DBAPIError) and problem.orig is not None else problem
    return str(original).strip().partition("\n")[0]
