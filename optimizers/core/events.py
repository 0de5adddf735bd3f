"""What a run does: frozen events, the bus that carries them, and what an observer is.

the engine -> EventBus.emit(event) -> the live view, trackers, result.json, report.html, observers of a user's own
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from optimizers.core.budget import BudgetState
from optimizers.core.records import Rollout
from optimizers.core.stages import NO_STAGE, Stage
from optimizers.core.usage import RunUsage, Work
from sgt_modules.saving.redaction import redact


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run as it is expected: runs of the program, samples of the generator, rows to train on."""

    name: str
    runs: float = 0.0
    samples: float = 0.0
    rows: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run in their order, if all of them are taken, and the least reward that counts as a success."""

    steps: Sequence[Step] = ()
    threshold: float = 1.0


class RolloutSource(Protocol):
    """Reads a run's rollouts, as the run's store does."""

    def iter_rollouts(
        self, scope: str | None = None, stage: str | None = None, run: str | None = None, *, judged_by: str = ""
    ) -> Iterator[Rollout]:
        """The rollouts of a run, the oldest first."""
        ...


Ending = Literal["finished", "failed", "stopped"]
"""How a session ends: with a result (also where a budget is used up), by an error, by Ctrl-C."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A session of a run begins its work. Everything that was passed in is checked.

    `id` is the run's own, the same in every session of its folder. `record` is the content of the folder's `run.json`,
    `about` names the program, its models and the metric. `spend` returns the budget's state at any time. A comparison
    and the controls have no folder, no plan and no spend.
    """

    id: str = ""
    folder: Path | None = None
    plan: Plan = field(default_factory=Plan)
    spend: Callable[[], BudgetState] | None = None
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])
    about: Mapping[str, object] = field(default_factory=dict[str, object])
    rollouts: RolloutSource | None = None


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """The run enters a phase of its method, such as `the warm start`. The last one says where a stopped run stands."""

    name: str


@dataclass(frozen=True, slots=True)
class WorkStarted:
    """Work of `total` units begins, such as `warm: sampling`. `work` is its number; two works may overlap.

    `stage` is the run's stage that it belongs to, with an empty name for other work, and `kind` what it does. With
    `is_limit` the total is the most that may come, so that nobody can say when the work ends.
    """

    work: int
    name: str
    total: int
    stage: Stage = NO_STAGE
    kind: Work = "acting"
    is_limit: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of a work are done; the total may have changed."""

    work: int
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class RolloutDone:
    """One more unit of a work is done: this rollout, new or from the store."""

    work: int
    rollout: Rollout


@dataclass(frozen=True, slots=True)
class WorkEnded:
    """A work ends, also where an error or a stop ends it early."""

    work: int


