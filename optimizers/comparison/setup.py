"""What a comparison is made under: the problem, each contender's budget, and the means they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dspy

from optimizers.core.budget import Limits
from optimizers.core.reward import Metric
from optimizers.sgt.recipe import Recipe
from optimizers.training.trainer import Trainer
from sgt_modules.generator import GeneratorLike


@dataclass(frozen=True, slots=True)
class Problem:
    """A program to better, the metric that judges it, and three splits that share no example.

    The training set is to learn from, the validation set to choose on, and the test set is used once, at the end.
    `version` is a word for code of program or metric that cannot be read.
    """

    program: dspy.Module
    metric: Metric
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    testset: Sequence[dspy.Example]
    version: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """What each contender may spend on the actor while it is compiled: calls, dollars, or without end.

    >>> Budget(actor_calls=1000).words
    '1,000 actor calls'
    """

    actor_calls: int | None = None
    usd: float | None = None

    @property
    def words(self) -> str:
        """The budget as a person reads it."""
        if self.actor_calls is not None:
            return f"{self.actor_calls:,} actor calls"
        return "no limit" if self.usd is None else f"${self.usd:,.2f}"

    @property
    def limits(self) -> Limits:
        """What the meter keeps to."""
        return Limits(self.actor_calls, self.usd)

    @staticmethod
    def of(budget: Budget | int | None) -> Budget:
        """A number is one of actor calls."""
        return budget if isinstance(budget, Budget) else Budget(budget)


@dataclass(frozen=True)
class Means:
    """What the contenders may use besides the program's LM; see `compare`."""

    reflection_lm: dspy.LM | None = None
    embedder: dspy.Embedder | None = None
    generator: GeneratorLike | None = None
    trainer: Trainer | None = None
    recipe: Recipe | None = None
    num_threads: int | None = None
