"""Parts of the method that can be left out: each option alone, and the contenders that leave one out."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, rollout
from small_compile import SMALL, WORLD, helped, named, teleprompter, writer

from optimizers import Recipe, TrainingSettings
from optimizers.comparison import ABLATIONS, VARIANTS, ContenderArguments, compare
from optimizers.comparison.find_contender import find_contender
from optimizers.core.records import Between, Checkpoint
from optimizers.core.result import SGTResult, result_of
from optimizers.sgt.estimate import estimate_sgt
from optimizers.sgt.preference_pairs import preference_pairs
from optimizers.store.rollout_store import RolloutStore
from optimizers.training.trainer import Trainer
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import errors
from sgt_modules.embedded import program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.kinds import SILENCE, Supplement


class StartingTrainer(ScriptedTrainer):
    """A trainer that remembers what each stage went on from."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: dict[str, str | None] = {}

    def trained(self, rows: object, start: Checkpoint | None, output: Path, seed: int) -> Checkpoint:
        self.starts[output.name] = None if start is None else start.stage
        return Checkpoint(output.name, output, f"scripted {output.name}")


class Wavering(ScriptedGenerator):
    """A generator that writes one of two kinds wherever none is asked for."""

    def said(self, prompt: str, seed: int) -> Supplement:
        return named(prompt, ("background", "cot")[seed % 2])


def run_of(
    log_dir: Path, recipe: Recipe, trained: ScriptedGenerator | None = None
) -> tuple[SGTResult, StartingTrainer, ScriptedGenerator]:
    """A compile of seconds in which the untrained generator writes `cot` wherever no kind is asked for."""
    trainer, generator = StartingTrainer(), writer()
    generator = ScriptedGenerator(lambda prompt: named(prompt, "cot"), trained=trained) if trained else generator
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        sgt = teleprompter(log_dir, generator=generator, trainer=trainer, recipe=recipe)
        better = sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val)
    return result_of(better), trainer, generator


def test_with_sft_round_1_goes_on_from_it(tmp_path: Path) -> None:
    result, trainer, _ = run_of(tmp_path, SMALL)
    assert [stage.name for stage in result.stages] == ["none", "sft", "dpo1"]
    assert trainer.starts == {"sft": None, "dpo1": "sft"}


def test_without_sft_round_1_trains_the_generator_as_it_came(tmp_path: Path) -> None:
    result, trainer, _ = run_of(tmp_path, replace(SMALL, rounds=2, sft=False), Wavering(lambda _: SILENCE))
    assert [stage.name for stage in result.stages] == ["none", "dpo1", "dpo2"]
    assert trainer.starts == {"dpo1": None, "dpo2": "dpo1"}


def test_without_sft_the_warm_start_still_gives_round_1_its_new_kinds_and_joins(tmp_path: Path) -> None:
    run_of(tmp_path, replace(SMALL, sft=False, warm_samples=2))
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        kinds = {each.supplement.kind for each in store.rollouts(stage="warm")}
        new = {each.supplement.kind for each in store.rollouts(stage="round 1") if each.source == "ood"}
    assert "rule" in kinds
    assert new == {"rule"}


def test_without_sft_a_round_that_has_no_pair_ends_the_run(tmp_path: Path) -> None:
    with dspy.context(lm=ScriptedEngine(lambda _: "[[ ## sql ## ]]\nSELECT 1").lm()):
        sgt = teleprompter(
            tmp_path, generator=writer(), trainer=ScriptedTrainer(), recipe=replace(SMALL, rounds=3, sft=False)
        )
        result = result_of(sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val))
    assert [stage.name for stage in result.stages] == ["none"]
    note, _ = result.notes[-2:]
    assert note.startswith("Round 1 learned nothing, so the rounds end here. All ")


