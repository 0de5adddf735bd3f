"""Runs Python programs that a model wrote, without your files, network or time."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import asdict

from optimizers.core.closing import Closing
from optimizers.tasks.sandbox.inside.folders import remove
from optimizers.tasks.sandbox.isolation import Isolation, find_readable, isolation, require
from optimizers.tasks.sandbox.limits import Limits, Outcome
from optimizers.tasks.sandbox.pool import Pool, WorkerLostError
from sgt_modules.errors import SandboxError

_GRACE = 20.0  # seconds beyond a program's own, for a machine that is slow
_ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "USER": "sandbox",
}


class PythonSandbox(Closing):
    """Runs programs one after another in `workers` processes, each program in a fork of its own.

    A program reads Python, its packages and its own empty folder; it has no network and no environment, and starts no
    process. docs/sandbox.md says what each layer holds and what it does not. Any number of threads may call `run`.
    Close it, or use it as a context manager; it also ends with the process.

    Args:
        workers: how many programs run at once.
        limits: what each may use.
        preload: modules that a worker imports before any program runs; those that are not installed are left out.
            Not torch or others that start threads when imported.
        offered: which layers to use; by default all that `isolation()` returns.
        allow_weak: run even where a layer is missing, so that a program may reach files or the network.

    Raises:
        SandboxError: there is not enough isolation, this is not Linux, or no worker can be started.

    >>> with PythonSandbox(workers=1) as sandbox:
    ...     good, bad = sandbox.run("print(6 * 7)"), sandbox.run("assert 6 * 7 == 41")
    >>> good.ok, good.stdout
    (True, '42\\n')
    >>> bad.reason, bad.error.splitlines()[-1]
    ('exception', 'AssertionError')
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        limits: Limits | None = None,
        preload: Sequence[str] = (),
        offered: Isolation | None = None,
        allow_weak: bool = False,
    ) -> None:
        self.isolation = require(offered or isolation(), allow_weak=allow_weak)
        self.limits = limits or Limits()
        scratch = tempfile.mkdtemp(prefix="sgt-sandbox-")
        self._delete_scratch = weakref.finalize(self, _delete_scratch, scratch, os.getpid())
        settings = {
            "layers": self.isolation.layers,
            "readable": find_readable(),
            "scratch": scratch,
            "preload": list(preload),
            "environment": _ENVIRONMENT,
            "limits": asdict(self.limits),
        }
        self._pool = Pool("worker", workers, settings, _ENVIRONMENT)

    def run(self, code: str) -> Outcome:
        """Runs a program, and says how it ended. What it does wrong is an outcome, never an exception.

        Raises:
            SandboxError: a worker was lost twice, which a program cannot cause by itself.
        """
        try:
            return self._run(code)
        except WorkerLostError:
            try:
                return self._run(code)
            except WorkerLostError as lost:
                raise SandboxError(f"A worker was lost twice over one program: {lost}. Is memory short here?") from lost

    def _run(self, code: str) -> Outcome:
        with self._pool.lend() as worker:
            return Outcome(**worker.ask({"code": code}, self.limits.seconds + _GRACE))

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()
        self._delete_scratch()


def _delete_scratch(scratch: str, owner: int) -> None:
    """Deletes the folders that killed workers left."""
    if os.getpid() == owner:
        remove(scratch)
