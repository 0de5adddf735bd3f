"""Local Prompt Optimization: only marked words change, whatever the LM writes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEngine, reply

from optimizers.comparison.local_edits import mark, optimize_with_local_edits, read_marks, replace_marked
from optimizers.core.reward import Scorer

TRAIN = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(4)]
VAL = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(4, 8)]
GUESS = "Read the question. Guess the answer."


def graded(example: dspy.Example, prediction: dspy.Prediction) -> dspy.Prediction:
    return dspy.Prediction(score=float(example.answer == prediction.answer), feedback="Add one.")


def adds_when_told(text: str) -> str:
    """An actor that is right only under instructions to add."""
    found = re.search(r"(\d)\+1\?", text.rpartition("[[ ## question ## ]]")[2])
    assert found
    return reply(answer=str(int(found[1]) + ("Add" in text)))


def proposing(marked: str, *rewritten: str) -> ScriptedEngine:
    left = iter(rewritten)

    def write(text: str) -> str:
        return reply(rewritten=next(left)) if "`[[ ## rewritten ## ]]`" in text else reply(marked=marked)

    return ScriptedEngine(write)


def optimized(proposer: ScriptedEngine, steps: int = 1, instructions: str = GUESS) -> str:
    student = dspy.Predict(dspy.Signature("question -> answer", instructions))
    with dspy.context(lm=ScriptedEngine(adds_when_told, whole=True).lm()):
        better = optimize_with_local_edits(
            student, TRAIN, VAL, scorer=Scorer(graded), proposer=proposer.lm("scripted/proposer"), steps=steps
        )
    assert student.signature.instructions == instructions
    return better.predictors()[0].signature.instructions


MARKED = "Read the question. <edit>Guess the answer</edit>."


@pytest.mark.parametrize(
    ("marked", "rewritten", "kept"),
    [
        (MARKED, ["Read the question. <edit>Add the numbers</edit>.", "no tag"], "Read the question. Add the numbers."),
        (MARKED, ["Forget all! <edit>Add</edit> whatever.", ""], "Read the question. Add."),  # nothing else may change
        (MARKED, ["<edit>Subtract</edit>", "<edit>Guess again</edit>"], GUESS),  # no better on validation
        (MARKED, ["Add the numbers.", "<edit>Add</edit><edit>Add</edit>"], GUESS),  # other marks than were given
        (
            "Read the question.<edit></edit> Guess the answer.",
            ["<edit> Add.</edit>"] * 2,
            f"{GUESS[:18]} Add.{GUESS[18:]}",
        ),
        ("You should write <edit>add</edit>", ["<edit>Add</edit>"] * 2, GUESS),  # no copy of the instructions
        ("", ["<edit>Add</edit>"] * 2, GUESS),
        (GUESS, ["<edit>Add</edit>"] * 2, GUESS),  # nothing marked
        ("Read <edit>the question. Guess the answer.", ["<edit>Add</edit>"] * 2, GUESS),  # a mark without an end
    ],
)
def test_only_marked_words_change_and_only_for_a_better_score(marked: str, rewritten: Sequence[str], kept: str) -> None:
    assert optimized(proposing(marked, *rewritten)) == kept


def test_a_reply_that_cannot_be_read_changes_nothing() -> None:
    assert optimized(ScriptedEngine(lambda text: "I would rather talk about the weather.")) == GUESS


def test_the_proposer_reads_the_mistakes_and_is_not_asked_where_there_are_none() -> None:
    proposer = proposing(MARKED, "<edit>Add</edit>", "<edit>Add</edit>", "never asked")
    assert optimized(proposer, steps=3) == "Read the question. Add."
    assert len(proposer.asked) == 3
    assert all(each.count("Verdict: Add one.") == 4 for each in proposer.asked)
    assert all("question: 0+1?\nThe model wrote: answer: 0\nExpected: answer: 1" in each for each in proposer.asked)
    assert MARKED in proposer.asked[1]


words = st.lists(st.sampled_from(["read", "the", "answer", "sum", "it", "all,", "now."]), min_size=8, max_size=30)


@given(words, st.data())
def test_marks_are_found_where_they_stand_and_the_rest_stays(each: list[str], data: st.DataObject) -> None:
    text = " ".join(each)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    assert read_marks(text, mark(text, [(start, end)])) == [(start, end)]
    assert replace_marked(text, [(start, end)], "so <edit>NEW</edit>") == f"{text[:start]}NEW{text[end:]}"