@pytest.mark.parametrize(
    ("change", "left_out"), [({"ood_kinds": 0}, "ood"), ({"concat": 0}, "concat")], ids=["ood", "concat"]
)
def test_a_pool_of_nothing_is_left_out_of_round_1(tmp_path: Path, change: dict[str, int], left_out: str) -> None:
    whole = replace(SMALL, warm_samples=2, concat=2)
    less = replace(whole, **change)

    def sources(recipe: Recipe, folder: str) -> set[str]:
        def both_win(text: str) -> str:
            return helped(f"{text} [background]" if "[pairs]" in text else text)

        with dspy.context(lm=ScriptedEngine(both_win).lm()):
            sgt = teleprompter(tmp_path / folder, generator=writer(), trainer=ScriptedTrainer(), recipe=recipe)
            sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val)
        with RolloutStore(tmp_path / folder / "rollouts.sqlite") as store:
            return {each.source for each in store.rollouts(stage="round 1")}

    assert sources(whole, "whole") - sources(less, "less") == {left_out}


@pytest.mark.parametrize(("category", "expected"), [("inter", {("cot", "pairs")}), ("intra", {("pairs", "pairs")})])
def test_only_pairs_of_the_categories_that_are_wanted_are_made(
    category: Between, expected: set[tuple[str, str]]
) -> None:
    rollouts = [
        rollout(1.0, kind="pairs", text="good"),
        rollout(0.0, kind="pairs", text="bad"),
        rollout(0.0, kind="cot", text="worse"),
    ]
    pairs = preference_pairs(rollouts, categories=(category,), rng=random.Random(0))
    both = preference_pairs(rollouts, rng=random.Random(0))
    kinds = {tuple(sorted(text[1:].partition("]")[0] for text in (pair.chosen, pair.rejected))) for pair in pairs}
    assert kinds == expected
    assert len(both) == 2


def test_where_one_kind_always_wins_there_are_pairs_between_kinds_and_none_within_one(tmp_path: Path) -> None:
    _, inter, _ = run_of(tmp_path / "inter", replace(SMALL, pair_categories=("inter",)))
    assert {pair.category for pair in inter.rows["dpo1"]} == {"inter"}
    result, intra, _ = run_of(tmp_path / "intra", replace(SMALL, pair_categories=("intra",)))
    assert set(intra.rows) == {"sft"}
    assert any("winners and losers never share a query and a kind" in note for note in result.notes)


@pytest.mark.parametrize("categories", [(), ("inter", "shorter"), ("between",)])
def test_categories_that_are_none_are_refused(categories: tuple[Between, ...]) -> None:
    with pytest.raises(errors.SetupError, match="Expected pair_categories among"):
        Recipe(pair_categories=categories)


def test_an_estimate_without_sft_has_no_such_stage() -> None:
    stages = estimate_sgt(Recipe(rounds=1, sft=False), train=10, validation=5, epochs=(3, 1), probe=None).stages
    assert [stage.name for stage in stages] == ["none", "warm", "round 1", "dpo1"]


def test_a_folder_of_another_ablation_is_refused(tmp_path: Path) -> None:
    run_of(tmp_path, SMALL)
    with pytest.raises(errors.RunFolderError, match=r"recipe\.sft changed from true to false"):
        run_of(tmp_path, replace(SMALL, sft=False))


RECORDED = {
    "sgt_without_sft": {"sft": False},
    "sgt_without_concat": {"concat": 0},
    "sgt_without_ood": {"ood_kinds": 0},
    "sgt_without_inter": {"pair_categories": ["intra"]},
    "sgt_without_intra": {"pair_categories": ["inter"]},
    "sgt_one_round": {"pool_samples": 2, "concat": 2, "pair_cap": 4},
}
"""How each ablation's recipe differs from `SMALL` with two rounds, as its run's folder keeps it."""


