"""A temporary PostgreSQL server on a socket in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

WHEEL = "pgserver==0.1.4"
"""A wheel with PostgreSQL's binaries, for systems without them."""

_USERS = ("postgres", "nobody")
_PATIENCE = 60.0


class NoPostgresError(Exception):
    """PostgreSQL is missing here and cannot be installed."""


def binaries(folder: Path) -> Path:
    """Return the folder of `initdb` and `postgres`: the system's, else a wheel's, unpacked in `folder`."""
    found = shutil.which("initdb")
    system = [Path(found).resolve().parent] if found else []
    system += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for each in system:
        if (each / "initdb").exists() and (each / "postgres").exists():
            return each
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode:
        raise NoPostgresError(f"no initdb on the PATH, and pip cannot get {WHEEL}: {pip.stderr.strip()[-200:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    home = folder / "pgserver" / "pginstall"
    for each in (home / "bin").iterdir():
        each.chmod(0o755)
    return home / "bin"


def _user() -> str | None:
    """Return the server's user: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    known = {each.pw_name for each in pwd.getpwall()}
    found = next((name for name in _USERS if name in known), None)
    if found is None:
        raise NoPostgresError(f"PostgreSQL does not run as root, and there is no user {' or '.join(_USERS)}")
    return found


@contextmanager
def postgres(*settings: str) -> Iterator[str]:
    """Run a new, empty server; yield its address for SQLAlchemy. Raises `NoPostgresError`.

    `settings` are PostgreSQL's own, such as `fsync=off`.
    """
    user = _user()
    with TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        folder.chmod(0o755)
        home = binaries(folder)
        data = folder / "data"
        data.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(data, user)
        made = subprocess.run(
            [home / "initdb", "-D", data, "-U", "sgt", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
            capture_output=True, text=True, check=False, user=user, cwd="/",
        )  # fmt: skip
        if made.returncode:
            raise NoPostgresError(f"initdb failed: {made.stderr.strip()[-200:]}")
        options = [word for each in settings for word in ("-c", each)]
        command = [home / "postgres", "-D", data, "-k", data, "-c", "listen_addresses=", *options]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, user=user, cwd="/")
        try:
            _await(server, data, folder / "log")
            yield f"postgresql+psycopg://sgt@/postgres?host={data}"
        finally:
            server.terminate()
            server.wait()


def _await(server: subprocess.Popen[bytes], data: Path, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            psycopg.connect(host=str(data), user="sgt", dbname="postgres").close()
        except psycopg.OperationalError as problem:
            if server.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace")[-300:]
                raise NoPostgresError(f"the server did not start: {said or problem}") from problem
            time.sleep(0.05)
        else:
            return
