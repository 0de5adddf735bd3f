"""The start page as a new user follows it: its files in an empty folder, its commands one after the other.

Files are the page's blocks with a title, commands those that begin with `python` or `sgt`. Only the port is another.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from places import ROOT

pytestmark = pytest.mark.slow

SECTION = "## From an empty folder to a served program"
PORT = "8000"
SECONDS = 600


def section() -> str:
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert page.count(SECTION) == 1
    return page.partition(SECTION)[2].partition("\n## ")[0]


def blocks() -> list[tuple[str, str]]:
    """The page's blocks in its order: what stands behind the fence, and the text."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```", section(), re.DOTALL | re.MULTILINE)


def files() -> dict[str, str]:
    """The page's files by name."""
    titled = re.compile(r'python title="([\w.]+)"')
    return {found[1]: text for head, text in blocks() if (found := titled.fullmatch(head))}


def commands() -> list[str]:
    """The page's commands, in its order."""
    return [line for head, text in blocks() if not head for line in text.splitlines()]


class Folder:
    """An empty folder with the page's files, and a port that nobody listens on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        for name, text in files().items():
            (path / name).write_text(text.replace(PORT, self.port), encoding="utf-8")

    def words(self, command: str) -> list[str]:
        """A command of the page, by this interpreter or beside it."""
        program, *words = command.replace(PORT, self.port).split()
        ours = {"python": sys.executable, "sgt": str(Path(sys.executable).with_name("sgt"))}
        return [ours[program], *words]

    @property
    def environment(self) -> dict[str, str]:
        """That of a user: no key, and no warning is an error."""
        return {name: value for name, value in os.environ.items() if name not in ("SGT_KEYS", "PYTHONWARNINGS")}

    def run(self, command: str) -> str:
        """What a command prints."""
        done = subprocess.run(
            self.words(command), cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    @contextmanager
    def running(self, command: str) -> Iterator[str]:
        """Inside, a command that stays; its address, once it answers."""
        log = self.path / "log.txt"
        with (
            log.open("w") as out,
            subprocess.Popen(self.words(command), cwd=self.path, env=self.environment, stderr=out) as process,
        ):
            try:
                address, until = f"http://127.0.0.1:{self.port}", time.monotonic() + SECONDS
                while not _healthy(address):
                    assert process.poll() is None, log.read_text()[-3000:]
                    assert time.monotonic() < until
                    time.sleep(0.2)
                yield address
            finally:
                process.send_signal(signal.SIGINT)


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("desk"))


def test_the_page_has_each_file_that_its_commands_call() -> None:
    called = [word for line in commands() for word in line.split() if word.endswith(".py")]
    assert called == ["train.py", "ask.py", "client.py"]
    assert {*files()} == {"app.py", *called}
    assert commands()[:4] == ["make install", "source .venv/bin/activate", "mkdir desk", "cd desk"]


def test_a_program_is_trained_saved_loaded_served_and_called(folder: Folder) -> None:
    """One walk through the page. It learns: more test questions are right after than before."""
    train, ask, serve, call = commands()[4:]
    stages = folder.run(train).splitlines()[-1]
    assert re.fullmatch(r"\{'none': [\d.]+, 'sft': [\d.]+, 'dpo1': [\d.]+\}", stages)
    assert (folder.path / "runs" / "desk" / "report.html").is_file()
    before, after, *answered = folder.run(ask).splitlines()
    counts = [
        int(re.fullmatch(rf"{name}: (\d+) of 32 right", line)[1])
        for name, line in (("before", before), ("after", after))
    ]
    assert counts[1] > counts[0]
    with folder.running(serve) as address:
        said = folder.run(call)
        told = httpx.post(
            f"{address}/predict", json={"question": "How many kula customers are there?"}, timeout=60
        ).json()
    sql, answer = told["outputs"]["sql"], told["outputs"]["answer"]
    assert said == f"sql: {sql}\nanswer: {answer}\n"
    assert [each["predictor"] for each in told["supplements"]] == ["write"]
    assert f"sql={sql!r}" in "\n".join(answered)
