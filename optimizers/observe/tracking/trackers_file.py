"""`trackers.json` in a run's folder: the trackers' own runs, the stages that each has, and how often training began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from optimizers.core.events import Event, LossLogged, RunStarted
from optimizers.core.run_folder import RunFolder
from sgt_modules.errors import RunFolderError

TRACKERS_FILE = "trackers.json"


class TrackersFile:
    """Observes how often the training of each stage begins, and keeps that and what each tracker has.

    It stands before the trackers among the observers of a run.
    """

    name = TRACKERS_FILE

    def __init__(self) -> None:
        self._folder: RunFolder | None = None
        self._runs: dict[str, Any] = {}
        self._attempts: dict[str, Any] = {}
        self._curves: dict[str, str] = {}

    def on_event(self, event: Event) -> None:
        """Read the file at the run's start; count an attempt at a stage's first step in this session."""
        match event:
            case RunStarted(folder=folder) if folder is not None:
                self._open(RunFolder(folder))
            case LossLogged(stage, step) if step == 1 or stage not in self._curves:
                self._count_attempt(stage)
            case _:
                pass

    def curve(self, stage: str) -> str:
        """The name of the stage's curve of losses. Training that begins once more has its own: `dpo1/loss_2`."""
        return self._curves.get(stage, f"{stage}/loss")

    def run_of(self, tracker: str) -> str | None:
        """The tracker's own run, where it has one already."""
        run = _mapping(self._runs.get(tracker)).get("run")
        return run if isinstance(run, str) else None

    def stages_of(self, tracker: str) -> tuple[str, ...]:
        """The stages that the tracker has."""
        return tuple(_mapping(self._runs.get(tracker)).get("stages", ()))

    def begin(self, tracker: str, run: str) -> None:
        """Keep the tracker's own run; one that is another than before has no stages yet."""
        if self.run_of(tracker) != run:
            self._runs[tracker] = {"run": run, "stages": []}
            self._write()

    def add_stage(self, tracker: str, stage: str) -> None:
        """Keep that the tracker has the stage."""
        self._runs[tracker] = {**self._runs[tracker], "stages": [*self.stages_of(tracker), stage]}
        self._write()

    def _open(self, folder: RunFolder) -> None:
        try:
            content = folder.read(TRACKERS_FILE) or {}
        except RunFolderError:
            content = {}
        self._folder = folder
        self._runs, self._attempts = _mapping(content.get("trackers")), _mapping(content.get("attempts"))

    def _count_attempt(self, stage: str) -> None:
        before = self._attempts.get(stage, 0)
        attempt = (before if isinstance(before, int) else 0) + 1
        self._attempts[stage] = attempt
        self._curves[stage] = f"{stage}/loss" if attempt == 1 else f"{stage}/loss_{attempt}"
        self._write()

    def _write(self) -> None:
        if self._folder is not None:
            self._folder.write(TRACKERS_FILE, {"trackers": self._runs, "attempts": self._attempts})


def _mapping(value: object) -> dict[str, Any]:
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}
