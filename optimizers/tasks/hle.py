"""Humanity's Last Exam: expert questions with a short or a lettered answer."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Literal

import dspy
from pydantic import BaseModel

from optimizers.tasks.answers import is_same
from optimizers.tasks.definition import Source, Task
from optimizers.tasks.judge import Judge
from optimizers.tasks.letters import read_letters
from optimizers.tasks.loading import HubData

_OPTION = re.compile(r"^\s*([A-Z])[.):]\s+(.*)$", re.M)
_OPTIONS = re.compile(r"^\s*answer choices\s*:?\s*$", re.M | re.I)


class HLERow(BaseModel):
    """A row of the data set; `image` is empty for a question in words alone."""

    id: str = ""
    question: str
    answer: str
    answer_type: Literal["exactMatch", "multipleChoice"]
    image: str | None = None
    category: str = ""


class AnswerExactly(dspy.Signature):
    """Answer the question. Give the final answer alone, short and exact; of lettered choices, the letter."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


def _to_example(row: HLERow, _: Path | None) -> dspy.Example:
    if not row.answer.strip():
        raise ValueError("answer: expected a text, got none")
    more = {"answer_type": row.answer_type, "category": row.category}
    return dspy.Example(question=row.question, answer=row.answer, **more).with_inputs("question")


def parse_choices(question: str) -> dict[str, str]:
    """Return the lettered choices at the end of a question's text.

    >>> parse_choices("Which?\\n\\nAnswer Choices:\\nA. one\\nB. two")
    {'A': 'one', 'B': 'two'}
    """
    heading = _OPTIONS.search(question)
    return {letter: text.strip() for letter, text in _OPTION.findall(question[heading.end() if heading else 0 :])}


def is_exact(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    """Return whether the answer is right without a judge: the right letter, the same text, or the same number."""
    expected, actual = str(example.answer), str(prediction.get("answer", ""))
    if example.get("answer_type") != "multipleChoice" or len(expected.strip()) != 1:
        return is_same(expected, actual)
    letter = expected.strip().upper()
    return read_letters(actual, {letter: letter, **parse_choices(str(example.question))}) == (letter,)


def exact_answer(example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
    """Score 1.0 for an exact answer, else 0.0; stricter than the paper, whose judge accepts other wordings too.

    >>> exact_answer(dspy.Example(answer="42", answer_type="exactMatch"), dspy.Prediction(answer="$42$.")).score
    1.0
    """
    right, actual = is_exact(example, prediction), str(prediction.get("answer", ""))
    verdict = "is right" if right else f"was expected, got {actual[:200]!r}"
    return dspy.Prediction(score=float(right), feedback=f"{example.answer!r} {verdict}.")


HLE = Task(
    name="hle",
    description="Expert questions with a short or a lettered answer, those without images.",
    program=AnswerExactly,
    metric=exact_answer,
    judge_metric=partial(Judge, exact=is_exact),
    loader=HubData(
        hub="cais/hle",
        configuration=None,
        revision="5a81a4c7271a2a2a312b9a690f0c2fde837e4c29",
        splits={"train": ("test",)},
        row=HLERow,
        example=_to_example,
        skip_reason=lambda row: "their questions need an image" if row.image else "",
    ),
    source=Source("Phan et al. 2025, arXiv 2501.14249", "MIT"),
)
