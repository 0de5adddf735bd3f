"""What a run will take, told before: by counting, and from a probe of a few examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine
from small_compile import WORLD, compiled, helped, teleprompter

from optimizers import Recipe
from optimizers.core.estimate import Probe
from optimizers.core.result import result_of
from optimizers.sgt.estimate import estimate_sgt
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.embedded import program

RECIPE = Recipe(rounds=3, warm_samples=2, pool_samples=2, ood_kinds=3, concat=1, direct_samples=10)


def test_without_a_probe_every_supplement_counts_as_new() -> None:
    found = estimate_sgt(RECIPE, train=10, validation=5, epochs=(3, 1), probe=None)
    kinds = len(RECIPE.kinds)
    assert {stage.name: stage.actor_calls for stage in found.stages} == {
        "none": 15,
        "warm": 10 * (kinds + 1) * 2,
        "sft": 5,
        "round 1": 10 * ((kinds + 3) * 2 + 1),
        "dpo1": 5,
        "round 2": 100,
        "dpo2": 5,
        "round 3": 100,
        "dpo3": 5,
    }
    assert found.total.actor_calls == found.total.at_most
    assert (found.total.tokens_in, found.total.cost_usd, found.total.seconds) == (0, 0, 0)


def test_a_probe_scales_tokens_dollars_and_seconds() -> None:
    probe = Probe(
        calls=2, bare_in=10, bare_cost=0.1, tokens_in=20, tokens_out=4, cost=0.3, run_seconds=0.5, sample_seconds=0.25
    )
    none, warm, *_ = estimate_sgt(RECIPE, train=10, validation=5, epochs=(3, 1), probe=probe).stages
    runs = 10 * (len(RECIPE.kinds) + 1) * 2
    assert (none.actor_calls, none.tokens_in, none.cost_usd) == (30, 150, pytest.approx(1.5))
    assert (warm.actor_calls, warm.tokens_in, warm.tokens_out) == (2 * runs, 20 * runs, 4 * runs)
    assert (warm.cost_usd, warm.seconds) == (pytest.approx(0.3 * runs), pytest.approx(0.75 * runs))


def test_repeats_are_free_and_later_rounds_have_more_of_them() -> None:
    found = estimate_sgt(RECIPE, train=10, validation=5, epochs=(3, 1), probe=Probe(distinct=0.9))
    calls = {stage.name: stage.actor_calls / stage.at_most for stage in found.stages}
    assert calls["none"] == 1
    assert 1 > calls["warm"] > calls["round 1"] > calls["round 2"] > calls["round 3"] > 0


def test_an_adaptive_run_takes_a_part_of_each_pool() -> None:
    sizes = {"train": 10, "validation": 5, "epochs": (3, 1), "probe": None}
    full, less = (
        {stage.name: stage.at_most for stage in estimate_sgt(recipe, **sizes).stages}
        for recipe in (RECIPE, replace(RECIPE, adaptive=True))
    )
    assert less["warm"] == pytest.approx(0.5 * full["warm"])
    assert less["round 2"] == pytest.approx(0.6 * full["round 2"])
    assert less["none"] == full["none"]


def test_an_estimate_prints_as_a_table() -> None:
    text = str(estimate_sgt(RECIPE, train=10, validation=5, epochs=(3, 1), probe=Probe()))
    assert "What the run will take" in text
    assert "round 3" in text
    assert "tokens in" in text


def test_nothing_is_paid_or_made_without_a_probe(tmp_path: Path) -> None:
    engine = ScriptedEngine(helped)
    with dspy.context(lm=engine.lm()):
        found = teleprompter(tmp_path / "run").estimate(program(), WORLD.train, WORLD.val)
    assert found.total.actor_calls > 0
    assert engine.asked == []
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_a_probe_paid_is_not_paid_again(tmp_path: Path) -> None:
    engine = ScriptedEngine(helped)
    with dspy.context(lm=engine.lm()):
        found = teleprompter(tmp_path / "run").estimate(program(), WORLD.train, WORLD.val, probe=2)
    assert found.probe is not None
    assert found.probe.tokens_in > found.probe.bare_in > 0
    assert 0 < found.total.actor_calls <= found.total.at_most
    better, paid = compiled(helped, tmp_path / "run")
    assert not set(engine.asked) & set(paid.asked)
    with RolloutStore(tmp_path / "run" / "rollouts.sqlite") as store:
        assert store.spent().calls == len(engine.asked) + len(paid.asked)
    assert result_of(better).spent.actor_calls == len(engine.asked) + len(paid.asked)


def test_a_probe_stays_within_the_budget(tmp_path: Path) -> None:
    engine = ScriptedEngine(helped)
    with dspy.context(lm=engine.lm()), pytest.raises(Exception, match="3 of at most 3 actor calls"):
        teleprompter(tmp_path / "run", max_actor_calls=3).estimate(program(), WORLD.train, WORLD.val, probe=4)
    assert len(engine.asked) == 3
