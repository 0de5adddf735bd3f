"""Defines a task: where its rows come from, the program that answers them, and the metric that judges."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import dspy

from optimizers.core.reward import Metric
from optimizers.tasks.rows import LoaderResult, Pools
from optimizers.tasks.splitting import Sizes, Splits, draw_splits
from sgt_modules.errors import SetupError

Loader = Callable[[Path | None], LoaderResult]
"""Reads a task's rows, from a local folder if one is given."""

ProgramLike = str | type[dspy.Signature] | Callable[[], dspy.Module]
"""A signature, which a `dspy.Predict` answers, or a function that returns a program."""


@dataclass(frozen=True, slots=True)
class Source:
    """The paper that introduced a task, and the licence of its rows."""

    paper: str
    licence: str


@dataclass(frozen=True)
class Task:
    """A data set, a program and a metric, ready to be compiled and compared.

    `metrics` holds further metrics by name. `judge_metric` builds a metric from a judge LM, for open answers. `gold`
    builds the prediction that the metric must score 1.0; the default takes the program's output fields from the
    example. `question_fields` names the fields whose texts never occur in two splits. If `shows_gold`, a bench adds the
    gold outputs to the training examples, for contenders that show examples. `cluster` returns what a question shares
    with others, as in `Problem`.

    >>> capitals = [("France", "Paris"), ("Peru", "Lima"), ("Kenya", "Nairobi")]
    >>> task = Task(
    ...     name="capitals",
    ...     description="A country's capital.",
    ...     program="country -> capital",
    ...     metric=lambda example, prediction: example.capital == prediction.capital,
    ...     loader=lambda folder: [dspy.Example(country=a, capital=b).with_inputs("country") for a, b in capitals],
    ... )
    >>> len(task.splits().train), task.gold_prediction(task.splits().test[0]).keys()
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
    judge_metric: Callable[[dspy.LM], Metric] | None = None
    question_fields: str | tuple[str, ...] = "question"
    shows_gold: bool = True
    source: Source | None = None
    cluster: Callable[[dspy.Example], Hashable | None] | None = None

    def new_program(self) -> dspy.Module:
        """Return a fresh program that answers the task."""
        if isinstance(self.program, (str, type)):
            return dspy.Predict(cast("type[dspy.Signature]", self.program))
        return self.program()

    def read(self, data_dir: str | Path | None = None) -> Pools:
        """Read every row, from a local folder or from the loader's own source; rows that do not fit are listed.

        Raises:
            TaskDataError: the rows cannot be read at all.
        """
        return Pools.of(self.loader(None if data_dir is None else Path(data_dir)))

    def splits(self, data_dir: str | Path | None = None, *, seed: int = 0, limit: Sizes | int | None = None) -> Splits:
        """Draw training, validation and test examples, at most `limit` of each, or at most the limit's own sizes.

        Raises:
            TaskDataError: the rows cannot be read, some do not fit, or there are too few.
        """
        pools = self.read(data_dir)
        pools.check()
        return draw_splits(pools, self.sizes.with_limit(limit), seed=seed, question_fields=self.question_fields)

    def gold_prediction(self, example: dspy.Example) -> dspy.Prediction:
        """Return the answer that must score 1.0."""
        if self.gold is not None:
            return self.gold(example)
        signatures = [cast("type[dspy.Signature]", each.signature) for each in self.new_program().predictors()]
        names = {name for signature in signatures for name in signature.output_fields}
        return dspy.Prediction(**{name: example[name] for name in names if name in example})

    def with_metric(self, name: str) -> Task:
        """Return the same task with another of its `metrics`.

        >>> from optimizers.tasks import task
        >>> task("hotpotqa").with_metric("exact_match").metric.__name__
        'exact_match'
        """
        if name not in self.metrics:
            names = ", ".join(self.metrics) or "no other"
            raise SetupError(f"The task {self.name} has no metric {name!r}. There is {names}.")
        return replace(self, metric=self.metrics[name])

    def with_judge(self, lm: dspy.LM) -> Task:
        """Return the same task judged by an LM that reads the question, the expected answer and the actual answer."""
        if self.judge_metric is None:
            raise SetupError(f"The task {self.name} takes no judge: its metric needs none.")
        return replace(self, metric=self.judge_metric(lm))
