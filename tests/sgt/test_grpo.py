"""Rounds of GRPO: which samples make a group, and a compile whose rounds train on groups."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, query, reply, rollout
from small_compile import SMALL, WORLD, compiled, gold, helped, teleprompter

from optimizers import Recipe, TrainingSettings
from optimizers.core.records import Checkpoint, Reward, Rollout, ScoredSample
from optimizers.observe.export import export
from optimizers.observe.report import write_report
from optimizers.sgt.estimate import estimate_sgt
from optimizers.sgt.policy_groups import explain_no_groups, policy_candidates, queries_of_round, scored_groups
from optimizers.store.rollout_store import RolloutStore
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded import program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import RunFolderError, SetupError
from sgt_modules.kinds import SILENCE, Kind, Supplement
from sgt_modules.samples import SILENT, Sample, SampleRequest

GROUPS = replace(SMALL, algorithm="grpo", rounds=2, direct_samples=4)


def drawn(text: str, score: float | None, *, source: str = "direct", writer: str = "weights") -> Rollout:
    return replace(rollout(score, text=text, source=source), writer=writer)


def texts(rows: list[ScoredSample]) -> list[tuple[str, float]]:
    return [(row.completion, row.reward) for row in rows]


def test_a_group_holds_every_sample_as_often_as_it_was_written():
    found = scored_groups([drawn("a", 1.0), drawn("b", 0.0), drawn("a", 1.0)])
    assert texts(found) == [("[cot] a", 1.0), ("[cot] b", 0.0), ("[cot] a", 1.0)]


@pytest.mark.parametrize("source", ["concat", "given", "logged", "none", "predefined", "free", "ood", "gated", "joint"])
def test_what_the_policy_did_not_write_for_the_training_prompt_is_in_no_group(source: str):
    other = drawn("c", 1.0, source=source, writer="" if source in ("concat", "given", "logged", "none") else "weights")
    assert texts(scored_groups([drawn("a", 1.0), drawn("b", 0.0), other])) == [("[cot] a", 1.0), ("[cot] b", 0.0)]
    assert scored_groups([drawn("a", 0.0), other]) == []


def test_a_group_of_equal_rewards_and_a_sample_without_a_reward_are_left_out():
    other = query("other", 1)
    equal = [replace(drawn(text, 1.0), query=other) for text in "ab"]
    assert texts(scored_groups([drawn("a", 1.0), drawn("x", None), drawn("b", 0.5), *equal])) == [
        ("[cot] a", 1.0),
        ("[cot] b", 0.5),
    ]


def test_silence_and_untagged_and_cut_samples_are_rows_as_the_generator_replies():
    silent = replace(drawn("", 0.0), supplement=SILENCE)
    untagged = replace(drawn("", 1.0), supplement=Supplement("free", "Mind the units."))
    cut = replace(drawn("", 0.0), supplement=Supplement("cot", "First. Then.", cut=True))
    found = scored_groups([silent, untagged, cut])
    assert [(row.completion, row.cut) for row in found] == [
        ("[none]", False),
        ("Mind the units.", False),
        ("[cot] First. Then.", True),
    ]


def test_an_empty_reply_is_a_sample_where_silence_is_allowed_and_a_prompt_that_was_too_long_is_none():
    asked = [(query(), SampleRequest("Help.", seed)) for seed in range(4)]
    samples = [Sample("Add.", 5, 3, -1.0, kind="cot"), Sample("", 5, 1, -2.0, kind="none"), SILENT, Sample("Add.", 5, 3, -1.0, kind="cot")]  # fmt: skip  # noqa: E501
    found = policy_candidates(asked, samples, "weights", silence=True)
    assert [each.supplement.reply() for each in found] == ["[cot] Add.", "[none]", "[cot] Add."]
    assert len(policy_candidates(asked, samples, "weights", silence=False)) == 2
    assert {(each.source, each.writer) for each in found} == {("direct", "weights")}


@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 3))
def test_every_query_comes_before_any_comes_again(size: int, count: int, seed: int):
    queries = [query(f"q{number}", number) for number in range(size)]
    rounds = [queries_of_round(queries, round_, count, seed=seed) for round_ in range(1, 5)]
    assert all(len(set(own)) == len(own) <= min(size, count) for own in rounds)
    if count < size:
        whole = size // count
        met = [each for own in rounds[:whole] for each in own]
        assert len(set(met)) == len(met)
    assert rounds == [queries_of_round(queries, round_, count, seed=seed) for round_ in range(1, 5)]


def test_it_says_why_no_group_tells_anything_apart():
    assert explain_no_groups([drawn("a", 1.0), drawn("b", 1.0)]).startswith("All 2 supplements won")
    assert explain_no_groups([drawn("a", 0.0), drawn("b", 0.0)]).startswith("All 2 supplements lost")
    apart = [drawn("a", 1.0), replace(drawn("b", 0.0), query=query("other", 1))]
    assert "Within each of 2 queries all samples have one reward" in explain_no_groups(apart)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "ppo"}, "Expected an algorithm of dpo, grpo, got 'ppo'"),
        ({"queries_per_round": 4}, "queries_per_round with algorithm='grpo' only"),
        ({"algorithm": "grpo", "adaptive": True}, "got adaptive=True"),
        ({"algorithm": "grpo", "direct_samples": 1}, "direct_samples of at least 2"),
        ({"algorithm": "grpo", "queries_per_round": 0}, "queries_per_round of at least 1"),
        ({"algorithm": "grpo", "closed": True, "kinds": {"a": Kind("a", text="b")}}, "got closed=True"),
    ],
)
def test_a_recipe_that_cannot_make_groups_is_refused(options: dict[str, object], message: str):
    with pytest.raises(SetupError, match=message):
        Recipe(**options)  # pyright: ignore[reportArgumentType]  # one option of each kind


class PairTrainer:
    """A trainer of a user's own, from before GRPO."""

    def sft(self, rows: object, **_: object) -> Checkpoint:
        raise NotImplementedError

    def dpo(self, pairs: object, **_: object) -> Checkpoint:
        raise NotImplementedError


