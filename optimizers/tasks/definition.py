"""What a task is: where its rows come from, the program that answers them, and the metric that judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import dspy

from optimizers.core.reward import Metric
from optimizers.tasks.rows import Loaded, Pools
from optimizers.tasks.splitting import Sizes, Splits, drawn
from sgt_modules.errors import SetupError

Loader = Callable[[Path | None], Loaded]
"""Reads a task's rows, from a local folder where one is given."""

ProgramLike = str | type[dspy.Signature] | Callable[[], dspy.Module]
"""A signature, which one `dspy.Predict` answers, or a function that makes a program."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task comes from: the paper that made it, and the licence of its rows."""

    paper: str
    licence: str


@dataclass(frozen=True)
class Task:
    """A data set, a program and a metric, ready to be compiled and compared on.

    `metrics` are further ones by name. `judged` makes the metric that asks a judge LM, where answers are open. `gold`
    makes the prediction that the metric must score 1.0; without it, the example's fields of the program's outputs are.
    No text of the field `asks`, or of the fields, stands in two splits. Where
    it `shows_gold`, a bench adds the gold outputs to the training examples, for contenders that show examples.

    >>> capitals = [("France", "Paris"), ("Peru", "Lima"), ("Kenya", "Nairobi")]
    >>> task = Task(
    ...     name="capitals",
    ...     description="A country's capital.",
    ...     program="country -> capital",
    ...     metric=lambda example, prediction: example.capital == prediction.capital,
    ...     loader=lambda folder: [dspy.Example(country=a, capital=b).with_inputs("country") for a, b in capitals],
    ... )
    >>> len(task.splits().train), task.golden(task.splits().test[0]).keys()
    (1, ['capital'])
    """

    name: str
    description: str
    program: ProgramLike
    metric: Metric
    loader: Loader
    sizes: Sizes = field(default_factory=Sizes)
    gold: Callable[[dspy.Example], dspy.Prediction] | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])
    judged: Callable[[dspy.LM], Metric] | None = None
    asks: str | tuple[str, ...] = "question"
    shows_gold: bool = True
    source: Source | None = None

    def new_program(self) -> dspy.Module:
        """A fresh program that answers the task."""
        if isinstance(self.program, (str, type)):
            return dspy.Predict(cast("type[dspy.Signature]", self.program))
        return self.program()

    def read(self, data_dir: str | Path | None = None) -> Pools:
        """Every row, from a local folder or from where the task's loader finds them; rows that do not fit are named.

        Raises:
            TaskDataError: the rows cannot be had at all.
        """
        return Pools.of(self.loader(None if data_dir is None else Path(data_dir)))

    def splits(self, data_dir: str | Path | None = None, *, seed: int = 0, limit: int | None = None) -> Splits:
        """Training, validation and test examples, at most `limit` of each.

        Raises:
            TaskDataError: the rows cannot be had, some do not fit, or they are too few.
        """
        pools = self.read(data_dir)
        pools.check()
        return drawn(pools, self.sizes.limited(limit), seed=seed, asks=self.asks)

    def golden(self, example: dspy.Example) -> dspy.Prediction:
        """The answer that must score 1.0."""
        if self.gold is not None:
            return self.gold(example)
        signatures = [cast("type[dspy.Signature]", each.signature) for each in self.new_program().predictors()]
        names = {name for signature in signatures for name in signature.output_fields}
        return dspy.Prediction(**{name: example[name] for name in names if name in example})

    def with_metric(self, name: str) -> Task:
        """The same task judged by another of its `metrics`.

        >>> from optimizers.tasks import task
        >>> task("hotpotqa").with_metric("exact_match").metric.__name__
        'exact_match'
        """
        if name not in self.metrics:
            known = ", ".join(self.metrics) or "no other"
            raise SetupError(f"The task {self.name} has no metric {name!r}. There is {known}.")
        return replace(self, metric=self.metrics[name])

    def with_judge(self, lm: dspy.LM) -> Task:
        """The same task judged by an LM that reads the question, the expected answer and the one that came."""
        if self.judged is None:
            raise SetupError(f"The task {self.name} takes no judge: its metric needs none.")
        return replace(self, metric=self.judged(lm))
