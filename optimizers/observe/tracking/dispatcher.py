"""A run told to its trackers, each in a thread of its own: none of them can slow a run down or end it.

    Run -> Tracking -> a queue a tracker -> its thread -> MLflow, W&B, TensorBoard

`trackers.json` in the run's folder remembers the trackers' own runs, which stages they know, and how often the
training of a stage began.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, cast

from optimizers.core.concurrency import in_context
from optimizers.core.run_folder import RunFolder
from optimizers.core.usage import RunUsage
from optimizers.observe.tracking.naming import TrackerName, tracker
from optimizers.observe.tracking.params import parameters, stage_points
from optimizers.observe.tracking.tracker import Ending, Point, TrackedRun, Tracker
from sgt_modules.errors import RunFolderError
from sgt_modules.saving.redaction import redact
from sgt_modules.saving.weights import ADAPTER

FILE = "trackers.json"

PATIENCE = 60.0
"""Seconds without a sign of life after which the end of a run does not wait for a tracker any longer."""


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


_Told = Point | _Stage | _Label | _File | _End


class Tracking:
    """What a run says to its trackers. Made by `Tracking.opened`; nothing is begun before there is something to say."""

    def __init__(
        self, trackers: Sequence[Tracker], run: TrackedRun, folder: RunFolder, note: Callable[[str], object]
    ) -> None:
        memory = _Memory(folder)
        self._memory, self._folder = memory, folder
        self._lines = [_Line(each, run, memory, note) for each in trackers]
        self._attempt: dict[str, str] = {}
        self._number = 0

    @classmethod
    def of_none(cls, folder: RunFolder) -> Tracking:
        """A run that nobody is told of."""
        return cls([], TrackedRun("", folder.path, {}), folder, str)

    @classmethod
    @contextmanager
    def opened(
        cls,
        report_to: Sequence[TrackerName | Tracker],
        folder: RunFolder,
        known: Mapping[str, Any],
        about: Mapping[str, object],
        *,
        note: Callable[[str], object],
    ) -> Iterator[Tracking]:
        """Inside, the trackers hear of the run in this folder, whose `run.json` is `known`.

        `note` is told once of a tracker that fails.
        """
        run = TrackedRun(known["id"], folder.path, parameters(known, about) if report_to else {})
        tracking = cls([tracker(each) for each in report_to], run, folder, note)
        ending: Ending = "failed"
        try:
            yield tracking
            ending = "finished"
        except KeyboardInterrupt:
            ending = "stopped"
            raise
        finally:
            tracking.end(ending)

    def stage(
        self, name: str, values: Mapping[str, float | None], spent: RunUsage, *, weights: Path | None = None
    ) -> None:
        """A finished stage, by its name and in its turn; LoRA adapters among the weights are handed over too."""
        adapter = weights if weights is not None and (weights / ADAPTER).is_file() else None
        self._tell(_Stage(name, self._number, stage_points(self._number, values, spent), adapter))
        self._number += 1

    def loss(self, stage: str, step: int, loss: float) -> None:
        """The loss of an optimizer step. Training that begins anew is a curve of its own: `dpo1/loss_2`."""
        if not self._lines:
            return
        if step == 1 or stage not in self._attempt:
            attempt = self._memory.attempt(stage)
            self._attempt[stage] = f"{stage}/loss" if attempt == 1 else f"{stage}/loss_{attempt}"
        self._tell(Point(self._attempt[stage], loss, step))

    def finish(self, labels: Mapping[str, str], files: Sequence[str]) -> None:
        """What the run came to, and those of the folder's files that are there. Waits until all is told."""
        for name, text in labels.items():
            self._tell(_Label(name, redact(text)))
        for name in files:
            if (self._folder.path / name).is_file():
                self._tell(_File(self._folder.path / name))
        self.end("finished")

    def end(self, ending: Ending) -> None:
        """The session is over. What is said after that is not heard."""
        lines, self._lines = self._lines, []
        for line in lines:
            line.hang_up(ending)
        for line in lines:
            line.wait(PATIENCE)

    def _tell(self, told: _Told) -> None:
        for line in self._lines:
            line.tell(told)


