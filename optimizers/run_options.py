"""The options that both teleprompters share, and the one place where what they are given is checked."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import dspy

from optimizers.core.actors import Actors, acting_with
from optimizers.core.budget import Limits
from optimizers.core.clusters import find_clusters
from optimizers.core.reward import Metric, Scorer
from optimizers.core.validation import check_data, check_metric_on, hold_out
from optimizers.observe.tracking.report_to import ReportTo, check_report_to
from optimizers.rollouts.runners import Runner, RunnerName, check_runner, check_seconds, open_runner
from sgt_modules.errors import SetupError

if TYPE_CHECKING:
    from optimizers.core.events import Observer, Plan
    from optimizers.observe.progress import Display

Examples = Sequence[dspy.Example]


@dataclass(eq=False, repr=False, kw_only=True)
class RunOptions:
    """The options that `SGTTeleprompter` and `SupervisoryPromptTeleprompter` share.

    Args:
        metric: Any DSPy metric of 2, 3 or 5 arguments that returns a bool, a number in [0, 1], or
            `Prediction(score=, feedback=)`; SPT's corrector reads the feedback.
        only: The names of the predictors that SGT gives supplements, or whose instructions SPT writes; all by default.
        runner: Where program runs are worked: `threads` here, `ray` on a cluster (needs `dspy-sgt[ray]`), or an object
            such as `RayRunner(workers=64)`.
        num_threads: Program runs at once, wherever they are worked; `dspy.settings.num_threads` by default.
        max_errors: Runs in a row without a reward (see [Faults](faults.md)) after which everything stops; as many
            replies of SPT's corrector.
        max_actor_calls: The most calls of the program's LMs; asked before each run of the program.
        max_cost_usd: The most dollars for them, and for SPT's corrector.
        max_seconds: The most seconds at work. Where one of the three is reached, the run ends in good order with the
            best program so far; each counts all sessions in `log_dir`, so a later call with more goes on from there.
        max_run_seconds: How long one run of the program may take before it is given up, without a reward; no limit by
            default. A `timeout` of the LM should be shorter, as DSPy tries such a call again.
        seed: Seeds every choice: the same seed, data and models give the same result.
        log_dir: The run's folder; a fresh one under `runs/` by default. A folder with a run of the same settings is
            gone on with: what was paid, sampled or trained there is not paid, sampled or trained again.
        store: Where rollouts are kept, if not in `log_dir`: a file, or a database's URL such as
            `postgresql+psycopg://user@host/database` (needs `dspy-sgt[postgresql]`). Runs that share one pay no rollout
            of the same program, actor and metric twice.
        report_to: Trackers and observers of the run, none by default: `mlflow`, `wandb`, `tensorboard` (they need
            `dspy-sgt[trackers]`; see [Tracking](tracking.md)), an `Observer` of your own (see [Events](events.md)), or
            several.
        display_progress: False is silence; by default a live view on a terminal or in a notebook, and plain lines
            elsewhere. A function is called with a `Snapshot` of the run at most four times a second, an `Observer` with
            every event; see [Live view](live.md).
        cluster: What an example shares with others, such as its document, or None. Examples of one cluster are won or
            lost together: the verdict's interval, the report and SPT's impacts allow for that. See
            [Statistics](statistics.md).
        version: A word of yours for the state of code that cannot be read: a metric written in C, or an object without
            code that the metric or the program uses; a note names them. Another word has answers judged again and,
            where the program holds such an object, paid for again. See
            [Scaling](scaling.md#what-makes-two-rewards-the-same).

    Raises:
        SetupError: an option cannot work.

    >>> try:
    ...     RunOptions(lambda example, prediction: True, max_errors=0)
    ... except SetupError as error:
    ...     print(error)
    Expected max_errors of at least 1, got 0.
    """

    metric: Metric = field(kw_only=False)
    only: Sequence[str] | None = None
    runner: RunnerName | Runner = "threads"
    num_threads: int | None = None
    max_errors: int = 10
    max_actor_calls: int | None = None
    max_cost_usd: float | None = None
    max_seconds: float | None = None
    max_run_seconds: float | None = None
    seed: int = 0
    log_dir: str | Path | None = None
    store: str | Path | None = None
    report_to: ReportTo = None
    display_progress: Display = None
    version: str = ""
    cluster: Callable[[dspy.Example], Hashable | None] | None = None

    def __post_init__(self) -> None:
        super().__init__()
        for name in ("num_threads", "max_errors"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise SetupError(f"Expected {name} of at least 1, got {number!r}.")
        check_seconds(self.max_run_seconds)
        check_runner(self.runner)
        self.report_to = check_report_to(self.report_to)
        _ = self.limits  # refuses one that is not above 0

    @property
    def limits(self) -> Limits:
        """What the run may spend."""
        return Limits(self.max_actor_calls, self.max_cost_usd, self.max_seconds)

    def build_observers(self, *, probing: bool) -> list[Observer]:
        """The observers of a run; of a probe, the views alone."""
        from optimizers.observe import progress  # takes long to import

        views, trackers = self.display_progress, self.report_to
        return progress.build_views(views) if probing else progress.build_observers(views, trackers)


class Inputs(NamedTuple):
    """What a run works on: the program whose runs are scored, made of the student, and the two splits."""

    student: dspy.Module
    program: dspy.Module
    trainset: Examples
    valset: Examples


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings(ABC):
    """What a teleprompter makes of its options: the shared ones as they are, a method's own as its run needs them."""

    options: RunOptions
    actors: Actors = field(default_factory=dict[str, dspy.BaseLM])
    """The LMs that act in the program's runs, each in all of them; the program's own where there are none."""

    @property
    @abstractmethod
    def may_change_on_resume(self) -> Mapping[str, object]:
        """Settings in `run.json` that may change when a run goes on in its folder."""

    @abstractmethod
    def must_match_on_resume(self, trainset: Examples, valset: Examples) -> Mapping[str, object]:
        """Settings in `run.json` that must be the same when a run goes on in its folder."""

    @abstractmethod
    def planned(self, student: dspy.Module, train: int, validation: int) -> Plan:
        """The expected steps of a run on so many examples."""

    @abstractmethod
    def prepare(self, student: dspy.Module, trainset: Examples, valset: Examples) -> dspy.Module:
        """Check what only this method needs, and return the program whose runs are scored: `check_inputs` calls it.

        Raises `SetupError`; opens nothing.
        """


def check_inputs(
    student: dspy.Module, trainset: Examples, valset: Examples | None, settings: RunSettings, *, probe: int = 0
) -> Inputs:
    """Check everything that `compile` or `estimate` was given, before a folder, a store or a tracker is opened.

    Where no validation set is given, a seeded part of the training set is held out for it.

    Raises:
        SetupError: something passed in cannot work; nothing has been paid for.
    """
    options = settings.options
    options.build_observers(probing=True)  # refuses a display that is none
    if probe < 0:
        raise SetupError(f"Expected a probe of 0 or more examples, got {probe!r}.")
    trainset, valset = split_examples(trainset, valset, options.seed)
    lms = list(settings.actors.values()) or [None]
    for lm in lms:
        with acting_with(lm):
            check_data(student, trainset, valset, in_dollars=options.max_cost_usd is not None)
    find_clusters(options.cluster, [*trainset, *valset])
    with open_runner(options.runner) as runner, acting_with(lms[0]):
        runner.check(student, Scorer(options.metric), [*trainset, *valset])
        check_metric_on(student, options.metric, trainset[0])
    return Inputs(student, settings.prepare(student, trainset, valset), trainset, valset)


def sizes(trainset: Examples, valset: Examples | None, seed: int) -> tuple[int, int]:
    """How many examples there are to learn from and to select on."""
    train, validation = split_examples(trainset, valset, seed)
    return len(train), len(validation)


def split_examples(trainset: Examples, valset: Examples | None, seed: int) -> tuple[Examples, Examples]:
    """What to learn from and what to select on: where no validation set is given, a seeded part is held out for it."""
    return (trainset, valset) if valset is not None else hold_out(trainset, rng=random.Random(f"{seed}-validation"))
