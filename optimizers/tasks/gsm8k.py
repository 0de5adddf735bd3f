"""GSM8K: grade-school word problems with one number as answer."""

from __future__ import annotations

from pathlib import Path

import dspy
from pydantic import BaseModel

from optimizers.tasks.definition import Source, Task
from optimizers.tasks.loading import HubData
from optimizers.tasks.numerals import read_final_number
from optimizers.tasks.splitting import Sizes
from sgt_modules.errors import MetricError


class GSM8KRow(BaseModel):
    """A row of the data set: `answer` is a worked solution that ends in `#### n`."""

    question: str
    answer: str


class SolveTheProblem(dspy.Signature):
    """Solve the problem."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="the final number")


def _to_example(row: GSM8KRow, _: Path | None) -> dspy.Example:
    working, mark, number = row.answer.rpartition("####")
    if not mark or read_final_number(number) is None:
        raise ValueError(f"answer: expected it to end in '#### ' and a number, got {row.answer[-40:]!r}")
    return dspy.Example(question=row.question, answer=number.strip(), working=working.strip()).with_inputs("question")


def final_answer(example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
    """Score 1.0 if the answer ends in exactly the expected number, else 0.0; see `numerals.read_final_number`.

    Raises `MetricError` if the gold answer holds no number.

    >>> final_answer(dspy.Example(answer="18"), dspy.Prediction(answer="That makes $20.")).feedback
    'Expected 18, got 20, which is 2 too much.'
    """
    expected, actual = read_final_number(str(example.answer)), read_final_number(str(prediction.get("answer", "")))
    if expected is None:
        raise MetricError(f"The gold answer {example.answer!r} holds no number. Check the data.")
    if actual is None:
        text = str(prediction.get("answer", ""))[:200]
        return dspy.Prediction(score=0.0, feedback=f"Expected {example.answer}, but {text!r} has no number.")
    if actual == expected:
        return dspy.Prediction(score=1.0, feedback=f"{example.answer} is right.")
    apart = f"{abs(actual - expected)} too {'much' if actual > expected else 'little'}"
    return dspy.Prediction(score=0.0, feedback=f"Expected {example.answer}, got {actual}, which is {apart}.")


GSM8K = Task(
    name="gsm8k",
    description="Grade-school word problems; the final number must be right.",
    program=SolveTheProblem,
    metric=final_answer,
    loader=HubData(
        hub="openai/gsm8k",
        configuration="main",
        revision="740312add88f781978c0658806c59bc2815b9866",
        splits={"train": ("train",), "test": ("test",)},
        row=GSM8KRow,
        example=_to_example,
    ),
    sizes=Sizes(train=300, val=300, test=1319),
    source=Source("Cobbe et al. 2021, arXiv 2110.14168", "MIT"),
)
