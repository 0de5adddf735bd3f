"""A run's folder: where each thing lies, who works in it, and JSON written whole or not at all."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shlex
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from optimizers.core.canonical import Canonical
from optimizers.core.safe_reading import object_in
from sgt_modules.errors import RunFolderError
from sgt_modules.saving.redaction import redact

_PACKAGES = ("dspy-sgt", "dspy", "torch", "transformers", "trl", "peft")
_OWN = {"run.lock", "owner.json"}
"""What a run that was killed at its very start may have left."""

RESULT = "result.json"
"""What a run came to: the stage that was selected, each stage's validation score, notes, and where it was stopped."""

SHORT = 80
"""Letters in which a message shows both values of a setting."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`run.json`, `rollouts.sqlite`, `training/<stage>.jsonl`, `checkpoints/<stage>/`, `stages.json`, `summary.json`.

    >>> RunFolder(Path("runs/demo")).checkpoint("sft").as_posix()
    'runs/demo/checkpoints/sft'
    """

    path: Path

    @staticmethod
    def at(path: Path | None) -> RunFolder:
        """The folder itself, made where it is missing; without a path, a fresh one under `runs/`.

        Raises:
            RunFolderError: it cannot be made or written, as its name is too long, or it is read-only.
        """
        folder = RunFolder(path or Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f"))
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            reason = "" if os.access(folder.path, os.W_OK) else "it is read-only"
        except OSError as problem:
            reason = problem.strerror or str(problem)
        if reason:
            raise RunFolderError(
                f"Expected a folder to write the run to, got {str(folder.path)!r}: {reason}. Choose another log_dir."
            )
        return folder

    @contextmanager
    def held(self) -> Iterator[str]:
        """Inside, the run is this process's. Gives a sentence on an owner who ended without a word, mostly empty.

        Raises:
            RunFolderError: another run works here.
        """
        lock, owner = FileLock(self.path / "run.lock"), self.path / "owner.json"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(
                f"{self.path} is in use by {self._owner()}. Wait for that run to end, or choose another log_dir."
            ) from None
        try:
            left = f"Going on from {self._owner()}, which ended without a word." if owner.exists() else ""
            me = {"process": os.getpid(), "user": _user(), "host": platform.node(), "since": _now()}
            self.write("owner.json", me)
            yield left
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def _owner(self) -> str:
        try:
            known = self.read("owner.json") or {}
        except RunFolderError:
            known = {}
        names = ("process", "user", "host", "since")
        process, user, host, since = (str(known.get(name, "?"))[:100] for name in names)
        return f"process {process} of {user} on {host} (since {since})"

    def take_up(self, settings: Mapping[str, object], free: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Begin a run of these settings, or go on with one; what its `run.json` says.

        `free` settings are recorded, and may be others when a run goes on. A run has an `id`, the `versions` of the
        packages it began with, and the `command` that began it.

        Raises:
            RunFolderError: the folder holds a run with other settings, or something that is no run.
        """
        known = self.read("run.json")
        if known is None and any(each.name not in _OWN and each.suffix != ".tmp" for each in self.path.iterdir()):
            raise RunFolderError(f"{self.path} holds files but no run.json. Choose an empty folder as log_dir.")
        wanted, loose = (json.loads(json.dumps(each or {}, default=_plain)) for each in (settings, free))
        if known is None:
            known = {"id": uuid.uuid4().hex, "settings": wanted, "versions": _versions(), "created": _now()}
            known["command"] = _command()
        elif changed := _changes(known.get("settings"), wanted):
            raise RunFolderError(
                f"{self.path} holds a run with other settings: {'; '.join(changed)}. "
                "Choose another log_dir, or go on with the settings in its run.json."
            )
        if known.get("free") != loose or "id" not in known:
            known = {"id": uuid.uuid4().hex, **known, "free": loose}
            self.write("run.json", known)
        return known

    @property
    def store(self) -> Path:
        """Every rollout of the run."""
        return self.path / "rollouts.sqlite"

    def checkpoint(self, stage: str) -> Path:
        """The weights after a stage."""
        return self.path / "checkpoints" / stage

    def rows(self, stage: str) -> Path:
        """The rows that a stage was trained on, a JSON object a line."""
        return self.path / "training" / f"{stage}.jsonl"

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the run; None where there is none.

        Raises:
            RunFolderError: the file is no JSON object, leads out of the folder, or is far too large.
        """
        return object_in(self.path / name, home=self.path)

    def write(self, name: str, content: Mapping[str, object]) -> Path:
        """Write a JSON file whole: a reader sees the old one or the new one."""
        return self.write_text(self.path / name, json.dumps(content, indent=2, default=str) + "\n")

    def write_text(self, file: Path, text: str) -> Path:
        """Write a file of the run whole."""
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path may hold bytes that are no text
        draft.replace(file)
        return file


def versions_apart(known: Mapping[str, Any]) -> list[str]:
    """The packages of a run's `run.json` that are others now, each as `name before, now`."""
    before, now = cast("dict[str, str]", known.get("versions", {})), _versions()
    return [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]


def _plain(value: object) -> object:
    """A setting that JSON does not know, the same in every process."""
    return Canonical().encode(value, "setting")


def _changes(before: object, wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each setting that is another now, with both values where they are short; one inside another by `outer.inner`."""
    old = cast("dict[str, Any]", before) if isinstance(before, dict) else {}
    found: list[str] = []
    for name in sorted({*old, *wanted}):
        was, comes = old.get(name), wanted.get(name)
        if name not in old:
            found.append(f"{prefix}{name} was not recorded when the run began")
        elif isinstance(was, dict) and isinstance(comes, dict):
            found += _changes(cast("object", was), cast("dict[str, Any]", comes), f"{prefix}{name}.")
        elif was != comes:
            told = f" from {json.dumps(was)} to {json.dumps(comes)}"
            found.append(f"{prefix}{name} changed{told if len(told) <= SHORT else ''}")
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "?"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _command() -> str:
    """The command line of this process, without what looks like a key; empty where nobody typed one."""
    first, *rest = sys.argv or [""]
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if first in ("", "-c", "-") or "ipykernel" in first:
        return ""
    if main is not None:
        begin = ["python", "-m", main.name.removesuffix(".__main__")]
    else:
        begin = ["python", first] if first.endswith(".py") else [Path(first).name]
    return redact(shlex.join([*begin, *rest]))


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
