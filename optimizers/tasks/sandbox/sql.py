"""Runs queries that a model wrote on SQLite files, which they can only read."""

from __future__ import annotations

import base64
import os
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from optimizers.core.closing import Closing
from optimizers.tasks.sandbox.isolation import isolation
from optimizers.tasks.sandbox.limits import Cell, SqlLimits, SqlOutcome
from optimizers.tasks.sandbox.pool import Pool, WorkerLostError
from sgt_modules.errors import ExampleError

_GRACE = 1.0  # seconds beyond a query's own: one step of SQLite may take long, and it checks the time between steps


class SqlSandbox(Closing):
    """Runs queries in `workers` processes; each query has a connection of its own, for reading only.

    SQLite's authorizer lets a query only select and compute. Where the kernel has Landlock and seccomp, the processes
    can neither write a file nor connect to anything. Any number of threads may call `run`.
    """

    def __init__(self, workers: int = 2, *, limits: SqlLimits | None = None) -> None:
        self.limits = limits or SqlLimits()
        settings = {"layers": isolation().layers, "limits": asdict(self.limits)}
        self._pool = Pool("queries", workers, settings, {})

    def run(self, database: Path | str, sql: str) -> SqlOutcome:
        """Returns a query's rows in SQLite's order, or why there are none. It raises nothing that a query causes.

        Raises:
            ExampleError: there is no such file.
        """
        path = os.path.abspath(database)  # noqa: PTH100 - a path object is slower than the query
        if not os.path.isfile(path):  # noqa: PTH113
            raise ExampleError(f"Expected an SQLite file at {path}, and there is none. Check the folder of databases.")
        try:
            with self._pool.lend() as worker:
                answer = worker.ask({"database": path, "query": sql}, self.limits.seconds + _GRACE)
        except WorkerLostError as lost:
            late = isinstance(lost.__cause__, TimeoutError)
            why = "The query's time is up." if late else "SQLite's process ended over it, most likely without memory."
            return SqlOutcome((), (), why, self.limits.seconds, "time" if late else "limit")
        rows = [tuple(_decode(each) for each in row) for row in answer["rows"]]
        return SqlOutcome(rows, answer["columns"], answer["error"], answer["seconds"], answer["reason"])

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()


def _decode(sent: Any) -> Cell:
    return base64.b64decode(sent["base64"]) if isinstance(sent, dict) else sent


@lru_cache(maxsize=4)
def _shared(limits: SqlLimits, _process: int) -> SqlSandbox:
    return SqlSandbox(limits=limits)


def shared_sandbox(limits: SqlLimits) -> SqlSandbox:
    """Returns the sandbox that all callers of this process with the same limits share."""
    return _shared(limits, os.getpid())


def run_sql(database: Path | str, sql: str, limits: SqlLimits | None = None) -> SqlOutcome:
    """Runs a query in the shared sandbox.

    >>> import sqlite3, tempfile
    >>> from contextlib import closing
    >>> folder = Path(tempfile.mkdtemp())
    >>> with closing(sqlite3.connect(folder / "shop.sqlite")) as shop:
    ...     shop.executescript("CREATE TABLE tea (name, price); INSERT INTO tea VALUES ('green', 2.5), ('mint', NULL)")
    <sqlite3.Cursor object at ...>
    >>> run_sql(folder / "shop.sqlite", "SELECT name, price FROM tea ORDER BY name").rows
    [('green', 2.5), ('mint', None)]
    >>> run_sql(folder / "shop.sqlite", "DROP TABLE tea").error
    'A query may only read, and this asks for DELETE sqlite_master.'
    """
    return shared_sandbox(limits or SqlLimits()).run(database, sql)
