"""MedQA: questions in the style of the US medical licensing examination, four options each."""

from __future__ import annotations

from pathlib import Path

import dspy
from pydantic import BaseModel

from optimizers.tasks.choices import ChooseAnOption, make_choice_example, right_letter
from optimizers.tasks.definition import Source, Task
from optimizers.tasks.loading import HubData, Nested
from optimizers.tasks.splitting import Sizes


class MedQARow(BaseModel):
    """A row of the data set: `answer_idx` is the letter of the right option, `answer` its text."""

    question: str
    options: Nested[dict[str, str]]
    answer_idx: str
    answer: str


def _to_example(row: MedQARow, _: Path | None) -> dspy.Example:
    if row.options.get(row.answer_idx) != row.answer:
        raise ValueError(f"answer: expected the text of option {row.answer_idx}, got {row.answer!r}")
    return make_choice_example(row.question, row.options, row.answer_idx)


MEDQA = Task(
    name="medqa",
    description="Medical licensing questions with four options.",
    program=ChooseAnOption,
    metric=right_letter,
    loader=HubData(
        hub="GBaker/MedQA-USMLE-4-options",
        configuration=None,
        revision="0fb93dd23a7339b6dcd27e241cb9b5eca62d4d18",
        splits={"train": ("train",), "test": ("test",)},
        row=MedQARow,
        example=_to_example,
        files={"train": ("train", "phrases_no_exclude_train"), "test": ("test", "phrases_no_exclude_test")},
    ),
    sizes=Sizes(train=300, val=300, test=1273),
    source=Source("Jin et al. 2021, arXiv 2009.13081", "MIT"),
)
