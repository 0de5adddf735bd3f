"""A run's folder: where each thing lies, and JSON written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from sgt_modules.errors import RunFolderError

_PACKAGES = ("dspy-sgt", "dspy", "torch", "transformers", "trl", "peft")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`run.json`, `rollouts.sqlite`, `checkpoints/<stage>/` and `summary.json` of one run.

    >>> RunFolder(Path("runs/demo")).checkpoint("sft").as_posix()
    'runs/demo/checkpoints/sft'
    """

    path: Path

    @staticmethod
    def create(path: Path | None, settings: Mapping[str, object]) -> RunFolder:
        """Make the folder, or take up one of the same settings; without a path, a fresh one under `runs/`.

        Raises:
            RunFolderError: the folder holds a run with other settings, or something that is no run.
        """
        folder = RunFolder(path or Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f"))
        folder.path.mkdir(parents=True, exist_ok=True)
        known = folder.read("run.json")
        if known is None and any(folder.path.iterdir()):
            raise RunFolderError(f"{folder.path} holds files but no run.json. Choose an empty folder as log_dir.")
        wanted = json.loads(json.dumps(settings, default=str))
        if known is not None and known.get("settings") != wanted:
            before = known.get("settings", {})
            changed = sorted(key for key in {*wanted, *before} if wanted.get(key) != before.get(key))
            raise RunFolderError(
                f"{folder.path} holds a run with other settings ({', '.join(changed)} changed). "
                "Choose another log_dir, or go on with the settings in its run.json."
            )
        if known is None:
            folder.write("run.json", {"settings": wanted, "versions": _versions(), "created": _now()})
        return folder

    @property
    def store(self) -> Path:
        """Every rollout of the run."""
        return self.path / "rollouts.sqlite"

    def checkpoint(self, stage: str) -> Path:
        """The weights after a stage."""
        return self.path / "checkpoints" / stage

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the run; None where there is none.

        Raises:
            RunFolderError: the file is no JSON object.
        """
        file = self.path / name
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunFolderError(f"{file} is no JSON ({error}). Move it away to start the run anew.") from error
        if not isinstance(content, dict):
            raise RunFolderError(f"{file} should hold a JSON object, not a {type(content).__name__}.")
        return cast("dict[str, Any]", content)

    def write(self, name: str, content: Mapping[str, object]) -> Path:
        """Write a JSON file whole: a reader sees the old one or the new one."""
        file = self.path / name
        draft = file.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
        draft.replace(file)
        return file


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
