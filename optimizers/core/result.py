"""The result of a compile: every stage, the selected one, and the usage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import dspy

from optimizers.core.cost import StageCost
from optimizers.core.drafts import DraftCount
from optimizers.core.peak_memory import Peak
from optimizers.core.records import Checkpoint, Rollout
from optimizers.core.usage import RunUsage
from sgt_modules.gate import Gate
from sgt_modules.generator import SupplementGenerator
from sgt_modules.wrapping import unsupplement, with_generator


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage on the validation set: its score in [0, 1], its rollouts in the examples' order, its weights and gate.

    `seconds` is the time from the end of the stage before: sampling, acting, training and validating; `gated` is the
    share of examples in which the gate dropped a supplement; `spent` is the run's usage up to the end of the stage;
    `memory` is the peak within those seconds. `cost` holds the net score and what a run used, where the recipe has
    prices; `score` is always the metric's mean. `drafts` counts the drafts that were the answer, None without drafts.
    `by_actor` holds each actor's score where several act: their mean is `score`. It is empty otherwise.
    """

    name: str
    score: float
    rollouts: Sequence[Rollout]
    checkpoint: Checkpoint | None = None
    seconds: float = 0.0
    gate: Gate | None = None
    gated: float = 0.0
    spent: RunUsage = field(default_factory=RunUsage)
    memory: Peak = field(default_factory=Peak)
    cost: StageCost | None = None
    drafts: DraftCount | None = None
    by_actor: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def dropped(self) -> int:
        """Training rows left out because they exceed the trainer's `max_length`."""
        return 0 if self.checkpoint is None else int(self.checkpoint.metrics.get("dropped", 0))


@dataclass(frozen=True, slots=True)
class SGTResult:
    """The result of a compile: every stage, the selected one, the usage, and notes on what the user should know.

    `spent` covers every session of the run's folder. `stopped` says where a budget ended the run early, and is empty
    otherwise; then `stages` holds the finished ones, and `none` is selected where no stage is finished. `store` is the
    place of the rollouts, if not in `log_dir`. `verdict` says in a few sentences what the run gained, or why it learned
    nothing and what to change; see `optimizers.core.verdict`. `start` is the trained adapter that the generator came
    with and training started from, None for a base model.
    """

    stages: Sequence[StageResult]
    selected: str
    spent: RunUsage
    notes: Sequence[str]
    log_dir: Path
    generator: SupplementGenerator
    stopped: str = ""
    store: str | Path | None = field(default=None, repr=False)
    verdict: str = ""
    start: Checkpoint | None = None

    @property
    def best(self) -> StageResult:
        """The selected stage."""
        return self.stage(self.selected)

    @property
    def draft(self) -> bool:
        """Whether the run's generator reads drafts."""
        return any(stage.drafts is not None for stage in self.stages)

    def stage(self, name: str) -> StageResult:
        """A stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)

    def generator_of(self, stage: str) -> SupplementGenerator | None:
        """The generator after a stage; None for `none`."""
        if stage == "none":
            return None
        checkpoint = self.stage(stage).checkpoint
        return self.generator if checkpoint is None else self.generator.with_checkpoint(checkpoint.path)


def selected_program(result: SGTResult, student: dspy.Module, wrapped: dspy.Module) -> dspy.Module:
    """The selected stage's program: a new copy of the student or of its wrapped copy, with `detailed_results`."""
    best = result.best if result.stages else None
    if best is None or (best.checkpoint is None and best.name != "student"):
        program = unsupplement(student)
    elif best.checkpoint is None:
        program = student.deepcopy()
    else:
        program = with_generator(wrapped, result.generator.with_checkpoint(best.checkpoint.path), best.gate)
    return mark_compiled(program, result)


def mark_compiled(program: dspy.Module, result: object) -> dspy.Module:
    """Mark the program as compiled and attach its result as `detailed_results`, as DSPy's optimizers do."""
    marked = cast("Any", program)
    marked.detailed_results = result
    marked._compiled = True
    return program


def result_of(program: dspy.Module) -> SGTResult:
    """Return the result that `SGTTeleprompter.compile` attached; raises `AttributeError` for any other program."""
    return cast("SGTResult", cast("Any", program).detailed_results)
