"""HotpotQA: questions that need two passages to answer."""

from __future__ import annotations

from pathlib import Path

import dspy
from pydantic import BaseModel

from optimizers.tasks.answers import exact_match, f1
from optimizers.tasks.definition import Source, Task
from optimizers.tasks.loading import HubData, Nested


class Context(BaseModel):
    """Passages: their titles, and the sentences of each."""

    title: list[str]
    sentences: list[list[str]]


class HotpotQARow(BaseModel):
    """A row of the data set; `context` may be missing."""

    question: str
    answer: str
    type: str = ""
    level: str = ""
    context: Nested[Context | None] = None


class AnswerFromPassages(dspy.Signature):
    """Answer the question in a few words, from the passages where there are any."""

    context: list[str] = dspy.InputField(desc="passages, some of which matter")
    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="a name, a date, a number, yes or no: nothing else")


def _to_example(row: HotpotQARow, _: Path | None) -> dspy.Example:
    if not row.answer.strip():
        raise ValueError("answer: expected a text, got none")
    passages = row.context or Context(title=[], sentences=[])
    if len(passages.title) != len(passages.sentences):
        raise ValueError(f"context: {len(passages.title)} titles for {len(passages.sentences)} passages")
    texts = [
        f"{title}: {''.join(sentences).strip()}"
        for title, sentences in zip(passages.title, passages.sentences, strict=True)
    ]
    example = dspy.Example(context=texts, question=row.question, answer=row.answer, type=row.type, level=row.level)
    return example.with_inputs("context", "question")


HOTPOTQA = Task(
    name="hotpotqa",
    description="Questions over two of ten passages; F1 of the answer's words.",
    program=AnswerFromPassages,
    metric=f1,
    metrics={"f1": f1, "exact_match": exact_match},
    loader=HubData(
        hub="hotpotqa/hotpot_qa",
        configuration="distractor",
        revision="1908d6afbbead072334abe2965f91bd2709910ab",
        splits={"train": ("train",), "test": ("validation",)},
        row=HotpotQARow,
        example=_to_example,
    ),
    source=Source("Yang et al. 2018, arXiv 1809.09600", "CC BY-SA 4.0"),
)