def test_a_trainer_without_grpo_and_joint_credit_are_refused_before_anything_is_paid(tmp_path: Path):
    engine = ScriptedEngine(gold)
    for changes, message in (({"trainer": PairTrainer()}, "a method grpo"), ({"credit": "joint"}, "credit='isolate'")):
        with dspy.context(lm=engine.lm()), pytest.raises(SetupError, match=message):
            teleprompter(tmp_path / message, recipe=GROUPS, **changes).compile(
                program(), trainset=WORLD.train, valset=WORLD.val
            )
    assert engine.asked == []


class RamblingGenerator(ScriptedGenerator):
    """A generator that replies by seed: with a kind, without one, cut, or not at all."""

    REPLIES = (
        Supplement("background", "The term means something."),
        Supplement("free", "Well, well."),
        Supplement("cot", "First think. Then think on.", cut=True),
        SILENCE,
    )

    def said(self, prompt: str, seed: int) -> Supplement:
        return self.REPLIES[seed % 4]

    def draw(self, prompt: str | SampleRequest) -> Sample:
        return replace(super().draw(prompt), tokens=3)


def rambling() -> RamblingGenerator:
    return RamblingGenerator(lambda _: SILENCE)


def test_each_round_trains_on_groups_of_its_own_samples_of_the_plain_prompt(tmp_path: Path):
    trainer, generator = ScriptedTrainer(), rambling()
    better, _ = compiled(
        helped, tmp_path / "run", recipe=replace(GROUPS, direct_samples=12), generator=generator, trainer=trainer
    )
    assert [stage.name for stage in better.detailed_results.stages] == ["none", "sft", "grpo1", "grpo2"]
    for stage in ("grpo1", "grpo2"):
        rows = trainer.rows[stage]
        assert all(isinstance(row, ScoredSample) for row in rows)
        assert {row.prompt for row in rows} <= {each for each in generator.asked if "\nKind: " not in each}
        assert {row.reward for row in rows} == {0.0, 1.0}
        assert {row.reward for row in rows if row.completion.startswith("[background]")} == {1.0}
        assert {row.kind for row in rows} == {"background", "free", "cot", "none"}
        assert all(row.cut == (row.kind == "cot") for row in rows)
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        stages = {(each.stage, each.source) for each in store.iter_rollouts()}
    assert {source for stage, source in stages if stage.startswith("round ")} == {"direct"}