@dataclass(frozen=True, slots=True)
class LossLogged:
    """The loss of optimizer step `step` (from 1) of `steps`, in the training of `stage`."""

    stage: str
    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class StageScored:
    """A stage is scored on validation: its mean reward, and what the run has spent in all sessions until then.

    `values` are other figures by the names of their curves, such as `train/score`; None where there is none.
    `weights` is the folder of the stage's checkpoint, None where the stage has none.
    """

    stage: str
    score: float
    spent: RunUsage
    values: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])
    weights: Path | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence that a person should know. With `for_result` it is among the result's notes, else only shown."""

    text: str
    for_result: bool = True


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of a session, unless an observer fails on it. Only a `finished` one has a result.

    `selected` is the stage that is best on validation, `scores` the validation score of each stage, `verdict` what
    the run came to in words, `notes` all notes with the verdict. `stopped` says why the run ended early, and where.
    """

    ending: Ending
    stopped: str = ""
    selected: str = ""
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    verdict: str = ""
    notes: Sequence[str] = ()


Event = (
    RunStarted
    | PhaseStarted
    | WorkStarted
    | Progress
    | RolloutDone
    | WorkEnded
    | LossLogged
    | StageScored
    | Note
    | RunEnded
)


@runtime_checkable
class Observer(Protocol):
    """Gets every event of a run.

    The bus calls it for one event at a time, from the thread that the event comes from, and waits for it. An observer
    that raises gets no further event.
    """

    def on_event(self, event: Event) -> None:
        """Take an event."""
        ...


@contextmanager
def emit_ending(emit: Callable[[Ending], object]) -> Iterator[None]:
    """Calls `emit` at the end of the block with how it ended: `stopped` at Ctrl-C, `failed` at any other error."""
    ending: Ending = "failed"
    try:
        yield
        ending = "finished"
    except KeyboardInterrupt:
        ending = "stopped"
        raise
    finally:
        emit(ending)


class EventBus:
    """Hands each event to each observer, in the order of the observers, one event at a time. Safe from any thread.

    An observer that raises is dropped with one `Note`, and the run goes on.

    >>> class Printed:
    ...     def on_event(self, event: Event) -> None:
    ...         print(event)
    >>> bus = EventBus([Printed()])
    >>> with bus.work("a game", 2) as work:
    ...     work.move_to(2, 2)  # doctest: +ELLIPSIS
    WorkStarted(work=..., name='a game', total=2, ...)
    Progress(work=..., done=2, total=2)
    WorkEnded(work=...)
    """

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = list(observers)
        self._lock = threading.RLock()
        self._waiting: deque[Event] = deque()
        self._is_emitting = False

    def emit(self, event: Event) -> None:
        """Hand the event to each observer; return when all of them have taken it.

        What an observer or a signal's handler emits meanwhile, in the same thread, comes after this event.
        """
        with self._lock:
            self._waiting.append(event)
            if self._is_emitting:
                return
            self._is_emitting = True
            try:
                while self._waiting:
                    self._hand_out(self._waiting.popleft())
            finally:
                self._is_emitting = False

    def _hand_out(self, event: Event) -> None:
        for observer in tuple(self._observers):
            try:
                observer.on_event(event)
            except Exception as problem:  # noqa: BLE001 - an observer that fails is no reason to lose a paid run
                self._drop(observer, problem)

    def say(self, text: str) -> None:
        """Show one line that is not kept for the result."""
        self.emit(Note(text, for_result=False))

    @contextmanager
    def run(self) -> Iterator[None]:
        """Marks begin and end of several works that are no compile, such as a comparison."""
        self.emit(RunStarted())
        with emit_ending(lambda ending: self.emit(RunEnded(ending))):
            yield

    @contextmanager
    def work(
        self, name: str | Stage, total: int, kind: Work = "acting", *, label: str = "", is_limit: bool = False
    ) -> Iterator[WorkCounter]:
        """Marks begin and end of a work of `total` units: of a stage of the run, or of any name.

        A stage's work is named by the stage and its split, such as `sft: val`, or by the stage with a `label` behind it
        and the kind of work, such as `warm: sampling`.
        """
        stage = name if isinstance(name, Stage) else NO_STAGE
        if isinstance(name, Stage):
            name = f"{stage.on('')}{label}: {stage.split or kind}"
        work = WorkCounter(self, total)
        self.emit(WorkStarted(work.number, name, total, stage, kind, is_limit))
        try:
            yield work
        finally:
            self.emit(WorkEnded(work.number))

    def _drop(self, observer: Observer, problem: Exception) -> None:
        self._observers = [each for each in self._observers if each is not observer]
        name = str(getattr(observer, "name", type(observer).__name__))
        reason = redact(f"{type(problem).__name__}: {problem}")
        advice = "".join(f" {each}" for each in getattr(problem, "__notes__", ()))
        self.emit(Note(f"{name} gets no more events of this run ({reason}). The run itself goes on.{advice}"))


_NUMBERS = itertools.count(1)


class WorkCounter:
    """Counts the units of a work and emits each step forward. Safe from any thread."""

    def __init__(self, bus: EventBus, total: int) -> None:
        self.number = next(_NUMBERS)
        self._bus, self._done, self._total = bus, 0, total
        self._lock = threading.Lock()

    def advance(self, rollout: Rollout | None = None) -> None:
        """Count one more unit; a rollout among them counts towards the success rate."""
        with self._lock:
            self._done += 1
            if rollout is None:
                self._bus.emit(Progress(self.number, self._done, self._total))
            else:
                self._bus.emit(RolloutDone(self.number, rollout))

    def move_to(self, done: int, total: int) -> None:
        """Set how many units are done, and of how many."""
        with self._lock:
            self._done, self._total = done, total
            self._bus.emit(Progress(self.number, done, total))

    def expect(self, total: int) -> None:
        """Set how many units there are after all."""
        with self._lock:
            self._total = total
            self._bus.emit(Progress(self.number, self._done, total))
