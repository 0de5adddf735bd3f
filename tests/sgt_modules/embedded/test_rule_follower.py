"""The actor of house rules does as its instructions say, whatever their number and order, and as usual otherwise."""

from __future__ import annotations

import random
from collections.abc import Sequence

import dspy
import pytest

from sgt_modules.embedded import embedded_actor
from sgt_modules.embedded.rules import list_program
from sgt_modules.embedded.rules.conventions import ASKED, IDLE, KINDS, Question, random_question
from sgt_modules.embedded.rules.following import find_readings

Asked = tuple[str, Question, str]
"""Instructions, a question, and the answer they ask for."""


def share_right(asked: Sequence[Asked]) -> float:
    """The share of questions that the actor answers so."""
    program = list_program()
    run = dspy.Parallel(num_threads=64, disable_progress_bar=True)
    pairs = []
    for instructions, question, _ in asked:
        told = program.deepcopy()
        told.predict.signature = told.predict.signature.with_instructions(instructions or " ")
        pairs.append((told, {"fruit": question.fruit, "question": question.text()}))
    with dspy.context(lm=embedded_actor("rule-follower"), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        answers = run(pairs)
    right = [given.answer == expected for given, (_, _, expected) in zip(answers, asked, strict=True)]
    return sum(right) / len(right)


def told(kind: str, rng: random.Random, others: int) -> Asked:
    """A question under a sentence that turns another reading of its kind on, among sentences about others."""
    about = rng.sample([each for each in KINDS if each != kind], others)
    said = [rng.choice(KINDS[each].sentences_for(rng.choice(list(KINDS[each].readings)))) for each in about]
    said += [rng.choice(KINDS[kind].sentences_for(rng.choice(KINDS[kind].others))), rng.choice(IDLE)]
    instructions = " ".join(rng.sample(said, len(said)))
    question = random_question(kind, rng)
    return instructions, question, question.answer(find_readings(instructions)[kind])


@pytest.mark.parametrize("others", [0, 4, 9])
def test_it_does_as_a_sentence_says_among_any_number_of_others(others: int) -> None:
    rng = random.Random(others)
    assert share_right([told(kind, rng, others) for kind in ASKED for _ in range(15)]) >= 0.95


@pytest.mark.parametrize("kind", ASKED)
def test_it_does_so_for_every_kind_of_question(kind: str) -> None:
    rng = random.Random(kind)
    assert share_right([told(kind, rng, others) for others in range(10) for _ in range(3)]) >= 0.9


def test_it_answers_as_usual_where_no_sentence_speaks_of_the_kind() -> None:
    rng = random.Random(3)
    asked: list[Asked] = []
    for kind in ASKED:
        for silent in (True, False):
            for _ in range(8):
                other = rng.choice([each for each in KINDS if each != kind])
                said = (
                    [] if silent else [rng.choice(KINDS[other].sentences_for(KINDS[other].others[0])), rng.choice(IDLE)]
                )
                question = random_question(kind, rng)
                asked.append((" ".join(said), question, question.answer(KINDS[kind].default)))
    assert share_right(asked) >= 0.95
