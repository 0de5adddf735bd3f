"""A run's events to a tracker: each call is guarded, so that none can end a run.

EventBus -> TrackerObserver -> MLflow, W&B, TensorBoard
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import ParamSpec, TypeVar

from optimizers.core.events import Event, LossLogged, Observer, RunEnded, RunStarted, StageScored
from optimizers.core.interrupts import INTERRUPT, give_up_on_interrupt
from optimizers.core.run_folder import RESULT
from optimizers.observe.tracking.params import run_parameters, stage_points
from optimizers.observe.tracking.report_to import ReportTo, check_report_to, open_tracker
from optimizers.observe.tracking.tracker import Point, TrackedRun, Tracker
from optimizers.observe.tracking.trackers_file import TrackersFile
from sgt_modules.local.cancellation import WorkCancelled
from sgt_modules.saving.redaction import redact
from sgt_modules.saving.weights import ADAPTER

FILES = (RESULT, "report.html", "summary.json", "prompts.json")
"""Files of a run's folder that its trackers get, those that are there."""

CALL_SECONDS = 60.0
"""Seconds of one call, from which on a tracker gets nothing more of the run."""

INTERVAL = 5.0
"""Seconds between two sendings of losses, at least: a request a step would slow a small model's training down."""

ADVICE = "Compile with the same log_dir to send the stages that are missing."

P = ParamSpec("P")
T = TypeVar("T")


def build_trackers(report_to: ReportTo) -> list[Observer]:
    """The observers that `report_to` names: one for each tracker, and a user's own as they are.

    Called where the user's own run of a tracker is under way, if there is one.
    """
    wanted, file = check_report_to(report_to), TrackersFile()
    observers: list[Observer] = [
        each if isinstance(each, Observer) else TrackerObserver(open_tracker(each), file) for each in wanted
    ]
    return [file, *observers] if any(isinstance(each, TrackerObserver) for each in observers) else observers


class TrackerObserver:
    """Sends a run to one tracker. Begins the tracker's own run with the first thing that there is to send.

    Raises what the tracker raises, and `TimeoutError` for a call of more than `CALL_SECONDS` seconds and for one that
    Ctrl-C ended, so that the bus drops this observer with a note.
    """

    def __init__(self, tracker: Tracker, file: TrackersFile) -> None:
        self.name = tracker.name
        self._tracker, self._file = tracker, file
        self._run: TrackedRun | None = None
        self._has_begun = False
        self._losses: list[Point] = []
        self._number, self._sent = 0, time.monotonic()

    def on_event(self, event: Event) -> None:
        """Send what the tracker is to get; losses at most every `INTERVAL` seconds."""
        try:
            match event:
                case RunStarted(folder=folder) if folder is not None:
                    self._run = TrackedRun(event.id, folder, run_parameters(event.record, event.about))
                case LossLogged(stage, step, _, loss):
                    self._losses.append(Point(self._file.curve(stage), loss, step))
                    if self._run is not None and time.monotonic() - self._sent >= INTERVAL:
                        self._send_losses(self._run)
                case StageScored() if self._run is not None:
                    self._send_losses(self._run)
                    self._send_stage(event, self._run)
                case RunEnded() if self._run is not None:
                    self._send_losses(self._run)
                    self._finish(event, self._run)
                case _:
                    pass
        except Exception as problem:
            problem.add_note(ADVICE)
            raise

    def _send_losses(self, run: TrackedRun) -> None:
        if self._losses:
            self._begin(run)
            self._call(self._tracker.points, self._losses)
            self._losses, self._sent = [], time.monotonic()

    def _send_stage(self, event: StageScored, run: TrackedRun) -> None:
        """A stage that the tracker does not have, with its weights where they are LoRA adapters."""
        number, self._number = self._number, self._number + 1
        self._begin(run)
        if event.stage in self._file.stages_of(self.name):
            return
        self._call(self._tracker.points, stage_points(number, {"val/score": event.score, **event.values}, event.spent))
        self._call(self._tracker.label, f"stage.{number}", event.stage)
        if event.weights is not None and (event.weights / ADAPTER).is_file():
            self._call(self._tracker.file, event.weights, f"checkpoints/{event.stage}")
        self._file.add_stage(self.name, event.stage)

    def _finish(self, event: RunEnded, run: TrackedRun) -> None:
        """What the run came to, and the folder's files, where there is a result; then the end."""
        if event.ending == "finished":
            self._begin(run)
            self._call(self._tracker.label, "selected", redact(event.selected))
            if event.stopped:
                self._call(self._tracker.label, "stopped", redact(event.stopped))
            for path in (run.folder / name for name in FILES):
                if path.is_file():
                    self._call(self._tracker.file, path, "")
        if self._has_begun:
            self._call(self._tracker.end, event.ending)

    def _begin(self, run: TrackedRun) -> None:
        """Begin the tracker's own run, once a session."""
        if not self._has_begun:
            own = self._call(self._tracker.begin, replace(run, known=self._file.run_of(self.name)))
            self._file.begin(self.name, own)
            self._has_begun = True

    def _call(self, method: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a method of the tracker within its time."""
        began = time.monotonic()
        try:
            with give_up_on_interrupt():
                answer = method(*arguments, **named)
        except WorkCancelled:
            raise TimeoutError(f"{INTERRUPT} while it was sent something") from None
        if (seconds := time.monotonic() - began) > CALL_SECONDS:
            raise TimeoutError(f"one call took {seconds:.0f} s, more than the {CALL_SECONDS:g} s that a run waits")
        return answer
