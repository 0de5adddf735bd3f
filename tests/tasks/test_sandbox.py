"""Python written by a model: nothing it does reaches the user's files, network, processes or time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hostile_programs import HOSTILE, Hostile

from optimizers.tasks.sandbox import Isolation, Layer, Limits, PythonSandbox, isolation
from optimizers.tasks.sandbox.isolation import find_readable
from sgt_modules.errors import SandboxError

SECRET = "canary-5f1c"
LIMITS = Limits(seconds=0.4, memory_bytes=256 << 20, disk_bytes=8 << 20, output_bytes=1 << 18, files=200)
HERE = isolation()
needs_isolation = pytest.mark.skipif(not HERE.is_enough, reason=f"this kernel has {HERE}")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[PythonSandbox]:
    os.environ["SGT_TEST_KEY"] = SECRET
    with PythonSandbox(workers=1, limits=LIMITS) as new:
        yield new
    del os.environ["SGT_TEST_KEY"]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """A user's folder with a file, and two servers."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "canary").write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local:
        local.bind(str(folder / "socket"))
        local.settimeout(0.01)
        yield {
            "canary": folder / "canary",
            "folder": folder,
            "host": os.getpid(),
            "port": server.getsockname()[1],
            "socket": folder / "socket",
            "server": server,
            "local": local,
        }


def below(root: int) -> set[int]:
    """Returns the living processes below one."""
    parents: dict[int, int] = {}
    for each in Path("/proc").iterdir():
        with suppress(OSError):
            if each.name.isdigit():
                state, parent = (each / "stat").read_text().rpartition(")")[2].split()[:2]
                parents |= {int(each.name): int(parent)} if state != "Z" else {}
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family - {root}


def processes() -> int:
    """Counts the living processes below this one."""
    return len(below(os.getpid()))


@needs_isolation
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda each: each.what)
def test_a_hostile_program_gets_nothing_and_the_next_check_works(
    hostile: Hostile, sandbox: PythonSandbox, names: dict[str, object]
) -> None:
    assert sandbox.run("pass").ok
    before = processes()
    worker = sandbox._pool._started[0].process.pid
    code = hostile.code
    for name, value in {**names, "parent": worker}.items():
        code = code.replace("{" + name + "}", str(value))
    began = time.monotonic()
    outcome = sandbox.run(code)
    took = time.monotonic() - began

    assert outcome.reason in hostile.ends, outcome
    assert outcome.ok == (outcome.reason == "ended")
    assert "ESCAPED" not in outcome.stdout
    assert SECRET not in outcome.stdout + outcome.error
    assert took < LIMITS.seconds + 3
    canary, folder = Path(str(names["canary"])), Path(str(names["folder"]))
    assert canary.read_text() == SECRET
    assert canary.stat().st_mtime > 1
    assert sorted(each.name for each in folder.iterdir()) == ["canary", "socket"]
    assert processes() <= before
    assert sandbox.run("print(6 * 7)").stdout == "42\n"
    assert sandbox._pool._started[0].process.pid == worker


def test_there_are_at_least_forty_hostile_programs() -> None:
    assert len({each.code for each in HOSTILE}) == len(HOSTILE) >= 40


@needs_isolation
def test_without_isolation_the_same_programs_do_escape(names: dict[str, object]) -> None:
    attempts = ("read a file of the user's", "a connection", "list the user's folder", "fork", "start a program")
    with PythonSandbox(workers=1, limits=LIMITS, offered=Isolation(()), allow_weak=True) as weak:
        for hostile in HOSTILE:
            if hostile.what in attempts:
                code = hostile.code
                for name, value in names.items():
                    code = code.replace("{" + name + "}", str(value))
                assert "ESCAPED" in weak.run(code).stdout, hostile.what


@pytest.mark.parametrize("layers", [(), ("landlock",)])
def test_too_little_isolation_is_refused_with_what_to_do(layers: tuple[Layer, ...]) -> None:
    with pytest.raises(SandboxError, match=r"needs Landlock and seccomp.*not here.*allow_weak=True"):
        PythonSandbox(offered=Isolation(layers, {"seccomp": "not here"}))


def test_isolation_says_what_holds_and_why_the_rest_does_not() -> None:
    assert set(HERE.layers) | set(HERE.missing) == {"landlock", "seccomp"}
    assert all(HERE.missing.values())
    assert not set(HERE.layers) & set(HERE.missing)
    assert str(Isolation(("seccomp",), {"landlock": "switched off"})) == "seccomp; no landlock: switched off"


