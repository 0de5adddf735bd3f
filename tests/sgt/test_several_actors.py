"""Several frozen actors train one generator: the reward is the mean, and each actor's runs are stored as its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import RateLimitError
from scripted import UNREADABLE, ScriptedEngine, ScriptedTrainer, reply, rollout
from small_compile import SMALL, WORLD, gold, helped, teleprompter, writer

from optimizers import LoggedOutcome, SGTTeleprompter
from optimizers.core.actors import identify_actor, name_actors
from optimizers.core.cost import Cost, Pricing
from optimizers.core.records import Effort, Query, Reward, Rollout
from optimizers.core.result import SGTResult, result_of
from optimizers.core.run_folder import ACTORS_FILE
from optimizers.rollouts.several_actors import merge_rollouts
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import errors
from sgt_modules.embedded import program
from sgt_modules.kinds import SILENCE

BACKGROUND = "[background]"
Script = Callable[[str], str]


def stubborn(text: str) -> str:
    """Answer like an actor that reads no advice."""
    return reply(sql="SELECT 1")


def down(text: str) -> str:
    """Fail as a provider does."""
    raise RateLimitError("try later")


def engines(*scripts: Script) -> dict[str, ScriptedEngine]:
    return {f"scripted/{name}": ScriptedEngine(script) for name, script in zip("abc", scripts, strict=False)}


def lms(asked: dict[str, ScriptedEngine]) -> list[dspy.LM]:
    return [engine.lm(name) for name, engine in asked.items()]


def run(
    log_dir: Path, actors: Sequence[dspy.LM] | None = None, *, student: dspy.Module | None = None, **changes: Any
) -> tuple[SGTResult, dspy.Module]:
    given = {"generator": writer(), "trainer": ScriptedTrainer(), "actors": actors}
    better = teleprompter(log_dir, **given | changes).compile(
        student or program(), trainset=WORLD.train, valset=WORLD.val
    )
    return result_of(better), better


def rewards(log_dir: Path, run_name: str = "run", stage: str | None = None) -> list[Rollout]:
    with RolloutStore(log_dir / "rollouts.sqlite") as store:
        return store.rollouts(stage=stage, run=run_name)


def test_the_reward_of_a_supplement_is_the_mean_over_the_actors(tmp_path: Path):
    asked = engines(helped, stubborn)
    result, _ = run(tmp_path / "run", lms(asked))
    for each in rewards(tmp_path / "run"):
        expected = 0.5 if BACKGROUND in each.supplement.render() else 0.0
        assert each.reward is not None
        assert each.reward.score == expected, each.supplement
    by_name = {stage.name: stage for stage in result.stages}
    assert by_name["none"].score == 0.0
    assert by_name["none"].by_actor == {"scripted/a": 0.0, "scripted/b": 0.0}


def test_every_supplement_is_run_by_every_actor_once(tmp_path: Path):
    asked = engines(helped, gold)
    result, _ = run(tmp_path / "run", lms(asked))
    one, two = asked.values()
    assert sorted(one.asked) == sorted(two.asked)
    assert len(set(one.asked)) == len(one.asked)
    assert result.spent.actor_calls == len(one.asked) + len(two.asked)


def test_each_actor_is_scored_and_counted_by_itself(tmp_path: Path):
    asked = engines(helped, gold)
    result, _ = run(tmp_path / "run", lms(asked))
    assert result.selected != "none"
    content = json.loads((tmp_path / "run" / ACTORS_FILE).read_text())
    assert {name: each["calls"] for name, each in content.items()} == {
        name: len(engine.asked) for name, engine in asked.items()
    }
    tokens = sum(each["tokens_in"] for each in content.values())
    assert tokens == result.spent.actor.tokens_in
    assert content["scripted/a"]["scores"]["none"] == 0.0
    assert content["scripted/a"]["scores"][result.selected] == 1.0
    assert content["scripted/b"]["scores"] == {stage.name: 1.0 for stage in result.stages}
    said = f"no supplement -> {result.selected}: scripted/a 0.000 -> 1.000 ({len(asked['scripted/a'].asked)} calls); "
    assert any(said in note for note in result.notes)
    written = json.loads((tmp_path / "run/result.json").read_text())
    assert any("By actor, validation scores" in note for note in written["notes"])
    assert written["scores"]["none"] == 0.5
    assert "By actor, validation scores" in (tmp_path / "run/report.html").read_text()


def test_an_actor_that_fails_leaves_no_reward_of_the_others_alone(tmp_path: Path):
    asked = engines(helped, lambda text: down(text) if BACKGROUND in text else stubborn(text))
    result, _ = run(tmp_path / "run", lms(asked), max_errors=100)
    helping = [each for each in rewards(tmp_path / "run") if BACKGROUND in each.supplement.render()]
    assert helping
    assert all(each.reward is None and each.error.endswith("(actor scripted/b)") for each in helping)
    assert all("RateLimitError: [scripted/b] try later" in each.error for each in helping)
    alone = [
        each.reward.score
        for each in rewards(tmp_path / "run", "run scripted/a")
        if BACKGROUND in each.supplement.render() and each.reward is not None
    ]
    assert set(alone) == {1.0}
    assert result.selected == "none"


def test_the_actors_after_one_that_failed_are_not_asked(tmp_path: Path):
    asked = engines(down, gold)
    with pytest.raises(errors.SGTError, match="2 runs of the actor in a row gave no reward"):
        run(tmp_path / "run", lms(asked), max_errors=2)
    assert asked["scripted/b"].asked == []


def test_after_an_outage_only_the_failed_actor_is_paid_again(tmp_path: Path):
    is_down = [True]
    asked = engines(helped, lambda text: down(text) if is_down[0] else helped(text))
    with pytest.raises(errors.SGTError, match="2 runs of the actor in a row gave no reward"):
        run(tmp_path / "run", lms(asked), max_errors=2, num_threads=1)
    one, two = asked.values()
    assert (len(one.asked), len(two.asked)) == (2, 2)
    is_down[0] = False
    result, _ = run(tmp_path / "run", lms(asked), num_threads=1)
    assert len(set(one.asked)) == len(one.asked)
    assert len(two.asked) - len(set(two.asked)) == 2
    assert result.best.score == 1.0
    assert result.spent.actor_calls == len(one.asked) + len(two.asked) - 2


@pytest.mark.parametrize("reply_", UNREADABLE.values(), ids=UNREADABLE)
def test_an_actor_whose_answers_cannot_be_read_counts_as_wrong(tmp_path: Path, reply_: Script):
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    with dspy.context(adapter=adapter):
        result, _ = run(tmp_path / "run", lms(engines(gold, reply_)))
    assert {stage.score for stage in result.stages} == {0.5}
    assert result.best.by_actor == {"scripted/a": 1.0, "scripted/b": 0.0}


def test_a_run_with_a_budget_goes_on_where_it_stopped_and_pays_nothing_twice(tmp_path: Path):
    whole = engines(helped, gold)
    expected, _ = run(tmp_path / "whole", lms(whole))
    asked = engines(helped, gold)
    stopped, _ = run(tmp_path / "run", lms(asked), max_actor_calls=21)
    assert stopped.stopped
    assert stopped.spent.actor_calls == 21 == sum(len(each.asked) for each in asked.values())
    result, _ = run(tmp_path / "run", lms(asked)[::-1])
    assert [(stage.name, stage.score, stage.by_actor) for stage in result.stages] == [
        (stage.name, stage.score, stage.by_actor) for stage in expected.stages
    ]
    assert {name: sorted(each.asked) for name, each in asked.items()} == {
        name: sorted(each.asked) for name, each in whole.items()
    }
    assert result.spent.actor_calls == expected.spent.actor_calls


def test_a_run_that_dies_between_two_actors_goes_on_without_paying_twice(tmp_path: Path):
    calls: list[str] = []

    def dying(text: str) -> str:
        calls.append(text)
        if len(calls) == 11:
            raise SystemExit("killed")
        return gold(text)

    whole = engines(helped, gold)
    expected, _ = run(tmp_path / "whole", lms(whole), num_threads=1)
    asked = engines(helped, dying)
    with pytest.raises(SystemExit):
        run(tmp_path / "run", lms(asked), num_threads=1)
    one, two = asked.values()
    assert len(one.asked) == 11
    result, _ = run(tmp_path / "run", lms(asked), num_threads=1)
    assert sorted(one.asked) == sorted(whole["scripted/a"].asked)
    assert len(two.asked) == len(whole["scripted/b"].asked) + 1
    assert result.spent.actor_calls == expected.spent.actor_calls
    assert [(stage.name, stage.score) for stage in result.stages] == [(s.name, s.score) for s in expected.stages]


def test_the_folder_of_other_actors_is_refused(tmp_path: Path):
    asked = engines(helped, gold, stubborn)
    run(tmp_path / "run", lms(asked)[:2])
    with pytest.raises(errors.RunFolderError, match="actors"):
        run(tmp_path / "run", lms(asked)[1:])
    with pytest.raises(errors.RunFolderError, match="actors"):
        run(tmp_path / "run", lms(asked))


def test_runs_of_one_actor_and_of_several_share_what_was_paid(tmp_path: Path):
    shared = tmp_path / "shared.sqlite"
    asked = engines(helped, gold)
    result, _ = run(tmp_path / "both", lms(asked), store=shared)
    paid = {name: len(engine.asked) for name, engine in asked.items()}
    for name, engine in asked.items():
        with dspy.context(lm=engine.lm(name)):
            alone, _ = run(tmp_path / name.replace("/", "-"), store=shared)
        assert alone.spent.actor_calls == len(engine.asked) - paid[name]
        assert len(set(engine.asked)) == len(engine.asked)
        assert alone.stages[0].score == result.stages[0].by_actor[name]
    assert len(asked["scripted/a"].asked) == paid["scripted/a"]


def test_a_run_of_several_reuses_what_one_actor_paid(tmp_path: Path):
    shared = tmp_path / "shared.sqlite"
    asked = engines(helped, gold)
    with dspy.context(lm=asked["scripted/a"].lm("scripted/a")):
        run(tmp_path / "one", store=shared)
    paid = len(asked["scripted/a"].asked)
    result, _ = run(tmp_path / "both", lms(asked), store=shared)
    assert paid == len(asked["scripted/a"].asked)
    assert result.spent.actor_calls == len(asked["scripted/b"].asked) == paid


def test_one_actor_in_a_list_is_the_same_as_that_actor_alone(tmp_path: Path):
    asked = engines(helped)
    alone = ScriptedEngine(helped)
    result, _ = run(tmp_path / "list", lms(asked))
    with dspy.context(lm=alone.lm("scripted/a")):
        other, _ = run(tmp_path / "alone")
    assert asked["scripted/a"].asked != []
    assert sorted(asked["scripted/a"].asked) == sorted(alone.asked)
    assert [(s.name, s.score) for s in result.stages] == [(s.name, s.score) for s in other.stages]
    assert not (tmp_path / "alone" / ACTORS_FILE).exists()
    assert "actors" not in json.loads((tmp_path / "alone/run.json").read_text())["settings"]
    assert other.best.by_actor == {}


def test_the_compiled_program_keeps_the_users_own_lms(tmp_path: Path):
    asked = engines(helped, gold)
    own = ScriptedEngine(helped)
    with dspy.context(lm=own.lm("scripted/own")):
        _, better = run(tmp_path / "run", lms(asked))
        assert own.asked == []
        assert [each.lm for each in better.predictors()] == [None]
        better(**dict(WORLD.test[0].inputs().items()))
    assert len(own.asked) == 1


def test_a_price_is_the_mean_of_the_actors_runs():
    one, two = (replace(rollout(1.0), effort=Effort(100 * steps, steps, 1.0)) for steps in (3, 4))
    [priced] = Pricing(Cost(steps=0.1))([merge_rollouts({"a": one, "b": two})])
    assert priced.effort == Effort(350, 3.5, 1.0)
    assert priced.price == pytest.approx(0.35)


def test_an_estimate_counts_the_calls_of_every_actor(tmp_path: Path):
    asked = engines(helped, gold)
    with dspy.context(lm=ScriptedEngine(gold).lm()):
        one = teleprompter(tmp_path / "one").estimate(program(), WORLD.train, WORLD.val)
    two = teleprompter(tmp_path / "two", actors=lms(asked)).estimate(program(), WORLD.train, WORLD.val)
    assert two.total.actor_calls == 2 * one.total.actor_calls
    assert two.total.samples == one.total.samples
    probed = teleprompter(
        tmp_path / "three", actors=lms(asked), generator=writer(), trainer=ScriptedTrainer()
    ).estimate(program(), WORLD.train, WORLD.val, probe=2)
    assert probed.stages[0].actor_calls == 2 * (len(WORLD.train) + len(WORLD.val))
    assert sum(len(each.asked) for each in asked.values()) > 0


class TwoSteps(dspy.Module):
    """A program whose second step reads what the first one answered."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> hint")
        self.second = dspy.Predict("question, hint -> sql")

    def forward(self, question: str, tables: str) -> dspy.Prediction:
        return self.second(question=question, hint=self.first(question=question).hint)


