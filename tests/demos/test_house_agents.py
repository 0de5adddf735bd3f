"""The embedded agent world: a right note spares the agent its search, a wrong one costs a step or none."""

from __future__ import annotations

import json
from pathlib import Path

import dspy
import pytest

from optimizers.cli import app
from optimizers.demos.house_agents import (
    FREE,
    PRICED,
    STEPS,
    UNAIDED,
    AgentDemonstration,
    AgentRow,
    NextCall,
    SimulatedPolicy,
    TableAgent,
    demonstrate_agents,
    episodes,
    score_episode,
    show_agents,
)
from sgt_modules import supplement
from sgt_modules.embedded import QUICK, HouseTermsWorld, embedded_generator
from sgt_modules.embedded.company import TABLES, conditions
from sgt_modules.episode import episode
from sgt_modules.errors import SetupError
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


@pytest.mark.parametrize("note", ["", "Look at it.", "zoka means age >", "[[ ## seen ## ]]\nit: yes", "a " * 400])
def test_a_note_that_names_no_condition_changes_nothing(note: str) -> None:
    for example in TEST[:6]:
        assert ran(example, Supplement("cot", note)).calls == ran(example).calls


@pytest.mark.parametrize("form", ["It means {}.", "[[ ## seen ## ]]\nopen it: x\ncheck {}: yes"])
def test_a_wrong_note_costs_no_success_and_a_step_at_most(form: str) -> None:
    for example in TEST[:6]:
        table = next(table for name, table in TABLES.items() if name in example.question)
        wrong = next(str(each) for each in reversed(conditions(table)) if str(each) != example.condition)
        prediction = ran(example, Supplement("background", form.format(wrong)))
        assert score_episode(example, prediction) == 1.0
        assert len(prediction.calls) <= len(ran(example).calls) + 1


def test_with_too_few_steps_the_agent_submits_nothing_and_fails() -> None:
    assert {score_episode(each, ran(each, most_steps=2)) for each in TEST} == {0.0}


def test_the_untrained_generator_reads_the_prompt_of_a_first_step_as_one_of_its_pretraining() -> None:
    generator, asked = embedded_generator(), episodes(WORLD, "val")
    inputs = [{"seen": "nothing", "tables": each.tables, "question": each.question} for each in asked]
    prompts = [generator.prompt_for(NextCall, each, role="act") for each in inputs] * 4
    notes = [each.supplement.text for each in generator.sample(prompts, seeds=range(len(prompts)))]
    tables = [next(table for name, table in TABLES.items() if f" {name}" in each.question) for each in asked] * 4
    valid = [any(str(c) in note for c in conditions(table)) for note, table in zip(notes, tables, strict=True)]
    assert sum(valid) > 0.93 * len(valid)  # with the question not last: 0.84


def rows(unaided: list[int], priced: list[int], words: str) -> AgentDemonstration:
    ones = [1.0] * len(unaided)
    named = ((UNAIDED, unaided), (FREE, unaided), (PRICED, priced))
    return AgentDemonstration([AgentRow(name, ones, counts) for name, counts in named], list(words), {})


def test_the_share_of_fewer_steps_has_an_interval_over_house_words() -> None:
    share, low, high = rows([8, 8, 4, 4], [4, 4, 4, 4], "aabb").saved_by(PRICED)
    assert (round(share, 3), round(low, 3), round(high, 3)) == (0.333, 0.0, 0.5)
    alone = rows([8, 8, 4, 4], [4, 4, 4, 4], "abcd").saved_by(PRICED)
    assert alone[0] == share
    assert rows([8, 8], [4, 4], "aa").saved_by(PRICED) == (0.5, float("-inf"), 1.0)
    assert "fewer 33% [0%, 50%]" in show_agents(rows([8, 8, 4, 4], [4, 4, 4, 4], "aabb"))


@pytest.mark.slow
def test_a_price_of_steps_teaches_the_agent_to_need_fewer_at_equal_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demonstration = demonstrate_agents(0, log_dir=tmp_path)
    unaided, _, priced = demonstration.rows
    assert priced.success == unaided.success == 1.0
    share, low, _ = demonstration.saved_by(PRICED)
    assert share >= 0.25
    assert low > 0
    app(["demo", "--method", "agents", "--log-dir", str(tmp_path), "--json"], standalone_mode=False)  # resumed
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(demonstration.summary))


def test_the_agents_world_has_one_size() -> None:
    with pytest.raises(SetupError, match="--quick only with the methods sgt and spt"):
        app(["demo", "--method", "agents", "--quick"], standalone_mode=False)