@pytest.mark.parametrize(("name", "change"), RECORDED.items(), ids=RECORDED)
def test_an_ablation_is_sgt_by_the_same_recipe_without_one_part(
    tmp_path: Path, name: str, change: dict[str, object]
) -> None:
    recipe = replace(SMALL, rounds=2)
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        inputs = bench_at(tmp_path, recipe, ScriptedTrainer())
        find_contender(name).compile(inputs)
    settings = json.loads((tmp_path / "sgt" / "run.json").read_text())
    known = recipe.recorded | settings["settings"]["recipe"] | {"rounds": settings["free"]["rounds"]}
    assert {key: value for key, value in known.items() if recipe.recorded.get(key) != value} == {
        **change,
        **({"rounds": 1} if name == "sgt_one_round" else {}),
    }


def bench_at(folder: Path, recipe: Recipe, trainer: Trainer) -> ContenderArguments:
    return ContenderArguments(
        program=program(),
        trainset=WORLD.train,
        valset=WORLD.val,
        metric=WORLD.metric,
        seed=0,
        calls=None,
        folder=folder,
        num_threads=8,
        generator=writer(),
        trainer=trainer,
        recipe=recipe,
    )


def test_alpha_0_is_the_same_trainer_without_the_nll(tmp_path: Path) -> None:
    settings = TrainingSettings(sft_epochs=1, batch_size=8, beta=0.2)
    with dspy.context(lm=ScriptedEngine(lambda _: "[[ ## sql ## ]]\nSELECT 1").lm()):
        inputs = bench_at(tmp_path, SMALL, TRLTrainer(embedded_folder("generator"), settings))
        find_contender("sgt_alpha_0").compile(inputs)
    recorded = json.loads((tmp_path / "sgt" / "run.json").read_text())["settings"]["training"]
    assert recorded == str(replace(settings, alpha=0.0))


def test_alpha_0_needs_a_trainer_that_has_an_alpha(tmp_path: Path) -> None:
    with pytest.raises(errors.SetupError, match="Expected a TRLTrainer, whose alpha can be set"):
        find_contender("sgt_alpha_0").compile(bench_at(tmp_path, SMALL, ScriptedTrainer()))


def test_ablations_stand_in_the_same_table_by_name_each_in_its_own_folder(tmp_path: Path) -> None:
    names = ["sgt", "sgt_without_sft", "sgt_without_intra"]
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        found = compare(
            program(),
            WORLD.train,
            WORLD.val,
            WORLD.test,
            WORLD.metric,
            names,
            seeds=[0],
            generator=writer(),
            trainer=ScriptedTrainer(),
            recipe=SMALL,
            log_dir=tmp_path,
            display_progress=False,
        )
    assert [(row.name, row.skipped) for row in found.rows] == [(name, "") for name in ["none", *names]]
    assert all((tmp_path / name / "seed-0" / "sgt" / "run.json").is_file() for name in names)


def test_each_variant_runs_with_its_one_option_and_records_it(tmp_path: Path) -> None:
    options = {
        "sgt_draft": {"draft": True},
        "sgt_feedback": {"feedback": True},
        "sgt_adaptive": {"adaptive": True},
    }
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        found = compare(
            program(),
            WORLD.train,
            WORLD.val,
            WORLD.test,
            WORLD.metric,
            ["sgt", *options],
            seeds=[0],
            generator=writer(),
            trainer=ScriptedTrainer(),
            recipe=SMALL,
            log_dir=tmp_path,
            display_progress=False,
        )
    assert {row.name for row in found.rows if not row.skipped} == {"none", "sgt", *options}
    plain = recorded_recipe(tmp_path / "sgt")
    for name, changed in options.items():
        assert recorded_recipe(tmp_path / name) == {**plain, **changed}
    assert set(VARIANTS) == {*options, "sgt_grpo", "sgt_cost"}


def recorded_recipe(folder: Path) -> dict[str, object]:
    return json.loads((folder / "seed-0" / "sgt" / "run.json").read_text(encoding="utf-8"))["settings"]["recipe"]


def test_every_ablation_needs_a_generator() -> None:
    assert {each.needs for each in ABLATIONS.values()} == {("generator",)}
    assert set(ABLATIONS) == {*RECORDED, "sgt_alpha_0"}
