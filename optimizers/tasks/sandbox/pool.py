"""Worker processes that outlive a check: lent to threads, replaced when they are lost."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from optimizers.tasks.sandbox.inside.line import HEAD, packed
from sgt_modules.errors import SandboxError

Kind = Literal["worker", "queries"]
"""Which room of `inside` a worker runs."""

_START = "import sys; sys.path.insert(0, {!r}); from inside.{} import main; del sys.path[0]; main()"
_STARTING = 120.0
_PASSED_ON = ("LD_LIBRARY_PATH", "SYSTEMROOT")


class WorkerLostError(Exception):
    """A worker ended, or gave no answer in time."""


class Worker:
    """One process, and the way to it. Its environment is the one it is given, and nothing of ours."""

    def __init__(self, kind: Kind, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", _START.format(str(Path(__file__).parent), kind)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**inherited, **environment},
            bufsize=0,
        )
        try:
            self.hello = self.ask(settings, _STARTING)
        except WorkerLostError as lost:
            raise SandboxError(f"A sandbox's worker did not start: {lost}") from lost

    def ask(self, message: object, seconds: float) -> dict[str, Any]:
        """A message's answer; raises `WorkerLostError` where none comes within `seconds`, and the worker is ended."""
        deadline = time.monotonic() + seconds
        incoming, outgoing = self.process.stdout, self.process.stdin
        if incoming is None or outgoing is None:
            raise WorkerLostError("the worker has no line")
        try:
            left = memoryview(packed(message))
            while left:
                left = left[outgoing.write(left) or 0 :]
            size = HEAD.unpack(_exactly(incoming.fileno(), HEAD.size, deadline))[0]
            return json.loads(_exactly(incoming.fileno(), size, deadline))
        except (OSError, EOFError, ValueError) as problem:
            self.process.kill()
            said = f"{problem}. {self._last_words()}".rstrip()
            self.end()
            raise WorkerLostError(said) from problem

    def end(self) -> None:
        """End the process, and with it all of its checks."""
        self.process.kill()
        self.process.wait()
        for way in (self.process.stdin, self.process.stdout):
            if way is not None:
                with suppress(OSError):
                    way.close()
        self._said.close()

    def _last_words(self) -> str:
        self._said.seek(0)
        return self._said.read().decode("utf-8", "replace")[-500:].strip()


def _exactly(descriptor: int, size: int, deadline: float) -> bytes:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    parts: list[bytes] = []
    while size:
        if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
            raise TimeoutError("no answer in time")
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            raise EOFError("the worker ended")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Pool:
    """Some workers of one kind, each started when it is first needed. Any number of threads may ask."""

    def __init__(self, kind: Kind, workers: int, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        if workers < 1:
            raise SandboxError(f"A sandbox needs at least one worker, but workers={workers}.")
        self._kind: Kind = kind
        self._given = (dict(settings), dict(environment))
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._started: list[Worker] = []
        self._owner = os.getpid()
        self.close = weakref.finalize(self, _end_all, self._idle, self._started, self._owner)

    @contextmanager
    def lent(self) -> Iterator[Worker]:
        """A worker for one check; the caller waits while all are busy. A lost one is replaced at its next use."""
        if os.getpid() != self._owner:
            raise SandboxError("This sandbox belongs to the process that made it. Make one in each process.")
        worker = self._idle.get() if self.close.alive else None
        try:
            if not self.close.alive:
                raise SandboxError("This sandbox is closed. Make a new one.")
            if worker is None or worker.process.poll() is not None:
                worker = self._fresh(worker)
            yield worker
        except BaseException:  # its answer may still be on the way, and is nobody else's
            if worker is not None:
                self._discard(worker)
            worker = None
            raise
        finally:
            if worker is not None and not self.close.alive:  # closed meanwhile, perhaps while it was started
                self._discard(worker)
                worker = None
            self._idle.put(worker)

    def _fresh(self, old: Worker | None) -> Worker:
        if old is not None:
            self._discard(old)
        new = Worker(self._kind, *self._given)
        if new.hello["problem"]:
            new.end()
            raise SandboxError(f"The kernel refuses what isolation() promised: {new.hello['problem']}.")
        self._started.append(new)
        return new

    def _discard(self, worker: Worker) -> None:
        worker.end()
        if worker in self._started:
            self._started.remove(worker)


def _end_all(idle: queue.LifoQueue[Worker | None], started: list[Worker], owner: int) -> None:
    """End every worker. One that is lent is only killed: its descriptors are closed by whoever reads from them."""
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
    idle.put(None)  # whoever waits for a worker hears that there will be none, and passes it on
