"""A supervised server: a real process of a few lines that dies, hangs, never answers, refuses, or ignores signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_server

from sgt_modules.errors import EndpointError
from sgt_modules.remote.probing import ask_for_a_token, is_port_free, is_up
from sgt_modules.remote.supervision import Patience, StoppedStartError, StopRequest, SupervisedServer, tail_of

QUICK = Patience(
    start=20.0, restarts=2, first_pause=0.1, longest_pause=0.2, steady=60.0, check=0.1, silent=15.0, end=5.0
)


class Supervised:
    """A small server, the lines that a person reads, and the thread that watches it."""

    def __init__(self, folder: Path, manner: str, patience: Patience = QUICK) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.file, self.lines = folder / "file", list[str]()
        self.stop, self.fault = StopRequest(), list[Exception]()
        address = f"http://127.0.0.1:{self.port}/v1"
        self.address = address
        self.server = SupervisedServer(
            "generator",
            [sys.executable, small_server.__file__, str(self.port), manner, str(self.file)],
            {**os.environ, "PYTHONUNBUFFERED": "1"},
            folder / "logs" / "generator.log",
            is_up=lambda: is_up(address, seconds=2.0),
            warm_up=lambda: ask_for_a_token(address, "model", seconds=5.0),
            is_free=lambda: is_port_free("127.0.0.1", self.port),
            patience=patience,
            report=self.lines.append,
            stop=self.stop,
        )
        self._thread: threading.Thread | None = None

    def watch(self) -> None:
        def work() -> None:
            try:
                self.server.watch()
            except EndpointError as error:
                self.fault.append(error)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def close(self) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()
        self.server.end()

    def kill(self) -> int:
        killed = self.server.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        return killed


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    made: list[Supervised] = []

    def build(manner: str, patience: Patience = QUICK) -> Supervised:
        made.append(Supervised(tmp_path, manner, patience))
        return made[-1]

    yield build
    for each in made:
        each.close()


def eventually(true: Callable[[], object], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.02)
    return False


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_a_server_answers_after_its_start_and_its_output_is_in_the_log(make: Callable[..., Supervised]) -> None:
    well = make("well")
    well.server.start()
    assert is_up(well.address)
    assert 0 < well.server.seconds_to_start < QUICK.start
    assert "starting as well" in well.server.log.read_text()
    assert str(well.port) in well.server.log.read_text().splitlines()[0]
    well.server.end()
    assert not is_up(well.address)
    assert well.server.pid is None
    well.server.end()  # again: nothing happens


def test_a_killed_server_answers_again_on_the_same_port(make: Callable[..., Supervised]) -> None:
    well = make("well")
    well.server.start()
    well.watch()
    for number in (1, 2):
        killed = well.kill()
        assert eventually(lambda number=number: well.server.restarts == number)
        assert is_up(well.address)
        assert well.server.pid != killed
    assert well.lines[0] == "generator: ended by SIGKILL; starts again in 0.1 s (1 in a row)"
    assert well.lines[2] == "generator: ended by SIGKILL; starts again in 0.2 s (2 in a row)"
    assert well.lines[1].startswith("generator: answers again after")


def test_a_server_that_ran_for_long_enough_counts_its_faults_from_the_start(make: Callable[..., Supervised]) -> None:
    well = make("well", Patience(start=20.0, restarts=1, first_pause=0.1, steady=0.0, check=0.1))
    well.server.start()
    well.watch()
    for number in (1, 2, 3):
        well.kill()
        assert eventually(lambda number=number: well.server.restarts == number)
    assert not well.fault


def test_a_silent_server_is_killed_and_started_again(make: Callable[..., Supervised]) -> None:
    falls = make("falls", Patience(start=20.0, first_pause=0.1, check=0.1, silent=1.0, end=5.0))
    falls.server.start()
    falls.watch()
    falls.file.touch()
    assert eventually(lambda: any("answered nothing for 1 s" in line for line in falls.lines))
    falls.file.unlink()
    assert eventually(lambda: falls.server.restarts > 0)
    assert is_up(falls.address)


def test_an_exit_code_is_named(make: Callable[..., Supervised]) -> None:
    falls = make("falls")
    falls.server.start()
    falls.watch()
    falls.file.write_text("exit")
    assert eventually(lambda: any("ended with exit code 4" in line for line in falls.lines))


def test_a_server_that_does_not_start_again_is_given_up_with_the_end_of_its_log(
    make: Callable[..., Supervised],
) -> None:
    once = make("once")
    once.server.start()
    once.watch()
    once.kill()
    assert eventually(lambda: once.fault)
    said = str(once.fault[0])
    assert "Expected generator to run, got 3 faults in a row; the last: " in said
    assert "ended with exit code 5" in said
    assert said.count("starting as once") > 1
    assert len(once.file.read_text()) == 3  # two starts again
    assert once.server.pid is None


@pytest.mark.parametrize(
    ("manner", "said", "log"),
    [
        ("error", "got: ended with exit code 1.", "CUDA out of memory"),
        ("garbage", "got: ended with exit code 3.", "� broken"),
        ("refuses", "got: 500 to a request of one token: no chat template.", "starting as refuses"),
    ],
)
def test_a_server_that_cannot_start_says_why_with_the_end_of_its_log(
    make: Callable[..., Supervised], manner: str, said: str, log: str
) -> None:
    server = make(manner).server
    with pytest.raises(EndpointError, match="Expected an answer of generator") as raised:
        server.start()
    assert said in str(raised.value)
    assert log in str(raised.value)
    assert str(server.log) in str(raised.value)
    assert server.pid is None


def test_a_server_that_never_answers_is_ended_after_the_limit(make: Callable[..., Supervised]) -> None:
    deaf = make("deaf", Patience(start=1.0, news=0.3, end=5.0))
    begun = time.monotonic()
    with pytest.raises(EndpointError, match="no answer within 1 s"):
        deaf.server.start()
    assert time.monotonic() - begun < 10
    assert deaf.server.pid is None
    assert "still starting after" in deaf.lines[0]


def test_a_stop_during_the_start_ends_the_server(make: Callable[..., Supervised]) -> None:
    deaf = make("deaf")
    threading.Timer(0.5, deaf.stop).start()
    with pytest.raises(StoppedStartError):
        deaf.server.start()
    assert deaf.server.pid is None


def test_a_server_that_ignores_sigterm_is_killed_after_the_limit(make: Callable[..., Supervised]) -> None:
    stubborn = make("stubborn", Patience(start=20.0, end=0.5))
    stubborn.server.start()
    pid = stubborn.server.pid
    assert pid is not None
    begun = time.monotonic()
    stubborn.server.end()
    assert 0.5 <= time.monotonic() - begun < 5
    assert not is_alive(pid)


def test_a_second_request_to_stop_kills_at_once(make: Callable[..., Supervised]) -> None:
    stubborn = make("stubborn", Patience(start=20.0, end=60.0))
    stubborn.server.start()
    stubborn.stop()
    stubborn.stop()
    begun = time.monotonic()
    stubborn.server.end()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_no_child_of_a_server_is_left(make: Callable[..., Supervised], how: str) -> None:
    parent = make("parent")
    parent.server.start()
    child = int(parent.file.read_text())
    assert is_alive(child)
    if how == "killed":
        parent.watch()
        parent.kill()
        assert eventually(lambda: parent.server.restarts == 1)
    else:
        parent.server.end()
    assert eventually(lambda: not is_alive(child), seconds=5)


def test_a_port_that_another_program_took_is_not_asked(make: Callable[..., Supervised]) -> None:
    first, second = make("well"), make("well")
    first.server.start()
    second.server.is_free = lambda: is_port_free("127.0.0.1", first.port)
    with pytest.raises(EndpointError, match="got one that another program uses"):
        second.server.start()


def test_a_command_that_is_not_there_is_named(make: Callable[..., Supervised]) -> None:
    gone = make("well").server
    gone.words = ["/no/such/engine", "serve"]
    with pytest.raises(EndpointError, match="got '/no/such/engine': No such file or directory"):
        gone.start()


def test_only_the_end_of_a_long_log_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    shown = tail_of(log).splitlines()
    assert len(shown) == 40
    assert shown[-1] == "  line 99999"
    log.write_bytes(b"x" * 100_000)
    assert len(tail_of(log)) < 4100
