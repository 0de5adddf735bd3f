"""A session of a run, whichever teleprompter's: its folder, store, budget and splits, and how it ends in good order."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import dspy

from optimizers.core.actors import describe_actors, read_programs
from optimizers.core.budget import Budget
from optimizers.core.clusters import find_clusters, number_splits
from optimizers.core.error_types import REFUSED, count_refused_scores
from optimizers.core.events import Event, EventBus, Note, PhaseStarted, RunEnded, RunStarted, emit_ending
from optimizers.core.evidence import Evidence
from optimizers.core.fingerprints import BORDER, Half, read_metric, split_scope, supplement_settings, warn_of_unread
from optimizers.core.interrupts import stop_on_interrupt
from optimizers.core.reward import Scorer
from optimizers.core.run_folder import CLUSTERS_FILE, RunFolder, changed_versions
from optimizers.core.usage import RunUsage, Usage
from optimizers.core.verdict import NOTE
from optimizers.core.work_clock import WorkClock
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator
from optimizers.rollouts.runners import open_runner
from optimizers.rollouts.several_actors import SeveralActors, lms_of, usage_of
from optimizers.store.rollout_store import open_run_store
from sgt_modules.errors import StoppedError
from sgt_modules.local.cancellation import WorkCancelled

if TYPE_CHECKING:
    from optimizers.run_options import Inputs, RunSettings

Cluster = Callable[[dspy.Example], Hashable | None]


class _Code(NamedTuple):
    """Fingerprints of the program, which answers, and of the metric, which scores."""

    program: Half
    metric: Half

    @classmethod
    def recorded(cls, run: Mapping[str, Any]) -> _Code | None:
        """As the last session of a folder wrote it into `run.json`; None where there was none."""
        found = (run.get("free") or {}).get("code")
        return cls(Half(str(found.get("program"))), Half(str(found.get("metric")))) if isinstance(found, dict) else None

    @property
    def scope(self) -> str:
        """Both as the store knows them."""
        return f"{self.program.mark}{BORDER}{self.metric.mark}"

    def record(self, version: str) -> dict[str, str]:
        """What `run.json` keeps."""
        return {"program": self.program.mark, "metric": self.metric.mark, "version": version}

    def notes(self, before: _Code | None, version: str) -> list[str]:
        """What a person should know: what could not be read, and what is another than in the last session."""
        found = [] if version else [warn_of_unread([*self.program.unread, *self.metric.unread])]
        if before is not None and before.program.mark != self.program.mark:
            found.append(
                "The program, its code or its LM is another than in this folder's last session, so its runs are paid "
                "for again. To go on without paying, restore it."
            )
        elif before is not None and before.metric.mark != self.metric.mark:
            found.append(
                "The metric is another than in this folder's last session. Answers that are kept are judged again, "
                "which pays for no call of the program."
            )
        return found


class _RunLog:
    """Observes the notes for the result, and the phase that the run is in."""

    def __init__(self) -> None:
        self.phase, self.notes = "", list[str]()

    def on_event(self, event: Event) -> None:
        """Keep the phase's name, or the note's text."""
        match event:
            case PhaseStarted(name):
                self.phase = name
            case Note(text, for_result=True):
                self.notes.append(text)
            case _:
                pass


class Session:
    """What a run works with until it ends. `stopped` says why the run ended early, and is empty otherwise."""

    def __init__(
        self,
        started: RunStarted,
        folder: RunFolder,
        train: Evaluator,
        validation: Evaluator,
        clock: WorkClock,
        log: _RunLog,
    ) -> None:
        self.id, self.folder, self.train, self.validation = started.id, folder, train, validation
        self.bus = train.bus
        self.actor, self.budget = train.actor, train.actor.budget
        self.clock = clock
        self.stopped = ""
        self._started = replace(started, spend=lambda: self.budget.state)
        self._log, self._is_running = log, False
        self.cluster: Cluster | None = None

    @classmethod
    @contextmanager
    def opened(cls, inputs: Inputs, settings: RunSettings, *, probing: bool = False) -> Iterator[Session]:
        """Open the runner, the folder and the store, and set up the actor; `probing`: views are the only observers.

        Inside, the first Ctrl-C ends the run in good order.

        Raises:
            RunFolderError: another run works in the folder, or it holds a run of other settings.
        """
        options, (student, program, *splits) = settings.options, inputs
        observers, log = options.build_observers(probing=probing), _RunLog()
        folder, bus = RunFolder.create(options.log_dir), EventBus([log, *observers])
        with ExitStack() as open_:
            runner = open_.enter_context(open_runner(options.runner))
            notes = [open_.enter_context(folder.lock())]
            actors = settings.actors
            read = read_programs(program, options.version, actors)
            code = _Code(read, read_metric(options.metric, options.version))
            before = _Code.recorded(folder.read("run.json") or {})
            own = supplement_settings(student)
            recorded = {**settings.must_match_on_resume(*splits), **({"student": own} if own else {})}
            known = folder.begin_or_resume(
                recorded, {**settings.may_change_on_resume, "code": code.record(options.version)}
            )
            notes += code.notes(before, options.version)
            if changed := changed_versions(known):
                notes.append(f"This run began with other packages: {'; '.join(changed)}.")
            if options.cluster is not None:
                numbers = number_splits(options.cluster, {"train": splits[0], "val": splits[1]})
                folder.write(CLUSTERS_FILE, {**(folder.read(CLUSTERS_FILE) or {}), **numbers})
            store = open_.enter_context(open_run_store(folder, options.store, run=known["id"]))
            notes += store.notes
            clock = WorkClock.of_run(folder)
            spent = sum(usage_of(store, actors).values(), store.spent())
            budget = Budget(options.limits, spent, clock.seconds.total)
            open_.enter_context(stop_on_interrupt(budget.stop, bus.say))
            about = describe_actors(student, options.metric, actors)
            store.describe(code.scope, about)
            actor = RolloutEngine(
                program,
                Scorer(options.metric),
                store,
                scope=code.scope,
                num_threads=options.num_threads,
                max_errors=options.max_errors,
                runner=runner,
                budget=budget,
                max_run_seconds=options.max_run_seconds,
                version=options.version,
            )
            if actors:
                actor = SeveralActors(actor, actors)
            train, validation = (
                Evaluator(actor, name, split, bus) for name, split in zip(("train", "val"), splits, strict=True)
            )
            plan = settings.planned(student, *map(len, splits))
            started = RunStarted(known["id"], folder.path, plan, record=known, about=about, rollouts=store)
            session = cls(started, folder, train, validation, clock, log)
            session.cluster = options.cluster
            store.on_write = session.clock.tick
            open_.callback(session.clock.write)
            for note in filter(None, notes):
                bus.emit(Note(note))
            end = emit_ending(lambda ending: session._end(RunEnded(ending, session.stopped)))
            with end, _abandoned_as_stopped():
                yield session

    def _end(self, event: RunEnded) -> None:
        """Emit the end of the run, unless it has ended already."""
        if self._is_running:
            self._is_running = False
            self.bus.emit(event)

    @contextmanager
    def within_budget(self, save: Callable[[], object]) -> Iterator[None]:
        """Emits `RunStarted`. Leaves the rest out where a budget is used up; at Ctrl-C, raises `KeyboardInterrupt`.

        `save` writes what only the run itself has, before the error; a second Ctrl-C does not wait for it.
        """
        self._is_running = True
        self.bus.emit(self._started)
        try:
            yield
        except KeyboardInterrupt:
            self.stopped = self._standing("it was interrupted", "")
            raise
        except (StoppedError, WorkCancelled) as stop:
            self.stopped = self._standing(str(stop), "" if self.budget.stop_reason else " and a larger budget")
            self._log.notes.append(self.stopped)
            save()
            if self.budget.stop_reason:
                raise KeyboardInterrupt(self.stopped) from None

    def _standing(self, why: str, more: str) -> str:
        """Where the run stands, and how to go on."""
        return f"Stopped in {self._log.phase}: {why}. Compile with log_dir={str(self.folder.path)!r}{more} to go on."

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know of the run so far."""
        return self._log.notes

    def evidence(self, *, selected: str, threshold: float) -> Evidence:
        """What the verdict needs to know of any run: how it ended, how the actor is set, and runs without a stage."""
        most = {_most_tokens(lm) for lm in lms_of(self.actor)}
        errors, met = self.actor.store.find_errors(f"{REFUSED}:")
        return Evidence(
            selected=selected,
            unaided=self.train.unaided,
            unfinished=list(self.actor.store.iter_rollouts(judged_by=split_scope(self.actor.scope)[1]))
            if self.stopped
            else [],
            threshold=threshold,
            clusters=None if self.cluster is None else find_clusters(self.cluster, self.validation.examples),
            stopped=self.stopped,
            adapter=type(dspy.settings.adapter or dspy.ChatAdapter()).__name__,
            max_tokens=frozenset(each for each in most if each),
            refused=count_refused_scores(errors),
            met=met,
        )

    def finish(self, selected: str, scores: Mapping[str, float], verdict: str) -> None:
        """End the run with its result: the selected stage, validation scores by stage, and the verdict."""
        if again := self.actor.rescored["runs"]:
            count = f"{again:,} answers were judged again by the changed metric"
            self.bus.emit(Note(f"{count}; none of them was paid for again."))
        self._log.notes.append(f"{NOTE}{verdict}")
        self._end(RunEnded("finished", self.stopped, selected, dict(scores), verdict, tuple(self._log.notes)))

    @property
    def usage(self) -> RunUsage:
        """Usage of all sessions in the folder.

        Calls, samples and tokens are those on disk; a killed session loses its last moment's seconds at most.
        """
        actor, (samples, tokens_in, tokens_out) = self.budget.usage, self.actor.store.count_samples()
        generator = Usage(0, samples, tokens_in, tokens_out)
        return RunUsage(actor, generator, seconds=self.clock.seconds)


@contextmanager
def _abandoned_as_stopped() -> Iterator[None]:
    """Turns `WorkCancelled`, which is no `Exception`, into `StoppedError`."""
    try:
        yield
    except WorkCancelled as reason:
        raise StoppedError(str(reason)) from None


def _most_tokens(lm: object) -> int | None:
    """The most tokens of an LM's answer, by its own setting or its engine's; None where neither is known."""
    own: Mapping[str, object] = getattr(lm, "kwargs", {})
    engine = getattr(getattr(lm, "engine", None), "max_new_tokens", None)
    found = own.get("max_tokens") or own.get("max_completion_tokens") or engine
    return found if isinstance(found, int) else None
