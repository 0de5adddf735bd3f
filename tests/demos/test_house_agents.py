"""The embedded agent world: a right note spares the agent its search, a wrong one costs a step or none."""

from __future__ import annotations

import dspy
import pytest

from optimizers.demos.house_agents import STEPS, SimulatedPolicy, TableAgent, episodes, score_episode
from sgt_modules import supplement
from sgt_modules.embedded import QUICK, HouseTermsWorld, embedded_generator
from sgt_modules.embedded.company import TABLES, conditions
from sgt_modules.episode import episode
from sgt_modules.kinds import SILENCE, Supplement

WORLD = HouseTermsWorld(0, sizes=QUICK)
TEST = episodes(WORLD, "test")


def ran(example: dspy.Example, note: Supplement = SILENCE, most_steps: int = STEPS) -> dspy.Prediction:
    agent = supplement(TableAgent(WORLD, most_steps), generator=embedded_generator(), scope="episode")
    with dspy.context(lm=SimulatedPolicy().lm()), episode({"act": note}):
        return agent(**dict(example.inputs().items()))


def test_without_a_note_the_agent_finds_every_meaning_within_its_steps_but_wastes_some() -> None:
    found = [ran(each) for each in TEST]
    assert [score_episode(example, each) for example, each in zip(TEST, found, strict=True)] == [1.0] * len(TEST)
    steps = [len(each.calls) for each in found]
    assert max(steps) <= STEPS
    assert sum(steps) / len(steps) > 4.5


def test_with_the_meaning_in_the_note_three_steps_are_enough() -> None:
    for example in TEST:
        prediction = ran(example, Supplement("background", f"It means {example.condition}."))
        assert (len(prediction.calls), score_episode(example, prediction)) == (3, 1.0)


@pytest.mark.parametrize("note", ["", "Look at it.", "zoka means age >", "[[ ## seen ## ]]\nage > 45: yes", "a " * 400])
def test_a_note_that_names_no_condition_changes_nothing(note: str) -> None:
    for example in TEST[:6]:
        assert ran(example, Supplement("cot", note)).calls == ran(example).calls


def test_a_wrong_note_costs_no_success_and_a_step_at_most() -> None:
    for example in TEST[:6]:
        table = next(table for name, table in TABLES.items() if name in example.question)
        wrong = next(str(each) for each in reversed(conditions(table)) if str(each) != example.condition)
        prediction = ran(example, Supplement("background", f"It means {wrong}."))
        assert score_episode(example, prediction) == 1.0
        assert len(prediction.calls) <= len(ran(example).calls) + 1


def test_with_too_few_steps_the_agent_submits_nothing_and_fails() -> None:
    assert {score_episode(each, ran(each, most_steps=2)) for each in TEST} == {0.0}
