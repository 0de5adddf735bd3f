"""Whatever a model writes, a metric gives a score in [0, 1] and says so soon."""

from __future__ import annotations

import time
from collections.abc import Callable

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.core.reward import Scorer
from optimizers.tasks import task
from optimizers.tasks.choices import make_choice_example
from optimizers.tasks.replies import visible_reply

LETTERS = make_choice_example("Which?", {"A": "one", "B": "I", "C": "3"}, "C", true=["C"], answer_type="multipleChoice")
GOLD = {"gsm8k": "18", "hotpotqa": "The Chief", "hle": "18"}


def score(name: str, answer: str) -> float:
    found = task(name)
    gold = dspy.Example(question="?", answer=GOLD[name], answer_type="exactMatch") if name in GOLD else LETTERS
    return Scorer(found.metric)(gold, dspy.Prediction(answer=answer, probabilities=answer)).score


NAMES = ["gsm8k", "hotpotqa", "hle", "mmlu", "truthfulqa_mc2"]
PIECES = [
    "A",
    "B.",
    "(C",
    ")",
    "answer is",
    "####",
    "\\boxed{",
    "}",
    "$",
    "1,000",
    "-",
    "/",
    "0",
    "not",
    "and",
    "\n",
    "%",
    "e9",
    "½",
]


@pytest.mark.parametrize("name", NAMES)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join),
        st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    )
)
def test_any_text_has_a_score(name: str, answer: str) -> None:
    assert 0 <= score(name, answer) <= 1


ENDLESS: dict[str, Callable[[int], str]] = {
    "digits": lambda size: "9" * size,
    "commas": lambda size: "1," * size,
    "thousands": lambda size: "111," * size,
    "a power": lambda size: "1e" + "9" * size,
    "fractions": lambda size: "1/" * size,
    "dollars": lambda size: "$" * size + "x",
    "brackets": lambda size: "(" * size,
    "quotes": lambda size: '"' * size + "x",
    "boxes": lambda size: "\\boxed{" * size,
    "braces": lambda size: "\\boxed{" + "{" * size,
    "thoughts": lambda size: "<think>" * size,
    "spaces": lambda size: "answer is" + " " * size,
    "answers": lambda size: "the answer is " * size,
    "letters": lambda size: "A and " * size,
    "words": lambda size: "one hundred and " * size,
    "lines": lambda size: "A. x\n" * size,
    "stars": lambda size: "*" * size,
    "colons": lambda size: "answer" + ":" * size,
    "json": lambda size: "[" * size,
    "fields": lambda size: '{"answer": "' * size,
    "pairs": lambda size: "'answer': '" * size,
    "tags": lambda size: "<answer>" * size,
    "brackets and letters": lambda size: "((((A " * size,
    "conclusions": lambda size: "so, therefore, it is the answer is option " * size,
    "refusals": lambda size: "not if because neither guess A is " * size,
    "verdicts": lambda size: "A is wrong. B is right. " * size,
    "names": lambda size: "Dr. C. vitamin A, E. coli " * size,
    "Chinese": lambda size: "答案是A和" * size,
    "Japanese": lambda size: "Aではなく" * size,
    "Spanish": lambda size: "respuesta es la " * size,
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("name", NAMES)
def test_an_endless_answer_is_judged_soon(name: str, kind: str) -> None:
    began = time.process_time()
    assert score(name, ENDLESS[kind](100_000)) < 1
    assert time.process_time() - began < 2


def test_of_a_long_reply_both_ends_are_read() -> None:
    middle = "No numbers and no letters of options here. " * 5_000
    assert score("mmlu", f"C\n\n{middle}") == 1
    assert score("mmlu", f"{middle}\nThe answer is C.") == 1
    assert score("gsm8k", f"{middle} #### 18") == 1
    assert len(visible_reply(middle)) < 21_000
