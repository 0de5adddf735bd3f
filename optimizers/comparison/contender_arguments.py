"""The arguments of a contender: program, data, budget and resources, and how many runs the budget allows."""

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

LABELED_DEMOS = 16
"""DSPy's default number of labeled demos."""

_MISSING: Mapping[Need, str] = {
    "labels": "the training examples have no outputs of the program to show as demos",
    "proposer": "needs an LM that writes instructions: pass reflection_lm",
    "generator": "needs a small model to train: pass generator",
    "tunable": "the actor's provider offers no fine-tuning",
    "optuna": "needs the optuna package: pip install 'dspy[optuna]'",
    "textgrad": "needs the textgrad package: pip install 'dspy-sgt[textgrad]'",
}


@dataclass(frozen=True, repr=False)
class ContenderArguments:
    """The arguments of a contender: program, training and validation set, budget, and resources.

    `calls` is the maximum number of actor calls; further calls fail. None means no limit: use the optimizer's default
    size. `count_calls` returns the number of calls so far, with those that an earlier session paid for. The training
    set is in an order drawn from `seed`, because for some of DSPy's optimizers this order is the only random choice.
    """

    program: dspy.Module
    trainset: list[dspy.Example]
    valset: list[dspy.Example]
    metric: Metric
    seed: int
    calls: int | None
    folder: Path
    num_threads: int
    count_calls: Callable[[], int] = lambda: 0
    proposer: dspy.LM | None = None
    embedder: dspy.Embedder | None = None
    generator: GeneratorLike | None = None
    trainer: Trainer | None = None
    recipe: Recipe | None = None

    @property
    def lm(self) -> dspy.LM | None:
        """The actor: DSPy's LM, or without one the LM of the first predictor that has its own."""
        own = (each.lm for each in self.program.predictors() if each.lm)
        return cast("dspy.LM | None", dspy.settings.lm or next(own, None))

    @property
    def has_labels(self) -> bool:
        """Whether every training example has an output of the program, to show in a demo."""
        names = {name for each in self.program.predictors() for name in cast("Any", each.signature).output_fields}
        return all(names & set(example.keys()) - set(example.inputs().keys()) for example in self.trainset)

    @property
    def labeled_demos(self) -> int:
        """How many labeled demos to show."""
        return LABELED_DEMOS if self.has_labels else 0

    def score(self, example: dspy.Example, prediction: object, trace: object = None) -> Any:
        """Calls the metric for DSPy's optimizers; of a `Prediction` returns the score.

        A `Prediction` is always true, so a bootstrap would accept every answer.
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
        """Calls the metric for GEPA: a score with feedback."""
        reward = Scorer(self.metric)(gold, pred)
        return dspy.Prediction(score=reward.score, feedback=reward.feedback or f"The score is {reward.score:g}.")

    @property
    def runs(self) -> int | None:
        """How many program runs the budget allows, if each predictor makes one call per run; None for no limit."""
        return None if self.calls is None else self.calls // max(1, len(self.program.predictors()))

    def fit_steps(self, runs_per_step: int, *, reserve: int = 0, default: int, most: int) -> int:
        """Returns how many steps of an optimizer fit the budget, from 1 to `most`; `default` without a limit.

        `reserve` is the number of program runs that the optimizer needs outside its steps.
        """
        return default if self.runs is None else max(1, min(most, (self.runs - reserve) // max(1, runs_per_step)))

    def explain_missing(self, needs: Sequence[Need]) -> str:
        """Says which of these needs are not met; empty if all are."""
        is_met: dict[Need, Callable[[], bool]] = {
            "labels": lambda: self.has_labels,
            "proposer": lambda: self.proposer is not None,
            "generator": lambda: self.generator is not None,
            "tunable": lambda: bool(getattr(getattr(self.lm, "provider", None), "finetunable", False)),
            "optuna": lambda: importlib.util.find_spec("optuna") is not None,
            "textgrad": lambda: importlib.util.find_spec("textgrad") is not None,
        }
        return "; ".join(_MISSING[need] for need in needs if not is_met[need]())
