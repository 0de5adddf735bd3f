"""Analyses of a run: kinds of supplements, changed answers, and the score by actor calls or training queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dspy
from rich.console import Console, ConsoleOptions, RenderResult

from optimizers.comparison.cells import render_text
from optimizers.comparison.compiled_run import CompiledRun
from optimizers.comparison.contenders import shuffle_examples
from optimizers.comparison.control_rows import ControlRow, build_control_row
from optimizers.comparison.setup import Problem
from optimizers.comparison.summary import compute_kind_shares
from optimizers.core.best_stage import select_best
from optimizers.core.events import EventBus
from optimizers.core.records import Rollout
from optimizers.core.result import SGTResult, result_of
from optimizers.core.run_folder import RunFolder
from optimizers.observe.progress import Display, build_views
from optimizers.observe.report.figures import grouped
from optimizers.observe.tables import plain_table
from optimizers.sgt.recipe import Recipe
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.training.trainer import Trainer
from sgt_modules.errors import SetupError
from sgt_modules.generator import GeneratorLike

RolloutsByStage = Mapping[str, Sequence[Rollout]]
"""Rollouts by stage, in the examples' order: `Controls.scored` on the test set, `validated` on the validation set."""


def validated(result: SGTResult) -> dict[str, Sequence[Rollout]]:
    """Returns the rollouts of each stage on the validation set."""
    return {stage.name: stage.rollouts for stage in result.stages}


def kinds_by_stage(scored: RolloutsByStage) -> dict[str, dict[str, float]]:
    """Returns the share of each kind by stage, the most frequent first.

    A run without a supplement has the kind `none`, a run with several supplements the kind of the first.
    """
    return {stage: compute_kind_shares(rollouts) for stage, rollouts in scored.items()}


@dataclass(frozen=True, slots=True)
class KindSuccess:
    """The success of a kind: its number of runs, and their mean score in [0, 1] with a 95 % interval."""

    kind: str
    runs: int
    score: float
    interval: tuple[float, float]


def success_by_kind(rollouts: Sequence[Rollout]) -> list[KindSuccess]:
    """Returns the success of each kind on its own questions, the most frequent first; skips runs without a reward.

    The generator selects the kind for each question, so this does not compare kinds on the same questions; the
    controls `always` do.
    """
    scored = [(each, each.reward) for each in rollouts if each.reward is not None]
    groups = grouped((each.supplement.kind, reward.score, each.query.id) for each, reward in scored)
    return [KindSuccess(each.name, each.runs, each.score, each.interval) for each in groups]


@dataclass(frozen=True, slots=True)
class Flip:
    """A question whose answer changed between right and wrong: inputs, both answers (or errors), and the supplement."""

    inputs: Mapping[str, Any]
    before: Mapping[str, str]
    supplement: str
    after: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Flips:
    """The questions whose answer became `right`, and those that became `wrong`, in the examples' order."""

    right: Sequence[Flip]
    wrong: Sequence[Flip]


def flips(
    before: Sequence[Rollout], after: Sequence[Rollout], examples: Sequence[dspy.Example], *, threshold: float = 1.0
) -> Flips:
    """Finds the questions that one stage answers right and the other wrong.

    `before` and `after` are rollouts of `examples`, such as `scored["none"]` and `scored["selected"]`. An answer is
    right if its reward is at least `threshold`.
    """
    right: list[Flip] = []
    wrong: list[Flip] = []
    for first, second, example in zip(before, after, examples, strict=True):
        flip = Flip(dict(example.inputs().items()), _get_answer(first), second.supplement.render(), _get_answer(second))
        if first.lost(threshold) and second.won(threshold):
            right.append(flip)
        elif first.won(threshold) and second.lost(threshold):
            wrong.append(flip)
    return Flips(right, wrong)


def _get_answer(rollout: Rollout) -> Mapping[str, str]:
    return rollout.output or {"error": rollout.error}


@dataclass(frozen=True, slots=True)
class CallsPoint:
    """A stage of a run: actor calls until its end, its validation score, and the best score so far."""

    stage: str
    actor_calls: int
    score: float
    best: float