class _Line:
    """One tracker, what it has yet to hear, and the thread in which it hears it."""

    def __init__(self, listener: Tracker, run: TrackedRun, memory: _Memory, note: Callable[[str], object]) -> None:
        self._tracker, self._run, self._memory, self._note = listener, run, memory, note
        self._queue = SimpleQueue[_Told]()
        self._thread: threading.Thread | None = None
        self._gone = False
        self._heard = 0

    def tell(self, told: _Told) -> None:
        """Put something in the queue; the first thing starts the thread."""
        if self._gone:
            return
        if self._thread is None:
            self._thread = in_context(self._listen, f"sgt-{self._tracker.name}")
            self._thread.start()
        self._queue.put(told)

    def hang_up(self, ending: Ending) -> None:
        """End a session of which something was said."""
        if self._thread is not None:
            self.tell(_End(ending))

    def wait(self, patience: float) -> None:
        """Return once all was heard, or when nothing has been for so many seconds."""
        heard = -1
        while self._thread is not None and self._thread.is_alive() and heard != self._heard:
            heard = self._heard
            self._thread.join(patience)
        if self._thread is not None and self._thread.is_alive():
            self._note(
                f"{self._tracker.name} has not taken all of this run, and nothing for {patience:g} s. The run is whole "
                "in its folder; compile with the same log_dir to tell the stages that are missing."
            )

    def _listen(self) -> None:
        try:
            known = self._memory.run(self._tracker.name)
            begun = self._tracker.begin(replace(self._run, known=known))
            self._memory.begun(self._tracker.name, begun)
            while True:
                for told in _together(self._queue):
                    self._hear(told)
                    self._heard += 1
                    if isinstance(told, _End):
                        return
        except Exception as problem:  # noqa: BLE001 - a tracker that fails is no reason to lose a paid run
            self._gone = True
            self._note(
                f"{self._tracker.name} hears no more of this run ({redact(f'{type(problem).__name__}: {problem}')}). "
                "The run itself goes on; compile with the same log_dir to tell the stages that are missing."
            )

    def _hear(self, told: _Stage | _Label | _File | _End | list[Point]) -> None:
        match told:
            case _Stage():
                self._hear_stage(told)
            case _Label(name, text):
                self._tracker.label(name, text)
            case _File(path):
                self._tracker.file(path, "")
            case _End(ending):
                self._tracker.end(ending)
            case _:
                self._tracker.points(told)

    def _hear_stage(self, stage: _Stage) -> None:
        if self._memory.knows(self._tracker.name, stage.name):
            return
        self._tracker.points(stage.points)
        self._tracker.label(f"stage.{stage.number}", stage.name)
        if stage.weights is not None:
            self._tracker.file(stage.weights, f"checkpoints/{stage.name}")
        self._memory.keep(self._tracker.name, stage.name)


def _together(queue: SimpleQueue[_Told]) -> Iterator[_Stage | _Label | _File | _End | list[Point]]:
    """What waits in the queue, at least one thing; points that follow each other come as one."""
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


class _Memory:
    """`trackers.json`: the trackers' runs and the stages they know, and how often a stage's training began."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._lock = folder, threading.Lock()
        try:
            known = folder.read(FILE) or {}
        except RunFolderError:
            known = {}
        self._runs: dict[str, Any] = _mapping(known.get("trackers"))
        self._attempts: dict[str, Any] = _mapping(known.get("attempts"))

    def run(self, name: str) -> str | None:
        """The tracker's run, where it has one already."""
        known = _mapping(self._runs.get(name)).get("run")
        return known if isinstance(known, str) else None

    def begun(self, name: str, run: str) -> None:
        """Remember a tracker's run; one that is another than before knows nothing yet."""
        with self._lock:
            if self.run(name) != run:
                self._runs[name] = {"run": run, "stages": []}
                self._write()

    def knows(self, name: str, stage: str) -> bool:
        """Whether the tracker was told of the stage."""
        return stage in _mapping(self._runs.get(name)).get("stages", ())

    def keep(self, name: str, stage: str) -> None:
        """Remember that the tracker was told of the stage."""
        with self._lock:
            self._runs[name] = {**self._runs[name], "stages": [*self._runs[name].get("stages", ()), stage]}
            self._write()

    def attempt(self, stage: str) -> int:
        """How often the training of the stage has begun, with this time."""
        with self._lock:
            before = self._attempts.get(stage, 0)
            self._attempts[stage] = (before if isinstance(before, int) else 0) + 1
            self._write()
            return self._attempts[stage]

    def _write(self) -> None:
        self._folder.write(FILE, {"trackers": self._runs, "attempts": self._attempts})


def _mapping(value: object) -> dict[str, Any]:
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}
