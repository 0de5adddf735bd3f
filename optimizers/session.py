"""A session of a run, whichever teleprompter's: its folder, store, budget and splits, and how it ends in good order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import dspy

from optimizers.core.budget import Budget, Limits
from optimizers.core.error_types import REFUSED, count_refused_scores
from optimizers.core.events import Plan, Reporter
from optimizers.core.evidence import Evidence
from optimizers.core.fingerprints import (
    BORDER,
    Half,
    describe_scope,
    read_metric,
    read_program,
    split_scope,
    supplement_settings,
    warn_of_unread,
)
from optimizers.core.interrupts import stop_on_interrupt
from optimizers.core.reward import Metric, Scorer, check_metric
from optimizers.core.run_folder import RESULT, RunFolder, changed_versions
from optimizers.core.usage import RunUsage, Usage
from optimizers.core.validation import check_priced, check_program, check_splits, hold_out
from optimizers.core.verdict import NOTE
from optimizers.core.work_clock import WorkClock
from optimizers.observe.report import FILE as REPORT
from optimizers.observe.report import write_report
from optimizers.observe.tracking import Tracker, TrackerName, Tracking
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator
from optimizers.rollouts.runners import Runner
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.errors import StoppedError
from sgt_modules.local.activity import Abandoned

Examples = Sequence[dspy.Example]

TOLD = (RESULT, REPORT, "summary.json", "prompts.json")
"""Files of a run's folder that its trackers get, those that are there."""


class SessionSettings(Protocol):
    """What a session needs to know of its teleprompter's settings."""

    @property
    def metric(self) -> Callable[..., object]:
        """Any DSPy metric."""
        ...

    @property
    def num_threads(self) -> int | None:
        """Program runs at once."""
        ...

    @property
    def max_errors(self) -> int:
        """Runs in a row without a reward after which everything stops."""
        ...

    @property
    def seed(self) -> int:
        """Seeds every choice."""
        ...

    @property
    def log_dir(self) -> Path | None:
        """The run's folder."""
        ...

    @property
    def limits(self) -> Limits:
        """What may be spent."""
        ...

    @property
    def store(self) -> str | Path | None:
        """Where rollouts are kept, if not in the folder."""
        ...

    @property
    def max_run_seconds(self) -> float | None:
        """How long one run of the program may take."""
        ...

    @property
    def report_to(self) -> Sequence[TrackerName | Tracker]:
        """Who is told of the run."""
        ...

    @property
    def version(self) -> str:
        """The user's word for code that cannot be read."""
        ...

    @property
    def free(self) -> Mapping[str, object]:
        """What `run.json` remembers, and may be another when a folder is taken up again."""
        ...

    def recorded(self, trainset: Examples, valset: Examples) -> Mapping[str, object]:
        """What `run.json` remembers, and a folder is taken up again by."""
        ...

    def planned(self, student: dspy.Module, train: int, validation: int) -> Plan:
        """The steps of a run on so many examples, as they are expected."""
        ...


class _Code(NamedTuple):
    """What answers and what judges in a run."""

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


def checked(
    student: dspy.Module,
    trainset: Examples,
    valset: Examples | None,
    *,
    settings: SessionSettings,
    runner: Runner,
) -> tuple[Examples, Examples]:
    """The two splits, with a seeded part of the training set held out where no validation set is given.

    Raises `SetupError` where splits, program or metric cannot work; nothing has been paid for.
    """
    if valset is None:
        trainset, valset = hold_out(trainset, rng=random.Random(f"{settings.seed}-validation"))
    check_splits(trainset, valset)
    check_program(student, trainset)
    runner.check(student, Scorer(settings.metric), [*trainset, *valset])
    check_judged(student, settings.metric, trainset[0])
    if settings.limits.cost_usd is not None:
        check_priced(student)
    return trainset, valset


