"""SuperGPQA: graduate-level multiple choice in 285 fields, up to ten options each."""

from __future__ import annotations

from pathlib import Path

import dspy
from pydantic import BaseModel

from optimizers.tasks.choices import ChooseAnOption, letter_options, make_choice_example, right_letter
from optimizers.tasks.definition import Source, Task
from optimizers.tasks.loading import HubData, Nested


class SuperGPQARow(BaseModel):
    """A row of the data set: `answer` is the text of the right option, `answer_letter` its letter."""

    question: str
    options: Nested[list[str]]
    answer: str
    answer_letter: str
    discipline: str = ""
    field: str = ""
    difficulty: str = ""


def _to_example(row: SuperGPQARow, _: Path | None) -> dspy.Example:
    choices = letter_options(row.options)
    if choices.get(row.answer_letter) != row.answer:
        raise ValueError(f"answer: expected the text of option {row.answer_letter!r}, got {row.answer!r}")
    more = {"discipline": row.discipline, "field": row.field, "difficulty": row.difficulty}
    return make_choice_example(row.question, choices, row.answer_letter, **more)


SUPERGPQA = Task(
    name="supergpqa",
    description="Graduate-level multiple choice in 285 fields, up to ten options.",
    program=ChooseAnOption,
    metric=right_letter,
    loader=HubData(
        hub="m-a-p/SuperGPQA",
        configuration=None,
        revision="4430d4458112c7d4497fdcf94d7cc223313d6acf",
        splits={"train": ("train",)},
        row=SuperGPQARow,
        example=_to_example,
        files={"train": ("train", "supergpqa-all", "supergpqa")},
    ),
    source=Source("M-A-P Team 2025, arXiv 2502.14739", "ODC-BY"),
)
