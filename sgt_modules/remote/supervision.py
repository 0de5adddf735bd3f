"""Keeps a server on this machine running: starts it, waits until it answers, starts it again when it dies, ends it.

A server is a process group of its own. Nothing of the group is left when it ends or is started again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sgt_modules.errors import EndpointError

_TICK = 0.1
"""Seconds between two looks at a server."""

_TAIL_LINES, _TAIL_LETTERS = 40, 4000
"""How much of a log's end an error shows."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, and how often to start it again. All but `restarts` in seconds.

    Args:
        start: The most until it answers.
        news: Between two lines that say that it is still starting.
        restarts: Starts in a row that may fail before the server is given up.
        first_pause: Before the first start in a row; each further pause is twice as long.
        longest_pause: The longest of these pauses.
        steady: A server that ran this long begins to count from 0 again.
        check: Between two questions whether it still answers.
        silent: A server that answers none of these for so long is started again.
        end: The most for a server to end by itself.
    """

    start: float = 900.0
    news: float = 30.0
    restarts: int = 5
    first_pause: float = 1.0
    longest_pause: float = 60.0
    steady: float = 60.0
    check: float = 5.0
    silent: float = 180.0
    end: float = 15.0

    def pause(self, failures: int) -> float:
        """The pause before the next start, after so many failures in a row (1 or more).

        >>> [Patience().pause(failures) for failures in (1, 2, 3, 9)]
        [1.0, 2.0, 4.0, 60.0]
        """
        return min(self.first_pause * 2 ** (failures - 1), self.longest_pause)


@dataclass(slots=True)
class StopRequest:
    """How often a person asked to stop: once to end in order, twice to end at once. A signal's handler calls it.

    It holds a number and no lock, as a handler may interrupt the code that holds one.

    >>> request = StopRequest()
    >>> request()
    >>> request.wanted, request.urgent
    (True, False)
    """

    times: int = 0

    def __call__(self, *signal_and_frame: object) -> None:
        """Ask once more."""
        self.times += 1

    @property
    def wanted(self) -> bool:
        """Whether to stop."""
        return self.times > 0

    @property
    def urgent(self) -> bool:
        """Whether to stop at once."""
        return self.times > 1


class StoppedStartError(Exception):
    """A person asked to stop before the server answered."""


@dataclass(slots=True)
class SupervisedServer:
    """A server on this machine. One thread uses it at a time.

    Args:
        name: What messages call it.
        words: Its command.
        environment: Its whole environment.
        log: The file to which its output is added.
        is_up: Whether it accepts requests; asked in a thread of its own, may raise `OSError`.
        warm_up: The first request, after `is_up`: raises `EndpointError` if the server refuses it.
        is_free: Whether its port is free.
        patience: How long to wait.
        report: Receives lines for a person.
        stop: Says when to stop.
    """

    name: str
    words: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    is_up: Callable[[], bool]
    warm_up: Callable[[], None]
    is_free: Callable[[], bool]
    patience: Patience
    report: Callable[[str], None]
    stop: StopRequest
    seconds_to_start: float = 0.0
    restarts: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        """The number of its process, and of its group; None before `start` and after `end`."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises `EndpointError` with the end of its log if it ends, refuses its first request or does not answer in
        time; `StoppedStartError` if a person stops it. Nothing of it runs then.
        """
        if not self.is_free():
            raise EndpointError(
                f"Expected the port of {self.name} to be free, got one that another program uses. End that program, or "
                "choose another port."
            )
        started = time.monotonic()
        self._launch()
        try:
            self._wait_until_it_answers(started)
        except BaseException:
            self.end()
            raise
        self.seconds_to_start = time.monotonic() - started

    def watch(self) -> None:
        """Start the server again whenever it ends or is silent, until a person stops it.

        Raises `EndpointError` if too many starts in a row fail.
        """
        failures = 0
        while not self.stop.wanted:
            up_since = time.monotonic()
            reason = self._wait_for_fault()
            if reason is None:
                return
            failures = 0 if time.monotonic() - up_since >= self.patience.steady else failures
            while not self.stop.wanted:
                failures += 1
                self.end()
                if failures > self.patience.restarts:
                    raise EndpointError(
                        f"Expected {self.name} to run, got {failures} faults in a row; the last: {reason}. Look at "
                        f"its log {str(self.log)!r} and start it again.\n{tail_of(self.log)}"
                    )
                pause = self.patience.pause(failures)
                self.report(f"{self.name}: {reason}; starts again in {pause:g} s ({failures} in a row)")
                self._sleep(pause)
                try:
                    if not self.stop.wanted:
                        self.start()
                except EndpointError as error:
                    reason = str(error).partition("\n")[0].rstrip(".")
                    continue
                except StoppedStartError:
                    return
                break
            if not self.stop.wanted:
                self.restarts += 1
                self.report(f"{self.name}: answers again after {self.seconds_to_start:.1f} s")

    def end(self) -> None:
        """End the whole process group: ask it to, and kill what is left after `patience.end` or a second request."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            _send(process.pid, signal.SIGTERM)
            until = time.monotonic() + self.patience.end
            while process.poll() is None and time.monotonic() < until and not self.stop.urgent:
                time.sleep(_TICK / 2)
        _send(process.pid, signal.SIGKILL)
        process.wait()

    def _launch(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            line = f"--- {datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {' '.join(self.words)}\n"
            out.write(line.encode())
            out.flush()
            try:
                self._process = subprocess.Popen(
                    list(self.words),
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise EndpointError(
                    f"Expected a command that starts {self.name}, got {self.words[0]!r}: {error.strerror}. Install it."
                ) from error

    def _wait_until_it_answers(self, started: float) -> None:
        until, news = started + self.patience.start, started + self.patience.news
        for question in (_Asking(self._ask_until_up), _Asking(self._ask_once_ready)):
            question.begin()
            while not question.done:
                if self.stop.wanted:
                    question.drop()
                    raise StoppedStartError
                if (fault := self._fault_of_process()) is not None:
                    question.drop()
                    raise self._failure(fault)
                now = time.monotonic()
                if now > until:
                    question.drop()
                    raise self._failure(f"no answer within {self.patience.start:g} s")
                if now > news:
                    self.report(f"{self.name}: still starting after {now - started:.0f} s; its log is {self.log}")
                    news = now + self.patience.news
                time.sleep(_TICK / 2)
            if question.error is not None:
                raise self._failure(str(question.error)) from question.error

    def _ask_until_up(self, dropped: threading.Event) -> None:
        while not dropped.is_set() and not _answers(self.is_up):
            dropped.wait(_TICK)

    def _ask_once_ready(self, dropped: threading.Event) -> None:
        if not dropped.is_set():
            self.warm_up()

    def _wait_for_fault(self) -> str | None:
        """Why the server must be started again; None if a person stops it."""
        asked = answered = time.monotonic()
        question: _Asking | None = None
        while not self.stop.wanted:
            if (fault := self._fault_of_process()) is not None:
                return fault
            now = time.monotonic()
            if question is not None and question.done:
                answered, question = (now if question.error is None else answered), None
            if question is None and now - asked >= self.patience.check:
                asked, question = now, _Asking(self._ask_once)
                question.begin()
            if now - answered >= self.patience.silent:
                return f"answered nothing for {self.patience.silent:g} s"
            time.sleep(_TICK)
        return None

    def _ask_once(self, dropped: threading.Event) -> None:
        if not _answers(self.is_up):
            raise EndpointError("no answer")

    def _fault_of_process(self) -> str | None:
        """How the process ended; None while it runs."""
        process = self._process
        code = None if process is None else process.poll()
        if code is None:
            return None
        return f"ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"

    def _failure(self, said: str) -> EndpointError:
        said = said.rstrip(".")
        return EndpointError(
            f"Expected an answer of {self.name}, got: {said}. Its log is {str(self.log)!r}; the end of it:\n"
            f"{tail_of(self.log)}"
        )

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.stop.wanted:
            time.sleep(min(_TICK, seconds))


class _Asking:
    """A question to a server in a thread of its own, so that a silent server stops nobody."""

    def __init__(self, ask: Callable[[threading.Event], None]) -> None:
        self._ask, self._dropped = ask, threading.Event()
        self.done = False
        self.error: Exception | None = None

    def begin(self) -> None:
        """Ask, and return at once."""
        threading.Thread(target=self._run, daemon=True).start()

    def drop(self) -> None:
        """Nobody waits for the answer any more."""
        self._dropped.set()

    def _run(self) -> None:
        try:
            self._ask(self._dropped)
        except Exception as error:  # noqa: BLE001 - the thread that waits raises it
            self.error = error
        self.done = True


def tail_of(log: Path) -> str:
    """The last lines of a log, indented; letters that are no text are replaced.

    >>> tail_of(Path("no/such/log.txt"))
    '  (no log)'
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_LETTERS))
            text = file.read().decode(errors="replace")
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-_TAIL_LINES:])


def _answers(is_up: Callable[[], bool]) -> bool:
    try:
        return is_up()
    except OSError:
        return False


def _send(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of dead processes
        os.killpg(group, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
