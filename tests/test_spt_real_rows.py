"""Supervisory Prompt Training end to end on rows of GSM8K, TruthfulQA, MMLU and MedQA: from loading to report.

The actor is no model: it replays answers by rule. Without a hint it is right on a third of the questions, and on
another third for each of two hints in its instructions; a question's text says of which third it is. So the scores say
nothing of any model; what is shown is that the loop works on the real questions, answers and mistakes.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import pytest
from scripted import ScriptedEngine, reply

from optimizers.spt import SupervisoryPromptTeleprompter
from optimizers.spt_result import SPTResult

DATA = os.environ.get("SGT_REAL_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="SGT_REAL_DATA names no folder with rows of the public data sets.")

HINTS = ("Work step by step.", "Check the answer before you give it.")
BEFORE = "Answer the question."
PROMPTS = [
    *("Be brief.", f"{BEFORE} {HINTS[0]}", "Guess.", f"{BEFORE} {HINTS[0]}"),
    *(f"{BEFORE} {HINTS[0]} {HINTS[1]}", "Be kind.", "", f"{BEFORE} {HINTS[0]}"),
]
"""What the corrector writes in two rounds of four candidates."""

LETTERS = "ABCDEFGHIJKLM"


@dataclass(frozen=True)
class Task:
    """A data set: its file, a row as the question and the answer of an example, and whether an answer is right."""

    name: str
    file: str
    example: Callable[[Any], tuple[str, str]]
    right: Callable[[str, str], bool]


def choices(question: str, options: Sequence[str], gold: int) -> tuple[str, str]:
    lines = [question, *(f"({LETTERS[n]}) {option}" for n, option in enumerate(options))]
    return "\n".join(lines), LETTERS[gold]


def truthful(row: Any) -> tuple[str, str]:
    """The choices in the order of their checksums, as the file has the right one first."""
    options = sorted(row["mc1_targets"], key=lambda option: zlib.crc32(option.encode()))
    return choices(row["question"], options, options.index(max(row["mc1_targets"], key=row["mc1_targets"].get)))


def number(text: str) -> str:
    found = re.findall(r"-?\d[\d,]*\.?\d*", text)
    return found[-1].replace(",", "").rstrip(".") if found else ""


def letter(text: str) -> str:
    found = re.search(r"\(?([A-M])\)?\b", text)
    return found[1] if found else ""


TASKS = [
    Task(
        "gsm8k",
        "gsm8k/train.jsonl",
        lambda row: (row["question"], row["answer"].rpartition("#### ")[2]),
        lambda gold, said: float(number(said) or "nan") == float(number(gold)),
    ),
    Task("truthfulqa", "truthfulqa/mc_task.jsonl", truthful, lambda gold, said: letter(said) == gold),
    Task(
        "mmlu",
        "mmlu/dev.jsonl",
        lambda row: choices(row["question"], row["choices"], row["answer"]),
        lambda gold, said: letter(said) == gold,
    ),
    Task(
        "medqa",
        "medqa/test.jsonl",
        lambda row: choices(row["question"], list(row["options"].values()), LETTERS.index(row["answer_idx"])),
        lambda gold, said: letter(said) == gold,
    ),
]


def loaded(task: Task, count: int) -> list[dspy.Example]:
    """The first rows of a task whose questions differ."""
    rows = map(json.loads, (Path(str(DATA)) / task.file).read_text(encoding="utf-8").splitlines())
    found = dict(map(task.example, rows))
    return [dspy.Example(question=each, answer=found[each]).with_inputs("question") for each in list(found)[:count]]


def third(question: str) -> int:
    return zlib.crc32(question.encode()) % 3


def replaying(task: Task, examples: Sequence[dspy.Example]) -> ScriptedEngine:
    """An actor that replays the gold answer, in words of its own, or another, by the rule of this file."""
    gold = {example.question: example.answer for example in examples}

    def answer(text: str) -> str:
        instructions = text.rpartition("your objective is:")[2].partition("[[ ##")[0]
        question = text.rpartition("[[ ## question ## ]]\n")[2].partition("\n\nRespond with")[0]
        known = {0, *(n + 1 for n, hint in enumerate(HINTS) if hint in instructions)}
        wrong = "-1" if task.name == "gsm8k" else "A" if gold[question] != "A" else "B"
        return reply(answer=f"It is {gold[question] if third(question) in known else wrong}")

    return ScriptedEngine(answer, whole=True)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_loop_runs_end_to_end_on_real_rows(task: Task, tmp_path: Path) -> None:
    examples = loaded(task, 90)
    assert len(examples) == 90
    train, val = examples[:60], examples[60:]
    acting, said = replaying(task, examples), iter(PROMPTS)
    writing = ScriptedEngine(lambda _: reply(new_prompt=next(said)))

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> dspy.Prediction:
        right = task.right(example.answer, prediction.answer)
        return dspy.Prediction(score=float(right), feedback="" if right else f"The answer is {example.answer}.")

    spt = SupervisoryPromptTeleprompter(
        metric,
        writing.lm("scripted/corrector"),
        rounds=2,
        num_threads=1,
        log_dir=tmp_path / "run",
        display_progress=False,
    )
    with dspy.context(lm=acting.lm()):
        better = spt.compile(dspy.Predict(dspy.Signature("question -> answer", BEFORE)), trainset=train, valset=val)
    found: SPTResult = better.detailed_results
    wrong = [n for n, example in enumerate(train) if third(example.question) != 0]
    still = [n for n in wrong if third(train[n].question) == 2]
    assert [list(each.mistakes) for each in found.rounds] == [wrong, still]
    assert [each.accepted for each in found.rounds] == [True, True]
    assert better.signature.instructions == PROMPTS[4]
    shares = [sum(third(example.question) <= n for example in val) / len(val) for n in range(3)]
    assert [stage.score for stage in found.stages] == pytest.approx(shares)
    shown = [n for each in found.rounds[0].candidates for n in each.shown]
    assert set(shown) <= set(wrong)
    first = train[found.rounds[0].candidates[0].shown[0]]
    assert first.question.splitlines()[0] in writing.asked[0]
    assert f"Verdict: The answer is {first.answer}." in writing.asked[0]
    assert found.corrector.calls == len(writing.asked) == 8
    assert [row["sentence"] for row in found.impact_table()] == [BEFORE, BEFORE, HINTS[0]]
    report = json.loads((tmp_path / "run" / "prompts.json").read_text())
    assert list(report["scores"]) == ["student", "round1", "round2"]
    assert HINTS[1] in report["rounds"][1]["diff"]