def test_a_program_of_several_places_is_refused_before_anything_is_paid(tmp_path: Path):
    asked = engines(gold, gold)
    with pytest.raises(errors.SetupError, match=r"one predictor that reads supplements with actors=\[...\], got 2"):
        run(tmp_path / "run", lms(asked), student=TwoSteps())
    assert not any(each.asked for each in asked.values())


def test_a_prompt_that_holds_an_actors_answer_is_refused_after_one_run_with_each(tmp_path: Path):
    asked = engines(lambda _: reply(hint="x", sql="SELECT 1"), lambda _: reply(hint="y", sql="SELECT 1"))
    with pytest.raises(errors.SetupError, match="the same prompt for every actor"):
        run(tmp_path / "run", lms(asked), student=TwoSteps(), only=["second"])
    assert [len(each.asked) for each in asked.values()] == [2, 2]


def test_the_first_of_two_steps_can_be_trained_for_several_actors(tmp_path: Path):
    asked = engines(lambda _: reply(hint="x", sql="SELECT 1"), lambda _: reply(hint="y", sql="SELECT 1"))
    result, _ = run(tmp_path / "run", lms(asked), student=TwoSteps(), only=["first"])
    assert result.stages[0].by_actor == {"scripted/a": 0.0, "scripted/b": 0.0}


