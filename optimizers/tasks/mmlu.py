"""MMLU: multiple choice in 57 subjects."""

from __future__ import annotations

from pathlib import Path

import dspy
from pydantic import BaseModel

from optimizers.tasks.choices import ChooseAnOption, letter_options, make_choice_example, right_letter
from optimizers.tasks.definition import Source, Task
from optimizers.tasks.loading import HubData, Nested


class MMLURow(BaseModel):
    """A row of the data set: `answer` is the index of the right choice."""

    question: str
    subject: str
    choices: Nested[list[str]]
    answer: int


def _to_example(row: MMLURow, _: Path | None) -> dspy.Example:
    choices = letter_options(row.choices)
    if not 0 <= row.answer < len(choices):
        raise ValueError(f"answer: expected the index of one of {len(choices)} choices, got {row.answer}")
    return make_choice_example(row.question, choices, list(choices)[row.answer], subject=row.subject)


MMLU = Task(
    name="mmlu",
    description="Multiple choice in 57 subjects, from school to profession.",
    program=ChooseAnOption,
    metric=right_letter,
    loader=HubData(
        hub="cais/mmlu",
        configuration="all",
        revision="c30699e8356da336a370243923dbaf21066bb9fe",
        splits={"train": ("validation", "dev"), "test": ("test",)},
        row=MMLURow,
        example=_to_example,
        files={"validation": ("validation", "valid", "val"), "dev": ("dev",)},
    ),
    source=Source("Hendrycks et al. 2021, arXiv 2009.03300", "MIT"),
)
