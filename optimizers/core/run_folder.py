"""The folder of a run: its paths, a lock for the process that works in it, and JSON that is written atomically."""

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
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from optimizers.core.canonical import CanonicalEncoder
from optimizers.core.safe_reading import read_object
from optimizers.core.stages import SFT
from sgt_modules.errors import RunFolderError
from sgt_modules.saving.redaction import redact

_PACKAGES = ("dspy-sgt", "dspy", "torch", "transformers", "trl", "peft")
_OWN = {"run.lock", "owner.json"}
"""Files that a run killed at its start may leave behind."""

CLUSTERS_FILE = "clusters.json"
"""Where a folder keeps the cluster of each question, by split, if questions share clusters."""

COSTS_FILE = "costs.json"
"""Where a folder keeps the prices of a recipe that has some, and by stage the net score and what a run used."""

ACTORS_FILE = "actors.json"
"""Where a folder keeps the usage and the validation scores of each actor, if several act."""

RESULT = "result.json"
"""The file of a run's result: the selected stage, each stage's validation score, notes, and where it stopped."""

SHORT = 80
"""The most characters in which a message shows both values of a setting."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`run.json`, `rollouts.sqlite`, `training/<stage>.jsonl`, `checkpoints/<stage>/`, `stages.json`, `summary.json`.

    >>> RunFolder(Path("runs/demo")).checkpoint("sft").as_posix()
    'runs/demo/checkpoints/sft'
    """

    path: Path

    @staticmethod
    def create(path: str | Path | None) -> RunFolder:
        """The folder at a path, created if it is missing; without a path, a new one under `runs/`.

        Raises:
            RunFolderError: it cannot be created or written, for example because it is read-only.
        """
        folder = RunFolder(Path(path) if path else Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f"))
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
    def lock(self) -> Iterator[str]:
        """Lock the folder for this process. Yields a note if the last process did not release it, else an empty text.

        Raises:
            RunFolderError: another run works here.
        """
        file_lock, owner = FileLock(self.path / "run.lock"), self.path / "owner.json"
        try:
            file_lock.acquire(timeout=0)
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
            file_lock.release()

    def _owner(self) -> str:
        try:
            known = self.read("owner.json") or {}
        except RunFolderError:
            known = {}
        names = ("process", "user", "host", "since")
        process, user, host, since = (str(known.get(name, "?"))[:100] for name in names)
        return f"process {process} of {user} on {host} (since {since})"

    def begin_or_resume(
        self, must_match: Mapping[str, object], may_change: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Begin a run, or resume one whose `must_match` settings are the same; returns the content of its `run.json`.

        It holds them as `settings`, and those that `may_change` from session to session as `free`. It also has an
        `id`, the `versions` of the packages and the `command` that the run began with.

        Raises:
            RunFolderError: the folder holds a run with other settings, or files that are no run.
        """
        known = self.read("run.json")
        if known is None and any(each.name not in _OWN and each.suffix != ".tmp" for each in self.path.iterdir()):
            raise RunFolderError(f"{self.path} holds files but no run.json. Choose an empty folder as log_dir.")
        encode = partial(CanonicalEncoder().encode, where="setting")  # what JSON has no type for
        wanted, loose = (json.loads(json.dumps(each or {}, default=encode)) for each in (must_match, may_change))
        if known is None:
            known = {"id": uuid.uuid4().hex, "settings": wanted, "versions": _versions(), "created": _now()}
            known["command"] = _command()
        elif changed := _describe_changes(known.get("settings"), wanted):
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
        """The database of all rollouts."""
        return self.path / "rollouts.sqlite"

    def checkpoint(self, stage: str) -> Path:
        """The folder of the weights after a stage."""
        return self.path / "checkpoints" / stage

    def rows(self, stage: str) -> Path:
        """The file of a stage's training rows, one JSON object per line."""
        return self.path / "training" / f"{stage}.jsonl"

    @property
    def training_files(self) -> list[Path]:
        """The files of training rows, SFT's first; none that a link leads out of the folder to."""
        home = self.path.resolve()
        files = [each for each in (self.path / "training").glob("*.jsonl") if each.resolve().is_relative_to(home)]
        return sorted(files, key=lambda file: (file.stem != SFT, len(file.stem), file.stem))

    def read(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file; None if there is no such file.

        Raises:
            RunFolderError: the file is no JSON object, links out of the folder, or is far too large.
        """
        return read_object(self.path / name, home=self.path)

    def write(self, name: str, content: Mapping[str, object]) -> Path:
        """Write a JSON file atomically: a reader sees the old content or the new one."""
        return self.write_text(self.path / name, json.dumps(content, indent=2, default=str) + "\n")

    def write_text(self, file: Path, text: str) -> Path:
        """Write a text file atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path may hold bytes that are no text
        draft.replace(file)
        return file


def changed_versions(known: Mapping[str, Any]) -> list[str]:
    """The packages whose version differs from the one in `run.json`, each as `name 1.0, now 1.1`."""
    before, now = cast("dict[str, str]", known.get("versions", {})), _versions()
    return [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]


def _describe_changes(before: object, wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Describes each setting that differs, with both values if they are short; a nested one is named `outer.inner`."""
    old = cast("dict[str, Any]", before) if isinstance(before, dict) else {}
    found: list[str] = []
    for name in sorted({*old, *wanted}):
        was, now = old.get(name), wanted.get(name)
        if name not in old:
            found.append(f"{prefix}{name} was not recorded when the run began")
        elif isinstance(was, dict) and isinstance(now, dict):
            found += _describe_changes(cast("object", was), cast("dict[str, Any]", now), f"{prefix}{name}.")
        elif was != now:
            values = f" from {json.dumps(was)} to {json.dumps(now)}"
            found.append(f"{prefix}{name} changed{values if len(values) <= SHORT else ''}")
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "?"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _command() -> str:
    """The command line of this process, without what looks like a key; empty in a notebook or a prompt."""
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
    return dict(_read_versions())


@cache
def _read_versions() -> Mapping[str, str]:
    """Read the packages' metadata, once in a process."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
