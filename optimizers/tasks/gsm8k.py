"""GSM8K: grade-school word problems whose answer is one number."""

from __future__ import annotations

from pathlib import Path

import dspy
from pydantic import BaseModel

from optimizers.tasks.definition import Source, Task
from optimizers.tasks.loading import HubData
from optimizers.tasks.numerals import final_number
from optimizers.tasks.splitting import Sizes
from sgt_modules.errors import MetricError


class Row(BaseModel):
    """A row of the hub's: `answer` is worked out and ends in `#### n`."""

    question: str
    answer: str


class SolveTheProblem(dspy.Signature):
    """Solve the problem."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="the final number")


def _example(row: Row, _: Path | None) -> dspy.Example:
    working, mark, number = row.answer.rpartition("####")
    if not mark or final_number(number) is None:
        raise ValueError(f"answer: expected it to end in '#### ' and a number, got {row.answer[-40:]!r}")
    return dspy.Example(question=row.question, answer=number.strip(), working=working.strip()).with_inputs("question")


def final_answer(
    example: dspy.Example,
    prediction: dspy.Prediction,
    trace: object = None,
    pred_name: object = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """1.0 where the answer ends in the expected number, exactly, else 0.0; see `numerals.final_number`.

    Raises `MetricError` where the gold answer holds no number.

    >>> final_answer(dspy.Example(answer="18"), dspy.Prediction(answer="That makes $20.")).feedback
    'Expected 18, got 20, which is 2 too much.'
    """
    expected, came = final_number(str(example.answer)), final_number(str(prediction.get("answer", "")))
    if expected is None:
        raise MetricError(f"The gold answer {example.answer!r} holds no number. Check the data.")
    if came is None:
        said = str(prediction.get("answer", ""))[:200]
        return dspy.Prediction(score=0.0, feedback=f"Expected {example.answer}, but no number stands in {said!r}.")
    if came == expected:
        return dspy.Prediction(score=1.0, feedback=f"{example.answer} is right.")
    apart = f"{abs(came - expected)} too {'much' if came > expected else 'little'}"
    return dspy.Prediction(score=0.0, feedback=f"Expected {example.answer}, got {came}, which is {apart}.")


TASK = Task(
    name="gsm8k",
    description="Grade-school word problems; the final number must be right.",
    program=SolveTheProblem,
    metric=final_answer,
    loader=HubData(
        hub="openai/gsm8k",
        configuration="main",
        revision="740312add88f781978c0658806c59bc2815b9866",
        splits={"train": ("train",), "test": ("test",)},
        row=Row,
        example=_example,
    ),
    sizes=Sizes(train=300, val=300, test=1319),
    source=Source("Cobbe et al. 2021, arXiv 2110.14168", "MIT"),
)
