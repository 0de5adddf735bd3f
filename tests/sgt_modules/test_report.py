"""The world's program of two predictors, of which only the first needs help."""

from __future__ import annotations

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedGenerator, reply

from sgt_modules import supplement
from sgt_modules.embedded import HouseTermsWorld, Sizes
from sgt_modules.embedded.report import Report, ReportMetric, report_examples
from sgt_modules.episode import episode
from sgt_modules.kinds import SILENCE

WORLD = HouseTermsWorld(0, sizes=Sizes(train=8, validation=4, test=4, shifted=4, terms=4, shifted_terms=4))
PLAIN = [example for example in WORLD.train if not example.term]
WRONG = "SELECT 1"


def gold(question: str) -> str:
    """The query that answers one of the world's questions."""
    return WORLD.gold_sql(next(each for split in WORLD.splits.values() for each in split if each.question == question))


def score(example: dspy.Example, **sql: str) -> dspy.Prediction:
    answers = {"sql": gold(example.question), "aside_sql": gold(example.aside)} | sql
    return ReportMetric(WORLD.database)(example, dspy.Prediction(**answers))


def test_each_example_keeps_its_question_and_gets_a_plain_one_in_turn() -> None:
    examples = report_examples(WORLD.train)
    assert [each.question for each in examples] == [each.question for each in WORLD.train]
    assert [each.rows for each in examples] == [each.rows for each in WORLD.train]
    assert [each.aside for each in examples] == [PLAIN[n % len(PLAIN)].question for n in range(len(WORLD.train))]
    assert [each.aside_rows for each in examples] == [PLAIN[n % len(PLAIN)].rows for n in range(len(WORLD.train))]
    assert {frozenset(each.inputs().keys()) for each in examples} == {frozenset({"tables", "question", "aside"})}
    assert "aside" not in WORLD.train[0]


def test_each_question_is_answered_by_its_own_predictor() -> None:
    engine = ScriptedEngine(lambda text: reply(sql=text.rpartition("[[ ## question ## ]]\n")[2].partition("\n")[0]))
    [example] = report_examples(WORLD.train)[:1]
    with dspy.context(lm=engine.lm()):
        prediction = Report()(**example.inputs())
    assert (prediction.sql, prediction.aside_sql) == (example.question, example.aside)


def test_the_generator_reads_which_of_the_two_predictors_it_writes_for() -> None:
    program = supplement(Report(), generator=ScriptedGenerator(lambda _: SILENCE))
    [example] = report_examples(WORLD.train)[:1]
    with dspy.context(lm=ScriptedEngine(lambda _: reply(sql=WRONG)).lm()), episode(None) as run:
        program(**example.inputs())
    (main,), (side,) = run.prompts["main"], run.prompts["side"]
    assert "Role: main (tables, question -> sql)" in main.splitlines()
    assert "Role: side (tables, question -> sql)" in side.splitlines()
    assert main.endswith(f"question: {example.question}")
    assert side.endswith(f"question: {example.aside}")


@pytest.mark.parametrize("example", report_examples(WORLD.train)[:3], ids=["first", "second", "third"])
def test_only_two_right_queries_are_a_success_and_the_feedback_is_on_the_wrong_one(example: dspy.Example) -> None:
    right = score(example)
    assert (right.score, right.feedback) == (1.0, "Both are right.")
    wrong_main, wrong_side = score(example, sql=WRONG), score(example, aside_sql=WRONG)
    both = score(example, sql=WRONG, aside_sql=WRONG)
    assert (wrong_main.score, wrong_side.score, both.score) == (0.0, 0.0, 0.0)
    assert both.feedback == f"{wrong_main.feedback} {wrong_side.feedback}"
