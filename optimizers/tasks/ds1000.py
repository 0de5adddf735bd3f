"""DS-1000: data-science problems answered in Python and judged by running the code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
from pydantic import BaseModel

from optimizers.tasks.definition import Source, Task
from optimizers.tasks.ds1000_metric import ds1000_metric
from optimizers.tasks.loading import HubData, Nested
from optimizers.tasks.splitting import Sizes


class Metadata(BaseModel):
    """The part of a row's metadata that is read."""

    library: str


class DS1000Row(BaseModel):
    """A row of the data set: `code_context` defines the tests that a solution must pass."""

    prompt: str
    reference_code: str
    code_context: str
    metadata: Nested[Metadata]


class CompleteTheCode(dspy.Signature):
    """Solve the problem. Give only the code that goes in the place left open, without its setup."""

    prompt: str = dspy.InputField()
    code: str = dspy.OutputField(desc="Python code alone")


def _to_example(row: DS1000Row, _: Path | None) -> dspy.Example:
    if "def test_execution" not in row.code_context:
        raise ValueError("code_context: expected it to define test_execution(solution)")
    tests: Mapping[str, Any] = {"code_context": row.code_context, "reference_code": row.reference_code}
    example = dspy.Example(prompt=row.prompt, library=row.metadata.library, **tests)
    return example.with_inputs("prompt")


DS1000 = Task(
    name="ds1000",
    description="Data-science problems in Python; the code must pass the tests.",
    program=CompleteTheCode,
    metric=ds1000_metric,
    loader=HubData(
        hub="xlangai/DS-1000",
        configuration=None,
        revision="4416080ac5cb80bdf7576aefb8f9a0b4d5426a44",
        splits={"train": ("test",)},
        row=DS1000Row,
        example=_to_example,
    ),
    sizes=Sizes(train=200, val=200, test=600),
    gold=lambda example: dspy.Prediction(code=example.reference_code),
    question_fields="prompt",
    source=Source("Lai et al. 2023, arXiv 2211.11501", "CC BY-SA 4.0"),
)