def check_judged(program: dspy.Module, metric: Metric, example: dspy.Example) -> None:
    """Try the metric once on what the program may return; raises `MetricError` when it would not do."""
    own_forward = not type(program).__module__.startswith("dspy.")
    check_metric(metric, example, output_fields(program), more_fields=own_forward)


def sizes(trainset: Examples, valset: Examples | None) -> tuple[int, int]:
    """How many examples there are to learn from and to select on."""
    if valset is None:
        trainset, valset = hold_out(trainset, rng=random.Random(0))
    return len(trainset), len(valset)


class Session:
    """What a run works with until it ends. `doing` says at what it is; `stopped` why it ended before its end, if so."""

    def __init__(
        self, id_: str, folder: RunFolder, train: Evaluator, validation: Evaluator, clock: WorkClock, plan: Plan
    ) -> None:
        self.id, self.folder, self.train, self.validation, self._plan = id_, folder, train, validation, plan
        self.reporter = train.reporter
        self.actor, self.budget = train.actor, train.actor.budget
        self.clock = clock
        self.doing, self.stopped = "", ""
        self.notes: list[str] = []
        self.tracking = Tracking.of_none(folder)

    @classmethod
    @contextmanager
    def opened(
        cls,
        student: dspy.Module,
        program: dspy.Module,
        splits: tuple[Examples, Examples],
        *,
        settings: SessionSettings,
        reporter: Reporter,
        runner: Runner,
    ) -> Iterator[Session]:
        """Take the folder, open the store, and set up the actor of `program`, which was made of the student.

        Inside, the first Ctrl-C ends the run in good order.

        Raises:
            RunFolderError: another run works in the folder, or it holds a run of other settings.
        """
        folder = RunFolder.create(settings.log_dir)
        with ExitStack() as open_:
            notes = [open_.enter_context(folder.lock())]
            code = _Code(read_program(program, settings.version), read_metric(settings.metric, settings.version))
            before = _Code.recorded(folder.read("run.json") or {})
            own = supplement_settings(student)
            recorded = {**settings.recorded(*splits), **({"student": own} if own else {})}
            known = folder.begin_or_resume(recorded, {**settings.free, "code": code.record(settings.version)})
            notes += code.notes(before, settings.version)
            if changed := changed_versions(known):
                notes.append(f"This run began with other packages: {'; '.join(changed)}.")
            store = open_.enter_context(_store(settings, folder, run=known["id"]))
            notes += store.notes
            clock = WorkClock.of_run(folder)
            budget = Budget(settings.limits, store.spent(), clock.seconds.total)
            open_.enter_context(stop_on_interrupt(budget.stop, reporter.say))
            about = describe_scope(student, settings.metric)
            store.describe(code.scope, about)
            actor = RolloutEngine(
                program,
                Scorer(settings.metric),
                store,
                scope=code.scope,
                num_threads=settings.num_threads,
                max_errors=settings.max_errors,
                runner=runner,
                budget=budget,
                max_run_seconds=settings.max_run_seconds,
                version=settings.version,
            )
            train, validation = (
                Evaluator(actor, name, split, reporter) for name, split in zip(("train", "val"), splits, strict=True)
            )
            plan = settings.planned(student, *map(len, splits))
            session = cls(known["id"], folder, train, validation, clock, plan)
            store.on_write = session.clock.tick
            open_.callback(session.clock.write)
            for note in filter(None, notes):
                session.note(note)
            tracking = Tracking.opened(settings.report_to, folder, known, about, note=session.note)
            session.tracking = open_.enter_context(tracking)
            try:
                yield session
            except Abandoned as reason:
                raise StoppedError(str(reason)) from None

    @contextmanager
    def within_budget(self, save: Callable[[], object]) -> Iterator[None]:
        """Where a budget is used up inside, the rest is left out; at Ctrl-C, `KeyboardInterrupt` once all is saved.

        `save` writes what only the run itself knows. At a second Ctrl-C it is said where the run stands, no more.
        """
        try:
            with self.reporter.run(self._plan, lambda: self.budget.state):
                yield
        except KeyboardInterrupt:
            self.reporter.say(self._standing("it was interrupted", ""))
            raise
        except (StoppedError, Abandoned) as stop:
            self.stopped = self._standing(str(stop), "" if self.budget.stop_reason else " and a larger budget")
            self.note(self.stopped)
            save()
            if self.budget.stop_reason:
                raise KeyboardInterrupt(self.stopped) from None

    def _standing(self, why: str, more: str) -> str:
        """Where the run stands, and how to go on."""
        return f"Stopped in {self.doing}: {why}. Compile with log_dir={str(self.folder.path)!r}{more} to go on."

    def note(self, text: str) -> None:
        """Say something that a person should know, and keep it for the result."""
        self.notes.append(text)
        self.reporter.say(text)

    def evidence(self, *, selected: str, threshold: float) -> Evidence:
        """What the verdict needs to know of any run: how it ended, how the actor is set, and runs without a stage."""
        program = self.actor.program
        lms = [each.lm or dspy.settings.lm for each in program.predictors()]
        most = {_most_tokens(lm) for lm in lms}
        errors, met = self.actor.store.find_errors(f"{REFUSED}:")
        return Evidence(
            selected=selected,
            unaided=self.train.unaided,
            unfinished=list(self.actor.store.iter_rollouts(judged_by=split_scope(self.actor.scope)[1]))
            if self.stopped
            else [],
            threshold=threshold,
            stopped=self.stopped,
            adapter=type(dspy.settings.adapter or dspy.ChatAdapter()).__name__,
            max_tokens=frozenset(each for each in most if each),
            refused=count_refused_scores(errors),
            met=met,
        )

    def finish(self, selected: str, scores: Mapping[str, float], verdict: str) -> None:
        """Keep what the run came to, validation scores by stage and the verdict, and write its page."""
        if again := self.actor.rescored["runs"]:
            self.note(f"{again:,} answers were judged again by the changed metric; none of them was paid for again.")
        self.note(f"{NOTE}{verdict}")
        told = {"selected": selected, "scores": dict(scores), "verdict": verdict}
        self.folder.write(RESULT, told | {"notes": self.notes, "stopped": self.stopped})
        try:
            write_report(self.folder.path, store=self.actor.store)
        except Exception as problem:  # noqa: BLE001 - a page that cannot be made is no reason to lose a paid run
            self.note(f"{self.folder.path} has no report ({type(problem).__name__}: {problem}). See sgt report.")
        labels = {"selected": selected, **({"stopped": self.stopped} if self.stopped else {})}
        self.tracking.finish(labels, TOLD)

    @property
    def usage(self) -> RunUsage:
        """Usage of all sessions in the folder.

        Calls, samples and tokens are those on disk; a killed session loses its last moment's seconds at most.
        """
        actor, (samples, tokens_in, tokens_out) = self.budget.usage, self.actor.store.count_samples()
        generator = Usage(0, samples, tokens_in, tokens_out)
        return RunUsage(actor, generator, seconds=self.clock.seconds)


def _most_tokens(lm: object) -> int | None:
    """The most tokens of an LM's answer, by its own setting or its engine's; None where neither is known."""
    own: Mapping[str, object] = getattr(lm, "kwargs", {})
    engine = getattr(getattr(lm, "engine", None), "max_new_tokens", None)
    found = own.get("max_tokens") or own.get("max_completion_tokens") or engine
    return found if isinstance(found, int) else None


def _store(settings: SessionSettings, folder: RunFolder, *, run: str) -> RolloutStore:
    """The folder's own store, or one that several runs share."""
    return RolloutStore(folder.store) if settings.store is None else RolloutStore(settings.store, run=run)


def output_fields(program: dspy.Module) -> list[str]:
    """The names of every output field of the program's predictors, each once."""
    signatures = [cast("type[dspy.Signature]", predictor.signature) for predictor in program.predictors()]
    return list(dict.fromkeys(name for signature in signatures for name in signature.output_fields))
