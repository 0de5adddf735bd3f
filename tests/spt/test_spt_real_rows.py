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
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import dspy
import pytest
from scripted import ScriptedEngine, reply

from optimizers.spt.result import SPTResult
from optimizers.spt.teleprompter import SupervisoryPromptTeleprompter
from optimizers.tasks import task

DATA = os.environ.get("SGT_REAL_DATA")
pytestmark = [
    pytest.mark.skipif(not DATA, reason="SGT_REAL_DATA names no folder with rows of the public data sets."),
    pytest.mark.slow,
]

HINTS = ("Work step by step.", "Check the answer before you give it.")
BEFORE = "Answer the question."
PROMPTS = [
    *("Be brief.", f"{BEFORE} {HINTS[0]}", "Guess.", f"{BEFORE} {HINTS[0]}"),
    *(f"{BEFORE} {HINTS[0]} {HINTS[1]}", "Be kind.", "", f"{BEFORE} {HINTS[0]}"),
]
"""What the corrector writes in two rounds of four candidates."""

EACH = 40
"""Examples a split."""


def third(question: str) -> int:
    return zlib.crc32(question.strip().encode()) % 3


def replaying(name: str, examples: Sequence[dspy.Example]) -> ScriptedEngine:
    """An actor that replays the gold answer, in words of its own, or another, by the rule of this file."""
    gold = {example.question.strip(): example.answer for example in examples}

    def answer(text: str) -> str:
        instructions = text.rpartition("your objective is:")[2].partition("[[ ##")[0]
        asked = text.rpartition("[[ ## question ## ]]\n")[2]
        question = re.split(r"\n\n(?:\[\[ ## options|Respond with)", asked)[0].strip()
        known = {0, *(n + 1 for n, hint in enumerate(HINTS) if hint in instructions)}
        wrong = "-1" if name == "gsm8k" else "A" if gold[question] != "A" else "B"
        return reply(answer=f"It is {gold[question] if third(question) in known else wrong}")

    return ScriptedEngine(answer, whole=True)


@pytest.mark.parametrize("name", ["gsm8k", "truthfulqa", "mmlu", "medqa"])
def test_the_loop_runs_end_to_end_on_real_rows(name: str, tmp_path: Path) -> None:
    wanted = task(name)
    splits = wanted.splits(Path(str(DATA)) / name, seed=0, limit=EACH)
    train, val = splits.train, splits.val
    assert len(train) == len(val) == EACH
    acting, said = replaying(name, [*train, *val]), iter(PROMPTS)
    writing = ScriptedEngine(lambda _: reply(new_prompt=next(said)))
    spt = SupervisoryPromptTeleprompter(
        wanted.metric,
        writing.lm("scripted/corrector"),
        rounds=2,
        num_threads=1,
        log_dir=tmp_path / "run",
        display_progress=False,
    )
    student = dspy.Predict(cast("type[dspy.Signature]", wanted.program).with_instructions(BEFORE))
    with dspy.context(lm=acting.lm()):
        better = spt.compile(student, trainset=train, valset=val)
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
    assert f"Verdict: Expected {first.answer}" in writing.asked[0]
    assert found.corrector.calls == len(writing.asked) == 8
    assert [row["sentence"] for row in found.impact_table()] == [BEFORE, BEFORE, HINTS[0]]
    report = json.loads((tmp_path / "run" / "prompts.json").read_text())
    assert list(report["scores"]) == ["student", "round1", "round2"]
    assert HINTS[1] in report["rounds"][1]["diff"]
