"""Stages are compared on the same examples, and a failure that a supplement caused is a loss."""

from __future__ import annotations

import random
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import AuthError, ContextLengthError, InvalidRequestError, LM15Error, RateLimitError, ServerError
from prompted import TRAIN, VAL, corrector, follows, spt, student
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply
from small_compile import WORLD, compiled, writer

from optimizers import SPTRecipe
from optimizers.comparison.control_rows import build_control_row
from optimizers.comparison.leaderboard import rank_rows
from optimizers.comparison.outcomes import TrialOutcome
from optimizers.core.best_stage import mean_gain, select_best
from optimizers.core.evidence import Evidence
from optimizers.core.records import Candidate, Query, Reward, Rollout
from optimizers.core.reward import Scorer
from optimizers.core.verdict import write_verdict
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Scored
from optimizers.sgt.gating import gate_examples
from optimizers.sgt.preference_pairs import preference_pairs
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.episode import Call, Place
from sgt_modules.gate import Gate
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.wrapping import supplement

EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(4)]
LONG, SHORT = Supplement("cot", "word " * 50), Supplement("answer", "Add one.")


def stage(*scores: float | None) -> list[Rollout]:
    """A stage's rollouts on the same questions; None is one without a reward."""
    return [
        Rollout(Query(f"q{n}", n, "self", "?"), "sft/val", "", SILENCE, None if score is None else Reward(score))
        for n, score in enumerate(scores)
    ]


def raised_with(text: str, error: LM15Error) -> str:
    """An actor that adds, but for prompts with a long supplement, for which its provider raises."""
    if "word word" in text:
        raise error
    number = text.split("+1?")[0].split()[-1]
    return reply(answer=str(int(number) + 1))


def tried(folder: Path, error: LM15Error, *, bare: bool = True) -> tuple[list[Rollout], ScriptedEngine, RolloutStore]:
    """A long and a short supplement on each question, after the program alone, which `bare` says is answered."""
    engine = ScriptedEngine(lambda text: raised_with(text if bare else f"{text} word word", error))
    wrapped = supplement(dspy.Predict("question -> answer"), generator=ScriptedGenerator(lambda _: SHORT))
    wrapped.set_lm(engine.lm())
    store = RolloutStore(folder / "rollouts.sqlite")
    actor = RolloutEngine(
        wrapped, Scorer(lambda example, got: example.answer == got.answer), store, "scope", max_errors=99
    )
    queries = actor.probe(EXAMPLES).queries
    candidates = [Candidate(query, each, "free") for query in queries for each in (LONG, SHORT)]
    return actor.run(candidates, EXAMPLES, stage="warm"), engine, store


REFUSALS = [
    ContextLengthError("context_length_exceeded", status=400),
    InvalidRequestError("content_filter", status=400),
    AuthError("flagged by moderation", status=403),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda each: type(each).__name__)
def test_a_prompt_that_a_supplement_made_too_long_is_a_loss_where_the_unaided_call_was_answered(
    tmp_path: Path, error: LM15Error
) -> None:
    rollouts, engine, store = tried(tmp_path, error)
    assert [each.reward for each in rollouts[::2]] == [Reward(0.0)] * 4
    assert all(each.won() for each in rollouts[1::2])
    assert all(each.error for each in rollouts[::2])
    paid = len(engine.asked)
    again = RolloutStore(tmp_path / "rollouts.sqlite")
    assert again.get("scope", rollouts[0].query.id, LONG) is not None, "a loss is known, and not paid again"
    assert len(engine.asked) == paid
    again.close()
    store.close()


def test_a_refused_supplement_is_the_loser_of_a_pair(tmp_path: Path) -> None:
    rollouts, _, store = tried(tmp_path, REFUSALS[0])
    pairs = preference_pairs(rollouts, rng=random.Random(0))
    assert {(each.chosen, each.rejected) for each in pairs} == {(SHORT.reply(), LONG.reply())}
    assert len({each.query for each in pairs}) == 4
    store.close()


@pytest.mark.parametrize("error", [RateLimitError("slow down"), ServerError("busy", status=503)], ids=["429", "503"])
def test_a_provider_s_outage_is_no_reward_even_where_the_unaided_call_was_answered(
    tmp_path: Path, error: LM15Error
) -> None:
    rollouts, _, store = tried(tmp_path, error)
    assert [each.reward for each in rollouts[::2]] == [None] * 4
    store.close()


def test_a_prompt_that_is_refused_without_a_supplement_too_says_nothing_of_it(tmp_path: Path) -> None:
    rollouts, _, store = tried(tmp_path, REFUSALS[0], bare=False)
    assert [each.reward for each in rollouts] == [None] * 8
    store.close()


def test_stages_are_compared_on_the_examples_that_both_answered() -> None:
    none = stage(0, 1, 1, 1)
    assert select_best([none, stage(None, 1, None, None)]) == 0, "1.0 of 1 is the same there as .75 of 4"
    assert select_best([none, stage(1, 1, None, 1)]) == 1
    assert select_best([none, stage(None, None, None, None)]) == 0
    assert mean_gain(none, stage(1, 0, None, 1)) == 0.0


