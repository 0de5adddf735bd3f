"""What supplements do: kinds by stage, how each fares, which questions turned, what more calls or queries bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dspy
from rich.console import Console, ConsoleOptions, RenderResult

from optimizers.comparison.cells import printed
from optimizers.comparison.compiled_run import FinishedRun
from optimizers.comparison.contenders import shuffled
from optimizers.comparison.control_rows import ControlRow, row_of
from optimizers.comparison.setup import Problem
from optimizers.comparison.summary import kind_shares
from optimizers.core.best_stage import select_best
from optimizers.core.records import Rollout
from optimizers.core.result import SGTResult, result_of
from optimizers.core.run_folder import RunFolder
from optimizers.core.validation import check_splits
from optimizers.observe.progress import Display, reporter
from optimizers.observe.report.figures import grouped
from optimizers.observe.tables import plain_table
from optimizers.sgt.recipe import Recipe
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.training.trainer import Trainer
from sgt_modules.errors import SetupError
from sgt_modules.generator import GeneratorLike

Scores = Mapping[str, Sequence[Rollout]]
"""Rollouts by stage, in the examples' order: `Controls.scored` on the test set, `validated` on the validation set."""


def validated(result: SGTResult) -> dict[str, Sequence[Rollout]]:
    """Each stage's rollouts on the validation set."""
    return {stage.name: stage.rollouts for stage in result.stages}


def kinds_by_stage(scored: Scores) -> dict[str, dict[str, float]]:
    """The share of each kind by stage, the most frequent first; a run that was told nothing is of kind `none`.

    A run of several supplements counts as of its first one's kind.
    """
    return {stage: kind_shares(rollouts) for stage, rollouts in scored.items()}


@dataclass(frozen=True, slots=True)
class KindSuccess:
    """How a kind fares: of how many runs, their mean score in [0, 1], and a 95 % interval of it."""

    kind: str
    runs: int
    score: float
    interval: tuple[float, float]


def success_by_kind(rollouts: Sequence[Rollout]) -> list[KindSuccess]:
    """How each kind fares where it was chosen, the most frequent first; a run without a reward counts nowhere.

    Kinds are chosen where they promise most, so these are no fair comparison of kinds: `always` of `controls` is.
    """
    groups = grouped((each.supplement.kind, each.reward.score) for each in rollouts if each.reward is not None)
    return [KindSuccess(each.name, each.runs, each.score, each.interval) for each in groups]


@dataclass(frozen=True, slots=True)
class Flip:
    """A question whose answer turned: its inputs, both answers (an error where there was none), and the supplement."""

    inputs: Mapping[str, Any]
    before: Mapping[str, str]
    supplement: str
    after: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Flips:
    """The questions that turned `right`, and those that turned `wrong`, in the examples' order."""

    right: Sequence[Flip]
    wrong: Sequence[Flip]


def flips(
    before: Sequence[Rollout], after: Sequence[Rollout], examples: Sequence[dspy.Example], *, threshold: float = 1.0
) -> Flips:
    """What turned between two stages on the same examples, such as `scored["none"]` and `scored["selected"]`."""
    right: list[Flip] = []
    wrong: list[Flip] = []
    for first, second, example in zip(before, after, examples, strict=True):
        flip = Flip(dict(example.inputs().items()), _answer(first), second.supplement.render(), _answer(second))
        if first.lost(threshold) and second.won(threshold):
            right.append(flip)
        elif first.won(threshold) and second.lost(threshold):
            wrong.append(flip)
    return Flips(right, wrong)


def _answer(rollout: Rollout) -> Mapping[str, str]:
    return rollout.output or {"error": rollout.error}


@dataclass(frozen=True, slots=True)
class CallsPoint:
    """A stage of a run: the actor calls until its end, its validation score, and the best score until then."""

    stage: str
    actor_calls: int
    score: float
    best: float


def calls_curve(result: SGTResult) -> list[CallsPoint]:
    """The learning curve over actor calls: every stage in its order. It costs nothing."""
    points: list[CallsPoint] = []
    for number, stage in enumerate(result.stages, start=1):
        best = result.stages[select_best([each.rollouts for each in result.stages[:number]])].score
        points.append(CallsPoint(stage.name, stage.spent.actor_calls, stage.score, best))
    return points