@pytest.mark.parametrize(
    ("actors", "said"),
    [
        ([], "got an empty list"),
        ("openai/gpt-4.1", "got a str"),
        (["openai/gpt-4.1"], "got 'openai/gpt-4.1'"),
        (ScriptedEngine(gold).lm(), "got a LM"),
        ([ScriptedEngine(gold).lm(), 3], "got a int"),
        ([ScriptedEngine(gold).lm("scripted/a")] * 2, "got 'scripted/a' twice"),
        ([ScriptedEngine(gold).lm("scripted/a"), ScriptedEngine(helped).lm("scripted/a")], "got 'scripted/a' twice"),
    ],
)
def test_what_is_no_list_of_different_lms_is_refused(actors: object, said: str):
    with pytest.raises(errors.SetupError, match=said):
        SGTTeleprompter(WORLD.metric, writer(), actors=actors)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runner": "ray"}, "runner='threads'"),
        ({"recipe": replace(SMALL, draft=True)}, "without drafts"),
        ({"credit": "joint"}, "credit='isolate'"),
    ],
)
def test_an_option_that_does_not_go_with_several_actors_is_refused(tmp_path: Path, changes: Any, said: str):
    asked = engines(helped, gold)
    with pytest.raises(errors.SetupError, match=said):
        run(tmp_path / "run", lms(asked), **changes)
    assert not any(each.asked for each in asked.values())