@pytest.fixture(scope="module")
def one() -> Iterator[PythonSandbox]:
    if not HERE.is_enough:
        pytest.skip(f"this kernel has {HERE}")
    with PythonSandbox(workers=1) as new:
        yield new


@pytest.mark.parametrize(
    ("code", "reason", "stdout", "error"),
    [
        ("print('a'); print('b')", "ended", "a\nb\n", ""),
        ("import sys; sys.stderr.write('aside')", "ended", "", ""),
        ("print(__name__); assert __name__ == '__main__'", "ended", "__main__\n", ""),
        ("print(repr(open(0).read()))", "ended", "''\n", ""),
        ("open('a.txt', 'w').write('kept'); print(open('a.txt').read())", "ended", "kept\n", ""),
        ("import os; print(os.listdir('.'))", "ended", "[]\n", ""),
        ("import tempfile; print(tempfile.TemporaryFile().write(b'abc'))", "ended", "3\n", ""),
        ("import threading; t = threading.Thread(target=print, args=(3,)); t.start(); t.join()", "ended", "3\n", ""),
        ("import asyncio; print(asyncio.run(asyncio.sleep(0, 'slept')))", "ended", "slept\n", ""),
        ("import sqlite3; print(sqlite3.connect(':memory:').execute('select 1').fetchone())", "ended", "(1,)\n", ""),
        ("from zoneinfo import ZoneInfo; print(ZoneInfo('Europe/Rome'))", "ended", "Europe/Rome\n", ""),
        ("print('before'); 1 / 0", "exception", "before\n", "ZeroDivisionError: division by zero"),
        ("assert 1 == 2, 'not the same'", "exception", "", "AssertionError: not the same"),
        ("def f(:", "exception", "", "SyntaxError: invalid syntax"),
        ("raise KeyboardInterrupt", "exception", "", "KeyboardInterrupt"),
        ("import sys; sys.exit(3)", "exit", "", "SystemExit: 3"),
        ("import os; os._exit(4)", "exit", "", "The process ended with status 4 before the program did."),
        ("", "ended", "", ""),
    ],
)  # fmt: skip
def test_an_outcome_has_the_programs_output_and_its_end(
    code: str, reason: str, stdout: str, error: str, one: PythonSandbox
) -> None:
    outcome = one.run(code)
    assert (outcome.reason, outcome.stdout, (outcome.error.splitlines() or [""])[-1]) == (reason, stdout, error)
    assert 0 < outcome.seconds < Limits().seconds


def test_a_traceback_shows_the_programs_lines_and_none_of_ours(one: PythonSandbox) -> None:
    error = one.run("def halve(n):\n    return 1 / n\n\nhalve(0)").error
    assert error.splitlines() == [
        "Traceback (most recent call last):",
        '  File "<program>", line 4, in <module>',
        "    halve(0)",
        '  File "<program>", line 2, in halve',
        "    return 1 / n",
        "           ~~^~~",
        "ZeroDivisionError: division by zero",
    ]


def test_nothing_is_left_of_a_program_for_the_next_one(one: PythonSandbox) -> None:
    assert one.run("import builtins, json\nbuiltins.left = json.left = 1\nopen('left', 'w').close()").ok
    after = one.run("import json, os\nprint(os.listdir('.'), hasattr(json, 'left'))\nleft")
    assert (after.stdout, after.error.splitlines()[-1]) == ("[] False\n", "NameError: name 'left' is not defined")


def test_sets_of_texts_have_one_order_in_every_worker() -> None:
    if not HERE.is_enough:
        pytest.skip(f"this kernel has {HERE}")
    orders: set[str] = set()
    for _ in range(2):
        with PythonSandbox(workers=1, limits=LIMITS) as sandbox:
            orders.add(sandbox.run("print(*{'red', 'green', 'blue', 'black', 'white'})").stdout)
    assert len(orders) == 1


@needs_isolation
def test_preloaded_modules_are_there_at_once_and_missing_ones_left_out() -> None:
    with PythonSandbox(workers=1, preload=["fractions", "no_such_module"]) as sandbox:
        assert sandbox.run("import sys; assert 'fractions' in sys.modules").ok
        assert sandbox.run("import no_such_module").error.endswith("No module named 'no_such_module'")