@dataclass(frozen=True, slots=True)
class QueriesPoint:
    """A run on so many training queries: the stage that validation selected and its score there, that stage on the
    test set, no supplement there, and what compiling took.
    """

    queries: int
    selected: str
    validation: float
    test: ControlRow
    none: float
    actor_calls: int
    seconds: float
    log_dir: Path


_COLUMNS = ("queries", "selected", "val", "none", "test", "95 %", "gain", "95 % of it", "p", "actor calls", "seconds")


@dataclass(frozen=True)
class LearningCurve:
    """What more training queries bring, the fewest first. It prints as a table."""

    points: Sequence[QueriesPoint]

    @property
    def cells(self) -> list[list[str]]:
        """The table's texts, a list a point."""
        return [_cells(point) for point in self.points]

    def content(self) -> dict[str, Any]:
        """The curve as JSON holds it."""
        return {"points": [{**asdict(point), "log_dir": str(point.log_dir)} for point in self.points]}

    def to_markdown(self) -> str:
        """The table as Markdown."""
        rows = [_COLUMNS, ["---", "---", *["---:"] * (len(_COLUMNS) - 2)], *self.cells]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table on a terminal."""
        table = plain_table()
        for name in _COLUMNS:
            table.add_column(name, justify="left" if name == "selected" else "right", no_wrap=True)
        for row in self.cells:
            table.add_row(*row)
        yield table

    def __str__(self) -> str:
        return printed(self, width=120)


def learning_curve(
    problem: Problem,
    sizes: Sequence[int] = (16, 32, 64, 96),
    *,
    generator: GeneratorLike,
    recipe: Recipe | None = None,
    trainer: Trainer | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    log_dir: str | Path | None = None,
    display_progress: Display = None,
) -> LearningCurve:
    """Compile on the first so many training queries of a seeded order, each size in `<log_dir>/queries-<n>`, and test.

    Fewer queries are a part of more. A size that was finished costs nothing when the same is asked again. The other
    arguments are those of `compare`.

    Raises:
        SetupError: a size is none, or something passed in cannot work; nothing has been paid for.
    """
    if not sizes or min(sizes) < 1 or max(sizes) > len(problem.trainset):
        raise SetupError(f"Expected sizes from 1 to {len(problem.trainset)}, the training set's, got {list(sizes)}.")
    check_splits(problem.trainset, problem.valset, problem.testset)
    folder, points = RunFolder.create(None if log_dir is None else Path(log_dir)), list[QueriesPoint]()
    for size in sorted(set(sizes)):
        teleprompter = SGTTeleprompter(
            problem.metric,
            generator,
            recipe=recipe,
            trainer=trainer,
            num_threads=num_threads,
            seed=seed,
            log_dir=folder.path / f"queries-{size}",
            display_progress=display_progress,
        )
        part = shuffled(problem.trainset, seed)[:size]
        compiled = teleprompter.compile(problem.program, trainset=part, valset=problem.valset)
        points.append(_point(size, compiled, problem, num_threads, display_progress))
        folder.write("learning_curve.json", LearningCurve(points).content())
    return LearningCurve(tuple(points))


def _point(
    size: int, compiled: dspy.Module, problem: Problem, num_threads: int | None, display_progress: Display
) -> QueriesPoint:
    result, view = result_of(compiled), reporter(display_progress)
    with (
        FinishedRun.opened(compiled, problem.program, problem.metric, num_threads=num_threads, view=view) as run,
        run.on("test", problem.testset) as test,
    ):
        none, chosen = test.unaided, run.score(result.selected, test).rollouts
    row, bare = row_of(result.selected, chosen, none=none), row_of("none", none)
    spent = result.spent
    return QueriesPoint(
        size,
        result.selected,
        result.best.score,
        row,
        bare.score or 0.0,
        spent.actor_calls,
        spent.seconds.total,
        result.log_dir,
    )


def _cells(point: QueriesPoint) -> list[str]:
    score, around, gain, of_gain, p_value = point.test.cells
    return [
        str(point.queries),
        point.selected,
        f"{point.validation:.3f}",
        f"{point.none:.3f}",
        score,
        around,
        gain,
        of_gain,
        p_value,
        f"{point.actor_calls:,}",
        f"{point.seconds:,.0f}",
    ]
