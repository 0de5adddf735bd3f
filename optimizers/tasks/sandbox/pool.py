"""Worker processes that outlive a check: lent to threads, and replaced when they are lost."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from sgt_modules.errors import SandboxError

WorkerKind = Literal["worker", "queries"]
"""The module of `inside` that a worker runs."""

_START = "import sys; sys.path.insert(0, {!r}); from inside.{} import start_serving; del sys.path[0]; start_serving()"
_STARTING = 120.0
_PASSED_ON = ("LD_LIBRARY_PATH", "SYSTEMROOT")


class WorkerLostError(Exception):
    """A worker ended, or gave no answer in time."""


class Worker:
    """One process, and the way to it. Its environment holds nothing of the caller's."""

    def __init__(self, kind: WorkerKind, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", _START.format(str(Path(__file__).parent), kind)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**inherited, **environment},
        )
        try:
            self.problem: str = self.ask(settings, _STARTING)["problem"]
        except WorkerLostError as lost:
            raise SandboxError(f"A sandbox's worker did not start: {lost}") from lost

    def ask(self, message: object, seconds: float) -> dict[str, Any]:
        """Returns the answer to a message; where none comes within `seconds`, ends the worker and raises.

        Raises:
            WorkerLostError: the worker ended, or gave no answer in time.
        """
        try:
            if self.process.stdin is None or self.process.stdout is None:
                raise EOFError("the worker has no pipes")
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
            answers = select.poll()
            answers.register(self.process.stdout, select.POLLIN)
            if not answers.poll(1000 * seconds):
                raise TimeoutError("no answer in time")
            if not (answer := self.process.stdout.readline()):
                raise EOFError("the worker ended")
            return json.loads(answer)
        except (OSError, EOFError, ValueError) as problem:
            self.process.kill()
            self._errors.seek(0)
            last_words = self._errors.read().decode("utf-8", "replace")[-500:].strip()
            self.end()
            raise WorkerLostError(f"{problem}. {last_words}".rstrip()) from problem

    def end(self) -> None:
        """Ends the process, and with it its running program."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._errors.close()


class Pool:
    """Some workers of one kind, each started when it is first needed. Any number of threads may ask."""

    def __init__(
        self, kind: WorkerKind, workers: int, settings: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        if workers < 1:
            raise SandboxError(f"A sandbox needs at least one worker, but workers={workers}.")
        self._kind: WorkerKind = kind
        self._settings, self._environment = dict(settings), dict(environment)
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._started: list[Worker] = []
        self._owner = os.getpid()
        self.close = weakref.finalize(self, _end_all, self._idle, self._started, self._owner)

    @contextmanager
    def lend(self) -> Iterator[Worker]:
        """Lends a worker for one check, and replaces a lost one. The caller waits while all are busy."""
        if os.getpid() != self._owner:
            raise SandboxError("This sandbox belongs to the process that made it. Make one in each process.")
        worker = self._idle.get() if self.close.alive else None
        try:
            if not self.close.alive:
                raise SandboxError("This sandbox is closed. Make a new one.")
            if worker is None or worker.process.poll() is not None:
                worker = self._replace(worker)
            yield worker
        except BaseException:  # the worker's next answer may be the one to this check
            if worker is not None:
                self._discard(worker)
            worker = None
            raise
        finally:
            if worker is not None and not self.close.alive:  # the pool was closed meanwhile
                self._discard(worker)
                worker = None
            self._idle.put(worker)

    def _replace(self, old: Worker | None) -> Worker:
        if old is not None:
            self._discard(old)
        new = Worker(self._kind, self._settings, self._environment)
        if new.problem:
            new.end()
            raise SandboxError(f"The kernel refuses what isolation() promised: {new.problem}.")
        self._started.append(new)
        return new

    def _discard(self, worker: Worker) -> None:
        worker.end()
        if worker in self._started:
            self._started.remove(worker)


def _end_all(idle: queue.LifoQueue[Worker | None], started: list[Worker], owner: int) -> None:
    """Ends every worker. A lent one is only killed: the thread that reads from it closes its pipes."""
    if os.getpid() != owner:
        return
    for each in started:
        each.process.kill()
    with suppress(queue.Empty):
        while True:
            worker = idle.get_nowait()
            if worker is not None:
                worker.end()
                started.remove(worker)
    idle.put(None)  # a waiting thread gets it, finds the pool closed, and puts it back for the next one
