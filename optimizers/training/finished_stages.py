"""The finished stages of a run's folder, so that a run that continues there trains none of them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from optimizers.core.peak_memory import Peak
from optimizers.core.records import Checkpoint, PreferencePair, ScoredSample, SFTExample
from optimizers.core.run_folder import RunFolder
from optimizers.training.provenance import hash_files
from sgt_modules.errors import SGTError
from sgt_modules.saving.weights import fingerprint_of

STAGES_FILE = "stages.json"


class FinishedStages:
    """The trained stages of a folder: a hash of each stage's rows and start, its weights' fingerprint, its figures.

    `stages.json` holds one object a stage. A stage whose rows, start or weights changed counts as not finished.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._stages: dict[str, Any] = folder.read(STAGES_FILE) or {}

    def save_rows(self, stage: str, rows: Sequence[SFTExample | PreferencePair | ScoredSample]) -> None:
        """Write a stage's training rows to `training/<stage>.jsonl`, as TRL reads them, in one step."""
        lines = (json.dumps(asdict(row), ensure_ascii=False) for row in rows)
        self._folder.write_text(self._folder.rows(stage), "".join(f"{line}\n" for line in lines))

    def find_checkpoint(self, stage: str, start: Checkpoint | None) -> Checkpoint | None:
        """The stage's checkpoint, if it was trained from `start` on the rows that are saved now and is intact."""
        trained = self._stages.get(stage, {}).get("trained")
        path = self._folder.checkpoint(stage)
        if not isinstance(trained, Mapping) or trained.get("asked") != self._hash_inputs(stage, start):
            return None
        try:
            intact = fingerprint_of(path) == trained["fingerprint"] and hash_files(path) == trained["files"]
        except (OSError, SGTError):
            intact = False
        if not intact:
            return None
        return Checkpoint(stage, path, trained["fingerprint"], trained["metrics"], tuple(trained["notes"]))

    def keep_checkpoint(self, checkpoint: Checkpoint, start: Checkpoint | None) -> None:
        """Record that the stage is trained on the rows that are saved now."""
        trained = {
            "asked": self._hash_inputs(checkpoint.stage, start),
            "fingerprint": checkpoint.fingerprint,
            "files": hash_files(checkpoint.path) if checkpoint.path.is_dir() else {},
            "metrics": dict(checkpoint.metrics),
            "notes": list(checkpoint.notes),
        }
        self._stages[checkpoint.stage] = {"trained": trained}
        self._write()

    def keep_figures(
        self, stage: str, seconds: float, memory: Peak, spent: Mapping[str, Any]
    ) -> tuple[float, Peak, Mapping[str, Any]]:
        """Record a stage's seconds and memory, and the run's costs at its end, unless recorded before; return the
        recorded ones.
        """
        own = self._stages.setdefault(stage, {})
        if "seconds" not in own:
            own.update(seconds=seconds, memory=asdict(memory), spent=dict(spent))
            self._write()
        return own["seconds"], Peak(**own["memory"]), own.get("spent", spent)

    def _hash_inputs(self, stage: str, start: Checkpoint | None) -> str:
        digest = hashlib.sha256(self._folder.rows(stage).read_bytes())
        digest.update((start.fingerprint if start else "").encode())
        return digest.hexdigest()

    def _write(self) -> None:
        self._folder.write(STAGES_FILE, self._stages)