def test_no_chain_of_comparisons_selects_a_stage_that_is_worse_than_the_program_that_came_in() -> None:
    came_in, first, second = stage(0, 1, 1), stage(1, None, None), stage(None, 0, 1)
    assert select_best([came_in, first]) == 1
    assert select_best([came_in, first, second]) == 1
    assert select_best([came_in, second, first]) == 2
    assert select_best([stage(1, 1), stage(0, 1), stage(0, 1)], came_in=1) == 0, "none beats the student's supplements"


def overflowing(text: str) -> str:
    """Three of four validation questions are won alone; with a supplement, the prompt of most is too long."""
    asked = next(each for split in WORLD.splits.values() for each in split if each.question in text)
    aided = text.partition("[[ ## supplement ## ]]")[2].partition("[[ ##")[0].strip()
    place = next((n for n, each in enumerate(WORLD.val) if each is asked), -1)
    if aided and place > 0:
        raise ContextLengthError("context_length_exceeded", status=400)
    right = len(aided) % 2 if place < 0 else bool(aided) or place > 0
    return reply(sql=WORLD.gold_sql(asked) if right else "SELECT 1")


def test_a_stage_whose_supplements_overflow_the_actor_is_not_selected_and_the_run_says_so(tmp_path: Path) -> None:
    better, _ = compiled(overflowing, tmp_path / "run", generator=writer(), trainer=ScriptedTrainer())
    result = better.detailed_results
    sft = result.stage("sft")
    assert result.stage("none").score == pytest.approx(1 - 1 / len(WORLD.val))
    assert sft.score == pytest.approx(1 / len(WORLD.val))
    assert all(each.reward is not None for each in sft.rollouts)
    assert result.selected == "none"
    assert "ContextWindowExceededError" in result.verdict
    assert "count as lost" in result.verdict


def interrupted(text: str) -> str:
    """As `overflowing`, but the provider is down."""
    try:
        return overflowing(text)
    except ContextLengthError as problem:
        raise ServerError("busy", status=503) from problem


def test_what_had_no_reward_is_a_note_and_is_in_no_comparison(tmp_path: Path) -> None:
    better, _ = compiled(interrupted, tmp_path / "run", generator=writer(), trainer=ScriptedTrainer(), max_errors=999)
    result = better.detailed_results
    missing = len(WORLD.val) - 1
    told = next(note for note in result.notes if note.startswith("sft: "))
    assert f"{missing} of {len(WORLD.val)} validation questions" in told
    assert "LMServerError" in told


def test_a_gate_learns_from_the_supplements_that_overflow() -> None:
    lost = Scored(stage(0.0), [[Call(Place("self"), "?", LONG, -0.5)]])
    assert [(each.score, each.without) for each in gate_examples(Gate.of(["?"]), lost, stage(1.0))] == [(0.0, 1.0)]


def test_rows_of_a_comparison_are_means_over_the_examples_that_every_contender_answered() -> None:
    none = TrialOutcome("none", 0, {"x": 0.0, "y": 1.0, "z": 1.0})
    lucky = TrialOutcome("lucky", 0, {"x": None, "y": 1.0, "z": None})
    rows = {row.name: row for row in rank_rows([none, lucky])}
    assert rows["none"].test == rows["lucky"].test == 1.0
    assert rows["lucky"].gain == 0.0
    assert rows["lucky"].unanswered == 2
    assert rows["none"].by_seed == {0: 1.0}


def test_a_control_s_gain_is_over_the_questions_that_both_answered() -> None:
    row = build_control_row("filler", stage(None, 1), none=stage(0, 1))
    assert (row.gain, row.questions, row.unanswered) == (0.0, 1, 1)


def too_long_for_small_ones(text: str) -> str:
    """An actor that follows its instructions, whose provider refuses small questions under long ones."""
    if "Be polite." in text and "small " in text.rpartition("[[ ## question ## ]]")[2]:
        raise ContextLengthError("context_length_exceeded", status=400)
    return follows(text)


def test_instructions_that_are_too_long_for_questions_that_were_answered_lose_on_them(tmp_path: Path) -> None:
    longer = "Carry the one. Be polite."
    with dspy.context(lm=ScriptedEngine(too_long_for_small_ones, whole=True).lm()):
        better = spt(corrector([longer] * 4), tmp_path, recipe=SPTRecipe(rounds=1)).compile(
            student(), trainset=TRAIN, valset=VAL
        )
    [round_] = better.detailed_results.rounds
    assert round_.train == (4 / 8, 2 / 8), "two carry questions turn right, four small ones are refused"
    assert not round_.accepted
    assert better.detailed_results.selected == "student"


def test_a_verdict_says_that_refused_prompts_count_as_lost() -> None:
    long = [
        Rollout(Query(f"q{n}", n, "self", "?"), "warm", "", LONG, Reward(0.0), error="ContextWindowExceededError: long")
        for n in range(4)
    ]
    said = write_verdict(Evidence(stage(1, 1, 1, 0), unaided=stage(1, 1, 1, 0), tried=long))
    assert "4 of these count as lost, as it answered the same questions without a supplement" in said
    assert "max_new_tokens" in said