def test_a_round_of_few_queries_without_a_gradient_does_not_end_the_rounds(tmp_path: Path):
    recipe = replace(GROUPS, queries_per_round=1, rounds=3, silence=False)
    better, _ = compiled(gold, tmp_path / "run", recipe=recipe, generator=rambling(), trainer=ScriptedTrainer())
    notes = [note for note in better.detailed_results.notes if note.startswith("Round ")]
    assert [note.partition(".")[0] for note in notes] == [f"Round {n} learned nothing" for n in (1, 2, 3)]
    assert "supplements won, so there is nothing to prefer" in notes[0]


def test_a_round_of_all_queries_without_a_gradient_ends_the_rounds(tmp_path: Path):
    better, _ = compiled(
        lambda _: reply(sql="SELECT 1"),
        tmp_path / "run",
        recipe=replace(GROUPS, sft=False),
        generator=rambling(),
        trainer=ScriptedTrainer(),
    )
    notes = [note for note in better.detailed_results.notes if note.startswith("Round ")]
    assert len(notes) == 1
    assert notes[0].startswith("Round 1 learned nothing, so the rounds end here. All ")


def small_trainer(**changes: object) -> TRLTrainer:
    settings = {"sft_epochs": 1, "batch_size": 8, "grpo_learning_rate": 1e-3}
    return TRLTrainer(embedded_folder("generator"), TrainingSettings(**(settings | changes)))


@pytest.mark.slow
def test_a_run_is_reported_and_exported_and_resumed_and_other_settings_of_grpo_are_another_run(tmp_path: Path):
    folder, recipe = tmp_path / "run", replace(GROUPS, direct_samples=8)
    better, engine = compiled(helped, folder, recipe=recipe, trainer=small_trainer())
    names = [stage.name for stage in better.detailed_results.stages]
    assert "grpo1" in names
    assert engine.asked
    again, engine = compiled(helped, folder, recipe=recipe, trainer=small_trainer())
    assert engine.asked == []
    assert [stage.name for stage in again.detailed_results.stages] == names
    with pytest.raises(RunFolderError, match="grpo changed"):
        compiled(helped, folder, recipe=recipe, trainer=small_trainer(clip_range=0.3))
    assert "grpo1" in write_report(folder).read_text(encoding="utf-8")
    tables = {each.table: each.file for each in export(folder, "jsonl", tmp_path / "out")}
    rows = [json.loads(line) for line in tables["grouped"].read_text(encoding="utf-8").splitlines()]
    saved = (folder / "training" / "grpo1.jsonl").read_text(encoding="utf-8").splitlines()
    assert len([row for row in rows if row["stage"] == "grpo1"]) == len(saved)
    assert {type(row["reward"]) for row in rows} == {float}
    if "sft" in tables:
        sft = [json.loads(line) for line in tables["sft"].read_text(encoding="utf-8").splitlines()]
        assert {row["stage"] for row in sft} == {"sft"}


def test_a_folder_of_dpo_records_nothing_of_grpo_so_that_older_folders_go_on(tmp_path: Path):
    settings = teleprompter(tmp_path / "run").settings
    recorded = settings.must_match_on_resume(WORLD.train, WORLD.val)
    assert "grpo" not in str(recorded)
    assert not {"algorithm", "queries_per_round"} & set(recorded["recipe"])
    other = teleprompter(tmp_path / "run", recipe=GROUPS).settings.must_match_on_resume(WORLD.train, WORLD.val)
    assert other["recipe"]["algorithm"] == "grpo"


def test_the_estimate_names_the_stages_and_counts_the_samples_of_a_round():
    recipe = replace(GROUPS, queries_per_round=3)
    stages = {
        each.name: each for each in estimate_sgt(recipe, train=10, validation=4, epochs=(1, 1), probe=None).stages
    }
    assert list(stages) == ["none", "warm", "sft", "round 1", "grpo1", "round 2", "grpo2"]
    assert stages["round 1"].samples == 3 * 4


def test_a_reward_is_the_metrics_own_score_and_no_threshold_is_applied():
    rows = scored_groups([replace(drawn("a", 0.2), reward=Reward(0.2)), drawn("b", 0.4)])
    assert [row.reward for row in rows] == [0.2, 0.4]