def calls_curve(result: SGTResult) -> list[CallsPoint]:
    """Returns the learning curve over actor calls, a point per stage. It costs nothing."""
    points: list[CallsPoint] = []
    for number, stage in enumerate(result.stages, start=1):
        best = result.stages[select_best([each.rollouts for each in result.stages[:number]])].score
        points.append(CallsPoint(stage.name, stage.spent.actor_calls, stage.score, best))
    return points


@dataclass(frozen=True, slots=True)
class QueriesPoint:
    """A run on the first `queries` training queries.

    `selected` is the stage that the run selected, `validation` its score on the validation set, `test` its row on the
    test set, `none` the score of no supplement on the test set. `actor_calls` and `seconds` are of compiling.
    """

    queries: int
    selected: str
    validation: float
    test: ControlRow
    none: float
    actor_calls: int
    seconds: float
    log_dir: Path


_TEST_COLUMNS = ("test", "95 %", "gain", "95 % of gain", "p")
_CURVE_COLUMNS = ("queries", "selected", "val", "none", *_TEST_COLUMNS, "actor calls", "seconds")


@dataclass(frozen=True)
class LearningCurve:
    """The score by number of training queries, the smallest number first. It prints as a table."""

    points: Sequence[QueriesPoint]

    @property
    def cells(self) -> list[list[str]]:
        """The texts of the table: a list per point."""
        return [_format_point(point) for point in self.points]

    def content(self) -> dict[str, Any]:
        """Returns the curve as JSON."""
        return {"points": [{**asdict(point), "log_dir": str(point.log_dir)} for point in self.points]}

    def to_markdown(self) -> str:
        """Returns the table as Markdown."""
        rows = [_CURVE_COLUMNS, ["---", "---", *["---:"] * (len(_CURVE_COLUMNS) - 2)], *self.cells]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Shows the table on a terminal."""
        table = plain_table()
        for name in _CURVE_COLUMNS:
            table.add_column(name, justify="left" if name == "selected" else "right", no_wrap=True)
        for row in self.cells:
            table.add_row(*row)
        yield table

    def __str__(self) -> str:
        return render_text(self, width=120)


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
    """Compiles with SGT on training sets of several sizes, and scores each result on the test set.

    A training set of size n is the first n queries in an order drawn from the seed, so smaller sets are part of larger
    ones. Each size has the folder `<log_dir>/queries-<n>`; a finished size costs nothing in a later call. The other
    arguments are those of `compare`.

    Raises:
        SetupError: a size or another argument cannot work; nothing has been paid for.
    """
    if not sizes or min(sizes) < 1 or max(sizes) > len(problem.trainset):
        raise SetupError(
            f"Expected sizes from 1 to {len(problem.trainset)}, the size of the training set, got {list(sizes)}."
        )
    problem.check()
    folder, points = RunFolder.create(log_dir), list[QueriesPoint]()
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
        part = shuffle_examples(problem.trainset, seed)[:size]
        compiled = teleprompter.compile(problem.program, trainset=part, valset=problem.valset)
        points.append(_measure_point(size, compiled, problem, num_threads, display_progress))
        folder.write("learning_curve.json", LearningCurve(points).content())
    return LearningCurve(tuple(points))


def _measure_point(
    size: int, compiled: dspy.Module, problem: Problem, num_threads: int | None, display_progress: Display
) -> QueriesPoint:
    result, bus = result_of(compiled), EventBus(build_views(display_progress))
    with (
        CompiledRun.open(compiled, problem.program, problem.metric, num_threads=num_threads, bus=bus) as run,
        run.open_split("test", problem.testset) as test,
    ):
        none, selected = test.unaided, run.score(result.selected, test).rollouts
    clusters = problem.find_clusters(problem.testset)
    row = build_control_row(result.selected, selected, none=none, clusters=clusters)
    none_row = build_control_row("none", none, clusters=clusters)
    spent = result.spent
    return QueriesPoint(
        size,
        result.selected,
        result.best.score,
        row,
        none_row.score or 0.0,
        spent.actor_calls,
        spent.seconds.total,
        result.log_dir,
    )


def _format_point(point: QueriesPoint) -> list[str]:
    return [
        str(point.queries),
        point.selected,
        f"{point.validation:.3f}",
        f"{point.none:.3f}",
        *point.test.cells,
        f"{point.actor_calls:,}",
        f"{point.seconds:,.0f}",
    ]
