"""What a contender is given: program, data and means, and how often its budget lets the program run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import dspy

from optimizers.core.reward import Metric, Scorer
from optimizers.sgt.recipe import Recipe
from optimizers.training.trainer import Trainer
from sgt_modules.generator import GeneratorLike

Need = Literal["labels", "proposer", "generator", "tunable", "optuna", "textgrad"]

LABELED = 16
"""DSPy's own number of labeled demos."""

_REASONS: Mapping[Need, str] = {
    "labels": "the training examples hold no output of the program to show as a demo",
    "proposer": "needs an LM that writes instructions: pass reflection_lm",
    "generator": "needs a small model to train: pass generator",
    "tunable": "the actor's provider offers no fine-tuning",
    "optuna": "needs the optuna package: pip install 'dspy[optuna]'",
    "textgrad": "needs the textgrad package: pip install 'dspy-sgt[textgrad]'",
}


@dataclass(frozen=True)
class Bench:
    """What a contender is given: the program, data to learn from and to choose on, and what it may use.

    `calls` is how many actor calls it may make (None: as many as its class would by default); beyond that they fail.
    `spent` tells how many it has made, also where they were paid for in a session before.
    The trainset comes in an order drawn from `seed`, as some of DSPy's optimizers draw from nothing else.
    """

    program: dspy.Module
    trainset: list[dspy.Example]
    valset: list[dspy.Example]
    metric: Metric
    seed: int
    calls: int | None
    folder: Path
    num_threads: int
    spent: Callable[[], int] = lambda: 0
    proposer: dspy.LM | None = None
    embedder: dspy.Embedder | None = None
    generator: GeneratorLike | None = None
    trainer: Trainer | None = None
    recipe: Recipe | None = None

    @property
    def lm(self) -> dspy.LM | None:
        """The actor: DSPy's LM; where there is none, that of a predictor."""
        own = (each.lm for each in self.program.predictors() if each.lm)
        return cast("dspy.LM | None", dspy.settings.lm or next(own, None))

    @property
    def labeled(self) -> bool:
        """Whether the training examples hold outputs of the program, which can then be shown."""
        names = {name for each in self.program.predictors() for name in cast("Any", each.signature).output_fields}
        return all(names & set(example.keys()) - set(example.inputs().keys()) for example in self.trainset)

    @property
    def labels(self) -> int:
        """How many labeled demos a program is shown."""
        return LABELED if self.labeled else 0

    def score(self, example: dspy.Example, prediction: object, trace: object = None) -> Any:
        """The metric as DSPy's optimizers read it: what it returns, of a `Prediction` the score.

        A `Prediction` is true whatever its score, so a bootstrap would take every answer for right.
        """
        arguments = Scorer(self.metric).arguments
        value = self.metric(example, prediction, *(trace, None, None)[: arguments - 2])
        return value.score if isinstance(value, dspy.Prediction) else value

    def feedback(
        self,
        gold: dspy.Example,
        pred: object,
        trace: object = None,
        pred_name: object = None,
        pred_trace: object = None,
    ) -> dspy.Prediction:
        """The metric as GEPA reads it."""
        reward = Scorer(self.metric)(gold, pred)
        return dspy.Prediction(score=reward.score, feedback=reward.feedback or f"The score is {reward.score:g}.")

    @property
    def runs(self) -> int | None:
        """How often the budget lets the program run, if each predictor makes one call a run; None for no limit."""
        return None if self.calls is None else self.calls // max(1, len(self.program.predictors()))

    def times(self, each: int, *, spare: int = 0, default: int, most: int) -> int:
        """How often something of `each` runs can be done, with `spare` runs for the rest; at least once."""
        return default if self.runs is None else max(1, min(most, (self.runs - spare) // max(1, each)))

    def missing(self, needs: Sequence[Need]) -> str:
        """Why a contender with these needs cannot run here; empty where it can."""
        have: dict[Need, Callable[[], bool]] = {
            "labels": lambda: self.labeled,
            "proposer": lambda: self.proposer is not None,
            "generator": lambda: self.generator is not None,
            "tunable": lambda: bool(getattr(getattr(self.lm, "provider", None), "finetunable", False)),
            "optuna": lambda: importlib.util.find_spec("optuna") is not None,
            "textgrad": lambda: importlib.util.find_spec("textgrad") is not None,
        }
        return "; ".join(_REASONS[need] for need in needs if not have[need]())
