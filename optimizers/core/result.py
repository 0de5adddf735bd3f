"""What a compile gives besides the program: every stage, the selected one, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import dspy

from optimizers.core.memory import Peak
from optimizers.core.records import Checkpoint, Rollout
from optimizers.core.safe_reading import entry
from sgt_modules.gate import Gate
from sgt_modules.generator import SupplementGenerator
from sgt_modules.wrapping import unsupplement, with_generator


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has spent: calls of the actor's LM and samples of the generator, their tokens, dollars for the actor,
    and seconds: in `total`, and of three kinds of work.

    >>> (Spent(actor_calls=2, acting=1.5) + Spent(actor_calls=1)).actor_calls
    3
    """

    actor_calls: int = 0
    actor_in: int = 0
    actor_out: int = 0
    generator_calls: int = 0
    generator_in: int = 0
    generator_out: int = 0
    sampling: float = 0.0
    acting: float = 0.0
    training: float = 0.0
    cost: float = 0.0
    total: float = 0.0

    @staticmethod
    def read(content: Mapping[str, Any]) -> Spent:
        """What `spent.json` holds; what it lacks is 0. Raises `RunFolderError` for what is no number."""
        file, nothing = Path("spent.json"), {each.name: getattr(Spent(), each.name) for each in fields(Spent)}
        return Spent(**{name: entry(content, name, type(zero), zero, file=file) for name, zero in nothing.items()})

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens read (`in`) and written (`out`) by both models."""
        return {name: getattr(self, name) for name in ("actor_in", "actor_out", "generator_in", "generator_out")}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by what they went into; what lies between is missing, and sampling and acting may overlap."""
        return {name: getattr(self, name) for name in ("sampling", "acting", "training")}


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage on the validation set: its score in [0, 1], its rollouts in the examples' order, its weights and gate.

    `seconds` is what the stage took from the end of the one before: sampling, acting, training and validating; `gated`
    is the share of examples in which the gate dropped a supplement; `spent` is what the run had spent by its end;
    `memory` is the most that was held within those seconds.
    """

    name: str
    score: float
    rollouts: Sequence[Rollout]
    checkpoint: Checkpoint | None = None
    seconds: float = 0.0
    gate: Gate | None = None
    gated: float = 0.0
    spent: Spent = field(default_factory=Spent)
    memory: Peak = field(default_factory=Peak)

    @property
    def dropped(self) -> int:
        """Training rows that were left out, as they were longer than the trainer's `max_length`."""
        return 0 if self.checkpoint is None else int(self.checkpoint.metrics.get("dropped", 0))


@dataclass(frozen=True, slots=True)
class SGTResult:
    """How a compile went: every stage, the selected one, what was spent, and why anything was left undone.

    `spent` covers every session of the run's folder. `stopped` says where a budget ended the run before its end, and is
    empty otherwise; then the stages are those that were finished, and with none of them `none` is selected. `store` is
    where the rollouts are, if not in `log_dir`. `verdict` says in a few sentences what was gained, or why nothing was
    learned and what to change; see `optimizers.core.verdict`.
    """

    stages: Sequence[StageResult]
    selected: str
    spent: Spent
    notes: Sequence[str]
    log_dir: Path
    generator: SupplementGenerator
    stopped: str = ""
    store: str | Path | None = field(default=None, repr=False)
    verdict: str = ""

    @property
    def best(self) -> StageResult:
        """The selected stage."""
        return self.stage(self.selected)

    def stage(self, name: str) -> StageResult:
        """A stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)

    def generator_of(self, stage: str) -> SupplementGenerator | None:
        """The generator as it was after a stage; None for `none`."""
        if stage == "none":
            return None
        checkpoint = self.stage(stage).checkpoint
        return self.generator if checkpoint is None else self.generator.with_checkpoint(checkpoint.path)


def selected_program(result: SGTResult, student: dspy.Module, wrapped: dspy.Module) -> dspy.Module:
    """The selected stage's program: a new one, made of the student or of its wrapped copy, with `detailed_results`."""
    best = result.best if result.stages else None
    if best is None or (best.checkpoint is None and best.name != "student"):
        program = unsupplement(student)
    elif best.checkpoint is None:
        program = student.deepcopy()
    else:
        program = with_generator(wrapped, result.generator.with_checkpoint(best.checkpoint.path), best.gate)
    return compiled(program, result)


def compiled(program: dspy.Module, result: object) -> dspy.Module:
    """The program itself, marked as compiled and with its result as `detailed_results`, as DSPy's optimizers do."""
    marked = cast("Any", program)
    marked.detailed_results = result
    marked._compiled = True
    return program


def result_of(program: dspy.Module) -> SGTResult:
    """What `SGTTeleprompter.compile` left on a program; raises `AttributeError` on any other program."""
    return cast("SGTResult", cast("Any", program).detailed_results)