@needs_isolation
def test_python_may_be_installed_below_the_folder_of_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "installed.py").write_text("here = 1")
        monkeypatch.setattr("optimizers.tasks.sandbox.python.find_readable", lambda: (*find_readable(), folder))
        with PythonSandbox(1) as sandbox:
            code = (
                f"print(open({folder + '/installed.py'!r}).read())\nimport tempfile\nprint(tempfile.mkstemp()[0] > 0)"
            )
            outcome = sandbox.run(code)
            assert (outcome.stdout, outcome.error) == ("here = 1\nTrue\n", "")
            assert "PermissionError" in sandbox.run(f"open({folder + '/new'!r}, 'w')").error


def test_any_number_of_threads_may_ask() -> None:
    with PythonSandbox(workers=2, limits=LIMITS) as sandbox, ThreadPoolExecutor(8) as threads:
        printed = threads.map(lambda n: sandbox.run(f"print({n})").stdout, range(60))
        assert list(printed) == [f"{n}\n" for n in range(60)]
        assert len(sandbox._pool._started) == 2


@needs_isolation
def test_a_lost_worker_is_replaced_and_nothing_is_left_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = processes()
    with PythonSandbox(workers=1) as sandbox:
        assert sandbox.run("pass").ok
        sandbox._pool._started[0].process.kill()
        assert sandbox.run("pass").ok
        threading.Timer(0.1, sandbox._pool._started[0].process.kill).start()
        assert sandbox.run("import time; time.sleep(0.4)").ok
        killed = sandbox._pool._started[0].process
        threading.Timer(0.1, sandbox.close).start()
        with pytest.raises(SandboxError, match="closed"):
            sandbox.run("import time; time.sleep(1000)")
        assert killed.poll() is not None
    deadline = time.monotonic() + 5
    while processes() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes() <= before
    assert list(tmp_path.iterdir()) == []


@needs_isolation
def test_programs_end_when_who_asked_for_them_is_killed() -> None:
    script = """
from optimizers.tasks.sandbox import Limits, PythonSandbox
sandbox = PythonSandbox(workers=1, limits=Limits(seconds=1000))
sandbox.run("")
print("ready", flush=True)
sandbox.run("import time; time.sleep(1000)")
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        assert asking.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 5
        while len(running := below(asking.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(running) >= 2
        asking.kill()
    while running & {int(each.name) for each in Path("/proc").iterdir() if is_alive(each)}:
        assert time.monotonic() < deadline + 5
        time.sleep(0.02)


def is_alive(process: Path) -> bool:
    try:
        return process.name.isdigit() and (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_isolation
def test_an_interrupted_caller_leaves_no_answer_for_the_next_one() -> None:
    class CallerInterruptedError(Exception):
        pass

    with PythonSandbox(workers=1) as sandbox:
        assert sandbox.run("pass").ok
        with suppress(CallerInterruptedError), sandbox._pool.lend() as worker:
            assert worker.process.stdin is not None
            worker.process.stdin.write(json.dumps({"code": "print('mine')"}).encode() + b"\n")
            worker.process.stdin.flush()
            raise CallerInterruptedError
        assert sandbox.run("print('yours')").stdout == "yours\n"


@pytest.mark.parametrize(("name", "most"), [("seconds", 0), ("memory_bytes", -1), ("files", 0)])
def test_limits_of_nothing_are_refused(name: str, most: float) -> None:
    with pytest.raises(SandboxError, match=f"Expected {name} of Limits to be more than 0, got {most}"):
        Limits(**{name: most})


@needs_isolation
def test_a_closed_sandbox_is_refused_and_so_is_one_of_another_process() -> None:
    sandbox = PythonSandbox(workers=1, limits=LIMITS)
    assert sandbox.run("pass").ok
    worker = sandbox._pool._started[0].process
    child = os.fork()
    if child == 0:
        try:
            sandbox.run("pass")
        except SandboxError:
            sandbox.close()  # must not end the workers of the process that owns them
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert sandbox.run("pass").ok
    sandbox.close()
    assert worker.poll() is not None
    with pytest.raises(SandboxError, match="closed"):
        sandbox.run("pass")
    with pytest.raises(SandboxError, match="workers=0"):
        PythonSandbox(workers=0)
