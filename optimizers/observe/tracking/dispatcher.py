"""A run's events to a tracker, in a thread of the tracker's own, so that none can slow a run down or end it.

EventBus -> TrackerObserver -> its queue -> its thread -> MLflow, W&B, TensorBoard
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from optimizers.core.concurrency import in_context
from optimizers.core.events import Ending, Event, LossLogged, Observer, RunEnded, RunStarted, StageScored
from optimizers.core.run_folder import RESULT
from optimizers.observe.tracking.params import run_parameters, stage_points
from optimizers.observe.tracking.report_to import ReportTo, check_report_to, open_tracker
from optimizers.observe.tracking.tracker import Point, TrackedRun, Tracker
from optimizers.observe.tracking.trackers_file import TrackersFile
from sgt_modules.saving.redaction import redact
from sgt_modules.saving.weights import ADAPTER

FILES = (RESULT, "report.html", "summary.json", "prompts.json")
"""Files of a run's folder that its trackers get, those that are there."""

CLOSING_SECONDS = 60.0
"""Seconds without a sign of life after which the end of a run does not wait for a tracker any longer."""

ADVICE = "Compile with the same log_dir to send the stages that are missing."


def build_trackers(report_to: ReportTo) -> list[Observer]:
    """The observers that `report_to` names: one for each tracker, and a user's own as they are.

    Called where the user's own run of a tracker is under way, if there is one.
    """
    wanted, file = check_report_to(report_to), TrackersFile()
    observers: list[Observer] = [
        each if isinstance(each, Observer) else TrackerObserver(open_tracker(each), file) for each in wanted
    ]
    return [file, *observers] if any(isinstance(each, TrackerObserver) for each in observers) else observers


class _Stage(NamedTuple):
    """A finished stage: its name, its points, and the folder of its adapter."""

    name: str
    number: int
    points: Sequence[Point]
    weights: Path | None


class _Label(NamedTuple):
    name: str
    text: str


class _File(NamedTuple):
    path: Path


class _End(NamedTuple):
    ending: Ending


_Item = Point | _Stage | _Label | _File | _End


class TrackerObserver:
    """Sends a run to one tracker. Begins the tracker's own run with the first thing that there is to send.

    What the tracker raises in its thread is raised at the next event, so that the bus drops this observer with a note.
    """

    def __init__(self, tracker: Tracker, file: TrackersFile) -> None:
        self.name = tracker.name
        self._tracker, self._file = tracker, file
        self._run: TrackedRun | None = None
        self._queue = SimpleQueue[_Item]()
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None
        self._number, self._sent = 0, 0

    def on_event(self, event: Event) -> None:
        """Put what the tracker is to get into its queue; at the run's end, wait until it has all of it."""
        if self._problem is not None:
            raise self._problem
        match event:
            case RunStarted(folder=folder) if folder is not None:
                self._run = TrackedRun(event.id, folder, run_parameters(event.record, event.about))
            case StageScored():
                self._put_stage(event)
            case LossLogged(stage, step, _, loss):
                self._put(Point(self._file.curve(stage), loss, step))
            case RunEnded():
                self._finish(event)
            case _:
                pass

    def _put_stage(self, event: StageScored) -> None:
        """A stage in its turn, with its weights where they are LoRA adapters."""
        adapter = event.weights if event.weights is not None and (event.weights / ADAPTER).is_file() else None
        points = stage_points(self._number, {"val/score": event.score, **event.values}, event.spent)
        self._put(_Stage(event.stage, self._number, points, adapter))
        self._number += 1

    def _finish(self, event: RunEnded) -> None:
        """What the run came to, and the folder's files, where there is a result; then the end."""
        if event.ending == "finished" and self._run is not None:
            labels = {"selected": event.selected, **({"stopped": event.stopped} if event.stopped else {})}
            for name, text in labels.items():
                self._put(_Label(name, redact(text)))
            for path in (self._run.folder / name for name in FILES):
                if path.is_file():
                    self._put(_File(path))
        if self._thread is not None:
            self._put(_End(event.ending))
            self._wait(self._thread, CLOSING_SECONDS)

    def _put(self, item: _Item) -> None:
        """Put an item into the queue; the first one starts the thread."""
        if self._run is None:
            return
        self._queue.put(item)
        if self._thread is None:
            run = self._run
            self._thread = in_context(lambda: self._work(run), f"sgt-{self.name}")
            self._thread.start()

    def _wait(self, thread: threading.Thread, patience: float) -> None:
        """Return once all is sent; raise where the tracker failed, or has taken nothing for so many seconds."""
        sent = -1
        while thread.is_alive() and sent != self._sent:
            sent = self._sent
            thread.join(patience)
        if thread.is_alive():
            problem = TimeoutError(f"{self.name} has not taken all of this run, and nothing for {patience:g} s")
            problem.add_note(ADVICE)
            raise problem
        if self._problem is not None:
            raise self._problem

    def _work(self, run: TrackedRun) -> None:
        try:
            own = self._tracker.begin(replace(run, known=self._file.run_of(self.name)))
            self._file.begin(self.name, own)
            while True:
                for item in _batches(self._queue):
                    self._send(item)
                    self._sent += 1
                    if isinstance(item, _End):
                        return
        except Exception as problem:  # noqa: BLE001 - raised again in the run's own thread, where the bus catches it
            problem.add_note(ADVICE)
            self._problem = problem

    def _send(self, item: _Stage | _Label | _File | _End | list[Point]) -> None:
        match item:
            case _Stage():
                self._send_stage(item)
            case _Label(name, text):
                self._tracker.label(name, text)
            case _File(path):
                self._tracker.file(path, "")
            case _End(ending):
                self._tracker.end(ending)
            case _:
                self._tracker.points(item)

    def _send_stage(self, stage: _Stage) -> None:
        if stage.name in self._file.stages_of(self.name):
            return
        self._tracker.points(stage.points)
        self._tracker.label(f"stage.{stage.number}", stage.name)
        if stage.weights is not None:
            self._tracker.file(stage.weights, f"checkpoints/{stage.name}")
        self._file.add_stage(self.name, stage.name)


def _batches(queue: SimpleQueue[_Item]) -> Iterator[_Stage | _Label | _File | _End | list[Point]]:
    """What waits in the queue, at least one item; points that follow each other come as one."""
    waiting = [queue.get()]
    while True:
        try:
            waiting.append(queue.get_nowait())
        except Empty:
            break
    points: list[Point] = []
    for each in waiting:
        if isinstance(each, Point):
            points.append(each)
            continue
        if points:
            yield points
            points = []
        yield each
    if points:
        yield points
