"""How a store's database is reached: a SQLite file by one connection, a server by a pool of them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from sgt_modules.errors import RunFolderError

DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")

_POOL = 8
_COLLIDED = ("40P01", "40001")  # PostgreSQL's deadlock_detected and serialization_failure


def database(where: str | Path) -> sa.URL:
    """The address of a path or an SQLAlchemy URL; raises `RunFolderError` for one that leads to no store.

    >>> database("runs/demo/rollouts.sqlite").render_as_string()
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


def engine_of(url: sa.URL) -> sa.Engine:
    """One connection for all threads to a file (the store serves them in turn); a pool of them to a server.

    Raises `RunFolderError` where PostgreSQL's driver is not installed.
    """
    if is_file(url):
        arguments = {"check_same_thread": False, "timeout": 30.0}
        return sa.create_engine(url, poolclass=sa.StaticPool, connect_args=arguments)
    try:
        return sa.create_engine(url, pool_size=_POOL, max_overflow=0, pool_pre_ping=True)
    except ImportError as missing:
        raise RunFolderError(
            f"{name_of(url)} needs psycopg, which is not installed: pip install 'dspy-sgt[postgresql]'."
        ) from missing


def collided(problem: DBAPIError) -> bool:
    """Whether two transactions stood in each other's way, so that this one may be tried again."""
    return cast("str | None", getattr(problem.orig, "sqlstate", None)) in _COLLIDED


def said(problem: BaseException) -> str:
    """What the database said, in one line and without our statement, which may hold a prompt."""
    original = problem.orig if isinstance(problem, DBAPIError) and problem.orig is not None else problem
    return str(original).strip().partition("\n")[0]
