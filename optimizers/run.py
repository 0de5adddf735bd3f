"""One compile's working state: what it was given, what it has seen, and the best stage so far.

Each method is one arrow of the method (`sgt.py` is their order). Deciding is left to the pure rooms; this one holds
the store, the folder and the clock.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import dspy

from optimizers import sources
from optimizers.evaluation import Evaluator, mean_score
from optimizers.folder import RunFolder
from optimizers.pairs import preference_pairs
from optimizers.progress import Reporter
from optimizers.recipe import Recipe
from optimizers.records import Candidate, Checkpoint, PreferencePair, Rollout, SFTExample
from optimizers.rollouts import Actor
from optimizers.selection import balance_kinds
from optimizers.training import Trainer
from optimizers.validation import check_program, check_splits, hold_out
from sgt_modules.errors import NoPreferencePairsError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.wrapping import supplement, with_generator


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run is given by its teleprompter; see `SGTTeleprompter`."""

    metric: Callable[..., object]
    generator: SupplementGenerator
    recipe: Recipe
    trainer: Trainer | None
    num_threads: int | None
    max_errors: int
    seed: int
    log_dir: Path | None


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage on the validation set: its score in [0, 1], its rollouts in the examples' order, its weights."""

    name: str
    score: float
    rollouts: Sequence[Rollout]
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has paid: calls of both models, their tokens, and seconds by what they went into."""

    actor_calls: int = 0
    generator_calls: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SGTResult:
    """How a compile went: every stage, the selected one, what was spent, and why anything was left undone."""

    stages: Sequence[StageResult]
    selected: str
    spent: Spent
    notes: Sequence[str]
    log_dir: Path
    generator: SupplementGenerator

    @property
    def best(self) -> StageResult:
        """The selected stage."""
        return next(stage for stage in self.stages if stage.name == self.selected)

    def generator_of(self, stage: str) -> SupplementGenerator | None:
        """The generator as it was after a stage; None for `none`."""
        if stage == "none":
            return None
        checkpoint = next(each for each in self.stages if each.name == stage).checkpoint
        return self.generator if checkpoint is None else self.generator.with_checkpoint(checkpoint.path)


class Run:
    """The state of one compile. Made by `Run.open`, which validates everything before the first paid call."""

    def __init__(self, settings: RunSettings, student: dspy.Module, train: Evaluator, validation: Evaluator) -> None:
        self._settings, self._recipe, self._student = settings, settings.recipe, student
        self._train, self._validation = train, validation
        self._trainer = settings.trainer or _default_trainer(settings.generator)
        self._folder = RunFolder.create(settings.log_dir, _recorded(settings))
        self._stages: list[StageResult] = []
        self._warm: list[Rollout] = []
        self._notes: list[str] = []
        self._calls = {"actor": 0, "generator": 0}

    @staticmethod
    def open(
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None,
        settings: RunSettings,
        reporter: Reporter,
    ) -> Run:
        ...