def test_a_predictor_with_an_lm_of_its_own_is_refused(tmp_path: Path):
    asked, student = engines(helped, gold), program()
    student.set_lm(ScriptedEngine(gold).lm("scripted/own"))
    with pytest.raises(errors.SetupError, match=r"got 'self' with 'scripted/own'. Call program.set_lm\(None\)"):
        run(tmp_path / "run", lms(asked), student=student)
    assert not any(each.asked for each in asked.values())


def test_a_log_is_refused_as_it_is_of_one_actor(tmp_path: Path):
    example = WORLD.train[0]
    log = [LoggedOutcome(dict(example.inputs().items()), "Look it up.", 1.0)]
    sgt = teleprompter(tmp_path / "run", generator=writer(), trainer=ScriptedTrainer(), actors=lms(engines(helped)))
    with pytest.raises(errors.SetupError, match="a log is of one actor"):
        sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val, logged=log)


def test_names_and_order_do_not_depend_on_the_given_order():
    hot, cold = (dspy.LM("openai/x", temperature=each, api_key="secret") for each in (1.0, 0.0))
    other = dspy.LM("openai/a", api_key="secret")
    named = name_actors([hot, other, cold])
    assert list(named) == ["openai/a", "openai/x", "openai/x #2"]
    assert named == name_actors([cold, hot, other])
    assert identify_actor(cold) == identify_actor(dspy.LM("openai/x", temperature=0.0, api_key="another"))


def test_feedback_that_differs_is_named_by_its_actor():
    asked = Query("1", 0, "self", "?")
    one, two = (
        Rollout(asked, "warm", "none", SILENCE, Reward(score, said), {"sql": said}, cost=0.1, seconds=2.0)
        for score, said in ((1.0, "right"), (0.0, "wrong"))
    )
    merged = merge_rollouts({"a": one, "b": two})
    assert merged.reward == Reward(0.5, "a: right\nb: wrong")
    assert merged.output == {"sql": "wrong"}
    assert (merged.cost, merged.seconds) == (0.2, 4.0)
    assert merge_rollouts({"a": one, "b": one}).reward == Reward(1.0, "right")
