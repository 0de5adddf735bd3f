"""What a run's folder remembers of finished stages, so that a run that goes on trains none of them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from optimizers.core.memory import Peak
from optimizers.core.records import Checkpoint, PreferencePair, SFTExample
from optimizers.core.run_folder import RunFolder
from optimizers.training.faults import files_in
from sgt_modules.errors import SGTError
from sgt_modules.saving.weights import fingerprint_of

FILE = "stages.json"


class FinishedStages:
    """The trained stages of a folder: which rows each was trained on, its weights' fingerprint, and what was measured.

    `stages.json` holds an object a stage; a stage whose rows, start or weights are others now is not finished.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._known: dict[str, Any] = folder.read(FILE) or {}

    def save_rows(self, stage: str, rows: Sequence[SFTExample | PreferencePair]) -> None:
        """Write what the stage is trained on to `training/<stage>.jsonl`, as TRL reads it; all of it or nothing."""
        lines = (json.dumps(asdict(row), ensure_ascii=False) for row in rows)
        self._folder.write_text(self._folder.rows(stage), "".join(f"{line}\n" for line in lines))

    def checkpoint(self, stage: str, start: Checkpoint | None) -> Checkpoint | None:
        """The stage's weights, where it was trained on the rows that are saved now and from `start`, and is whole."""
        known = self._known.get(stage, {}).get("trained")
        path = self._folder.checkpoint(stage)
        if not isinstance(known, Mapping) or known.get("asked") != self._asked(stage, start):
            return None
        try:
            whole = fingerprint_of(path) == known["fingerprint"] and files_in(path) == known["files"]
        except (OSError, SGTError):
            whole = False
        if not whole:
            return None
        return Checkpoint(stage, path, known["fingerprint"], known["metrics"], tuple(known["notes"]))

    def keep_checkpoint(self, checkpoint: Checkpoint, start: Checkpoint | None) -> None:
        """Remember that the stage is trained, on the rows that are saved now."""
        trained = {
            "asked": self._asked(checkpoint.stage, start),
            "fingerprint": checkpoint.fingerprint,
            "files": files_in(checkpoint.path) if checkpoint.path.is_dir() else {},
            "metrics": dict(checkpoint.metrics),
            "notes": list(checkpoint.notes),
        }
        self._known[checkpoint.stage] = {"trained": trained}
        self._write()

    def measured(
        self, stage: str, seconds: float, memory: Peak, spent: Mapping[str, Any]
    ) -> tuple[float, Peak, Mapping[str, Any]]:
        """What the stage took, and what the run had spent by its end: as is remembered, else this, from now on."""
        own = self._known.setdefault(stage, {})
        if "seconds" not in own:
            own.update(seconds=seconds, memory=asdict(memory), spent=dict(spent))
            self._write()
        return own["seconds"], Peak(**own["memory"]), own.get("spent", spent)

    def _asked(self, stage: str, start: Checkpoint | None) -> str:
        digest = hashlib.sha256(self._folder.rows(stage).read_bytes())
        digest.update((start.fingerprint if start else "").encode())
        return digest.hexdigest()

    def _write(self) -> None:
        self._folder.write(FILE, self._known)
