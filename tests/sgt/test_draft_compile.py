"""Drafts in a compile: no call is paid twice, a right draft teaches [none], and the result counts what is saved."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import dspy
import pytest
from hypothesis import given
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, query, reply, rollout, winners_and_losers
from small_compile import SMALL, WORLD, compiled, gold, teleprompter

from optimizers import Recipe, SGTTeleprompter
from optimizers.core.drafts import DraftCount
from optimizers.core.estimate import Probe
from optimizers.core.records import PreferencePair, Rollout, SFTExample
from optimizers.core.result import result_of
from optimizers.sgt.draft_rules import prefer_drafts
from optimizers.sgt.estimate import estimate_sgt
from optimizers.sgt.preference_pairs import preference_pairs
from optimizers.sgt.sft_data import balance_kinds
from sgt_modules.embedded import program
from sgt_modules.errors import RunFolderError, SetupError
from sgt_modules.kinds import SILENCE, Supplement

DRAFTED = replace(SMALL, draft=True)
NOTE = "Look it up."


def easy(question: str) -> bool:
    """Whether the actor needs no help: of every second question."""
    asked = [each.question for split in WORLD.splits.values() for each in split]
    return sum(asked.index(each) for each in asked if each in question) % 2 == 0


def sometimes(text: str) -> str:
    """Answer like an actor that is right where it needs no help, or reads a note of the kind `background`."""
    return gold(text) if easy(text) or "[background]" in text else reply(sql="SELECT 1")


def wise(prompt: str) -> Supplement:
    """Keep a draft that is no SELECT 1, as a trained generator would."""
    return Supplement("background", NOTE) if "Draft of sql: SELECT 1" in prompt.splitlines() else SILENCE


def curious(prompt: str) -> Supplement:
    """Write a note of the kind that exploration asks for."""
    kind = prompt.rpartition("\nKind: ")[2].partition(".")[0] if "\nKind: " in prompt else "cot"
    return Supplement("rule" if kind.startswith("a new one") else kind, NOTE)


def drafted(log_dir: Path, trainer: ScriptedTrainer, **changes: object) -> tuple[dspy.Module, ScriptedEngine]:
    generator = ScriptedGenerator(curious, trained=ScriptedGenerator(wise))
    return compiled(sometimes, log_dir, generator=generator, trainer=trainer, **{"recipe": DRAFTED, **changes})


def test_a_compile_with_drafts_asks_nothing_twice(tmp_path: Path) -> None:
    better, engine = drafted(tmp_path, ScriptedTrainer())
    assert max(Counter(engine.asked).values()) == 1
    assert sum(NOTE not in text for text in engine.asked) == len(WORLD.train) + len(WORLD.val)
    spent = result_of(better).spent
    assert spent.actor_calls == len(engine.asked)


def test_right_drafts_teach_none_and_wrong_ones_teach_notes(tmp_path: Path) -> None:
    trainer = ScriptedTrainer()
    drafted(tmp_path, trainer)
    rows = [each for each in trainer.rows["sft"] if isinstance(each, SFTExample)]
    pairs = [each for each in trainer.rows["dpo1"] if isinstance(each, PreferencePair)]
    assert {each.completion == "[none]" for each in rows} == {True, False}
    for each in rows:
        right = "Draft of sql: SELECT 1" not in each.prompt.splitlines()
        assert (each.completion == "[none]") == right
    for each in pairs:
        right = "Draft of sql: SELECT 1" not in each.prompt.splitlines()
        assert (each.chosen == "[none]") == right


def test_the_result_counts_the_drafts_that_were_the_answer(tmp_path: Path) -> None:
    better, engine = drafted(tmp_path, ScriptedTrainer())
    result = result_of(better)
    kept = sum(easy(each.question) for each in WORLD.val)
    assert result.stage("none").drafts is None
    assert result.stage("sft").drafts == DraftCount(len(WORLD.val), kept)
    assert result.draft
    assert str(DraftCount(len(WORLD.val), kept)) in result.notes
    assert result.best.score == 1.0
    before = len(engine.asked)
    with dspy.context(lm=engine.lm()):
        for each in WORLD.val:
            assert WORLD.metric(each, better(**each.inputs())).score == 1.0
    assert len(engine.asked) - before == round(result.best.drafts.actor_calls * len(WORLD.val))


def test_a_folder_resumes_only_with_the_same_option(tmp_path: Path) -> None:
    drafted(tmp_path, ScriptedTrainer())
    again, more = drafted(tmp_path, ScriptedTrainer())
    assert more.asked == []
    assert result_of(again).stage("sft").drafts is not None
    with pytest.raises(RunFolderError, match="draft"):
        drafted(tmp_path, ScriptedTrainer(), recipe=SMALL)
    assert "draft" not in SMALL.recorded


class Chain(dspy.Module):
    """Two predictors, the second of which reads the first one's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.Predict("question -> plan")
        self.solve = dspy.Predict("plan -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.solve(plan=self.plan(question=question).plan)


def plan_and_solve(text: str) -> str:
    """Answer like an actor that needs a note, for the plan or for the solution."""
    advised = "Look it up." in text
    if "`[[ ## plan ## ]]`" in text:
        number = text.partition("[[ ## question ## ]]\n")[2].split()[0]
        return reply(plan=f"{'good' if advised else 'bad'} {number}")
    return reply(answer="yes" if "good" in text or advised else "no")


CHAINED = [dspy.Example(question=f"q{n} ?", answer="yes").with_inputs("question") for n in range(8)]


def chained(
    log_dir: Path, credit: str, trainer: ScriptedTrainer, **changes: object
) -> tuple[dspy.Module, ScriptedEngine]:
    engine, generator = ScriptedEngine(plan_and_solve), ScriptedGenerator(curious, trained=ScriptedGenerator(curious))
    settings = {"num_threads": 2, "log_dir": log_dir, "display_progress": False, **changes}
    sgt = SGTTeleprompter(
        lambda example, prediction, trace=None: example.answer == prediction.answer,
        generator,
        recipe=DRAFTED,
        trainer=trainer,
        credit=credit,
        **settings,
    )
    with dspy.context(lm=engine.lm()):
        return sgt.compile(Chain(), trainset=CHAINED[:4], valset=CHAINED[4:]), engine


@pytest.mark.parametrize("credit", ["isolate", "joint"])
def test_a_program_of_several_predictors_pays_for_no_unaided_call_of_the_first_again(
    credit: str, tmp_path: Path
) -> None:
    trainer = ScriptedTrainer()
    better, engine = chained(tmp_path, credit, trainer)
    first = Counter(each for each in engine.asked if "`[[ ## plan ## ]]`" in each and "supplement" not in each)
    by_question = {each.question: first[text] for each in CHAINED for text in first if each.question in text}
    own = CHAINED if credit == "joint" else CHAINED[4:]  # in isolated runs the other place is silent, and paid for
    assert [by_question[each.question] for each in own] == [1] * len(own)
    prompts = [each.prompt for rows in trainer.rows.values() for each in rows]
    assert prompts
    assert all("Draft of " in prompt for prompt in prompts)
    assert result_of(better).spent.actor_calls == len(engine.asked)


@pytest.mark.parametrize("calls", [17, 20, 33])
def test_a_resumed_run_pays_for_no_draft_of_the_session_before(calls: int, tmp_path: Path) -> None:
    """The unaided runs of both splits take 16 calls, and any call without a supplement after them is a draft's."""
    stopped, first = chained(tmp_path, "joint", ScriptedTrainer(), max_actor_calls=calls, num_threads=1)
    assert result_of(stopped).stopped
    better, second = chained(tmp_path, "joint", ScriptedTrainer(), num_threads=1)
    assert not result_of(better).stopped
    unaided = Counter(text for text in [*first.asked, *second.asked] if "supplement" not in text)
    assert max(unaided.values()) == 1
    spent = result_of(better).spent
    assert spent.actor_calls == len(first.asked) + len(second.asked)


def test_another_folder_with_the_same_store_pays_for_no_draft_again(tmp_path: Path) -> None:
    where = tmp_path / "shared.sqlite"
    _, first = chained(tmp_path / "a", "joint", ScriptedTrainer(), store=where, num_threads=1)
    _, second = chained(tmp_path / "b", "joint", ScriptedTrainer(), store=where, num_threads=1)
    assert not {text for text in second.asked if "supplement" not in text}
    assert first.asked


@given(winners_and_losers())
def test_only_notes_to_queries_with_a_right_draft_lose(rollouts: list[Rollout]) -> None:
    right = {each.query.id for each in rollouts if not each.supplement and each.won(1.0)}
    for before, after in zip(rollouts, prefer_drafts(rollouts), strict=True):
        if before.query.id in right and before.supplement and before.reward is not None:
            assert after.reward is not None
            assert after.reward.score == 0.0
        else:
            assert after == before


def test_rows_and_pairs_of_one_easy_and_one_hard_query() -> None:
    easy_, hard = query("easy"), query("hard")
    tried = [rollout(1.0, of=easy_, kind="none", text=""), rollout(1.0, of=easy_), rollout(None, of=easy_, text="b")]
    tried += [rollout(0.0, of=hard, kind="none", text=""), rollout(1.0, of=hard), rollout(0.0, of=hard, text="c")]
    preferred = prefer_drafts(tried)
    rows = balance_kinds(preferred, max_per_kind=9, silence=True, rng=random.Random(0))
    assert {(each.query, each.completion) for each in rows} == {("easy", "[none]"), ("hard", "[cot] think")}
    pairs = preference_pairs(preferred, rng=random.Random(0))
    assert {(each.query, each.chosen, each.rejected) for each in pairs} >= {
        ("easy", "[none]", "[cot] think"),
        ("hard", "[cot] think", "[cot] c"),
    }
    assert not balance_kinds(tried[:1], max_per_kind=9, rng=random.Random(0))


def test_drafts_need_silence() -> None:
    with pytest.raises(SetupError, match="silence=True with draft=True"):
        Recipe(draft=True, silence=False)


def test_an_estimate_counts_drafts_at_inference_and_where_the_generator_writes_during_a_run() -> None:
    plain, recipe = Recipe(rounds=1), Recipe(rounds=1, draft=True)
    sizes = {"train": 10, "validation": 5, "epochs": (3, 1)}
    one = estimate_sgt(recipe, **sizes, probe=None)
    assert (one.at_inference, estimate_sgt(plain, **sizes, probe=None).at_inference) == (2.0, None)
    assert one.stages == estimate_sgt(plain, **sizes, probe=None).stages
    assert "up to 2.0 actor calls" in " ".join(str(one).split())
    assert "With drafts" not in str(estimate_sgt(plain, **sizes, probe=None))
    probe = Probe(calls=2.0, places=2.0)
    several, before = (estimate_sgt(each, **sizes, probe=probe) for each in (recipe, plain))
    assert several.at_inference == 4.0
    calls = [{stage.name: stage.actor_calls for stage in each.stages} for each in (several, before)]
    assert calls[0]["sft"] == 2 * calls[1]["sft"]
    assert calls[0]["warm"] == calls[1]["warm"]


def test_an_estimate_by_the_teleprompter_knows_the_option(tmp_path: Path) -> None:
    sgt = teleprompter(tmp_path, recipe=DRAFTED, generator=ScriptedGenerator(curious))
    assert sgt.estimate(program(), WORLD.train, WORLD.val).at_inference == 2.0
