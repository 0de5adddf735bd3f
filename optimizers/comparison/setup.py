"""Set-up of a comparison: the problem, the budget of each contender, and the resources that contenders share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import dspy

from optimizers.core.budget import Limits
from optimizers.core.clusters import find_clusters
from optimizers.core.reward import Metric
from optimizers.core.validation import check_task
from optimizers.sgt.recipe import Recipe
from optimizers.training.trainer import Trainer
from sgt_modules.generator import GeneratorLike


@dataclass(frozen=True, slots=True)
class Problem:
    """A program to improve, its metric, and three splits that share no example.

    Contenders learn from the training set and select on the validation set. The test set is used once, at the end.
    `version` identifies code of the program or metric that cannot be read. `cluster` returns what a question shares
    with others, such as its database, or None for a question that shares nothing; without it, all questions count as
    independent. Intervals and p-values allow for clusters.
    """

    program: dspy.Module
    metric: Metric
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    testset: Sequence[dspy.Example]
    version: str = ""
    cluster: Callable[[dspy.Example], Hashable | None] | None = None

    def find_clusters(self, examples: Sequence[dspy.Example]) -> list[Hashable | None]:
        """Returns the cluster of each example; None where an example is its own cluster."""
        return find_clusters(self.cluster, examples)

    def check(self, *, in_dollars: bool = False) -> None:
        """Raises `SetupError` where splits, program or metric cannot work, before anything is paid for."""
        check_task(self.program, self.metric, self.trainset, self.valset, self.testset, in_dollars=in_dollars)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits what compiling one contender spends on the actor: calls, dollars, or no limit.

    >>> Budget(actor_calls=1000).words
    '1,000 actor calls'
    """

    actor_calls: int | None = None
    usd: float | None = None

    @property
    def words(self) -> str:
        """Describes the budget in words."""
        if self.actor_calls is not None:
            return f"{self.actor_calls:,} actor calls"
        return "no limit" if self.usd is None else f"${self.usd:,.2f}"

    @property
    def limits(self) -> Limits:
        """The same limits, as `PaidAnswers` takes them."""
        return Limits(self.actor_calls, self.usd)

    @staticmethod
    def of(budget: Budget | int | None) -> Budget:
        """Returns a `Budget`; a number is a number of actor calls."""
        return budget if isinstance(budget, Budget) else Budget(budget)


@dataclass(frozen=True)
class Resources:
    """What the contenders may use besides the program's LM; `compare` describes each."""

    reflection_lm: dspy.LM | None = None
    embedder: dspy.Embedder | None = None
    generator: GeneratorLike | None = None
    trainer: Trainer | None = None
    recipe: Recipe | None = None
    num_threads: int | None = None
