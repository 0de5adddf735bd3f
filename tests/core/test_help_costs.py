"""Prices of what a run used, and the stages that no other beats."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from optimizers.core.cost import Cost, Pricing, Used, find_frontier, with_net_rewards
from optimizers.core.records import Effort, Query, Reward, Rollout
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.errors import SetupError
from sgt_modules.kinds import SILENCE, Supplement

ASKED = Query("q1", 0, "solve", "question: 17 x 3?")


def rollout(text: str = "Multiply.", score: float | None = 1.0, effort: Effort | None = None) -> Rollout:
    supplement = Supplement("cot", text) if text else SILENCE
    reward = None if score is None else Reward(score, "as said")
    return Rollout(ASKED, "dpo1", "direct", supplement, reward, tokens_in=10, tokens_out=5, seconds=2.0, effort=effort)


@pytest.mark.parametrize("price", [-0.1, math.nan, math.inf, "a lot", None])
def test_a_price_is_a_finite_number_of_at_least_zero(price: object) -> None:
    with pytest.raises(SetupError, match="at least 0"):
        Cost(steps=price)


def test_prices_of_zero_are_refused_as_they_would_do_nothing() -> None:
    with pytest.raises(SetupError, match="above 0"):
        Cost()


def test_each_part_of_a_run_has_its_price() -> None:
    priced = Pricing(Cost(supplement_tokens=0.001, actor_tokens=0.01, steps=0.1, seconds=1.0))
    several = rollout("Multiply. Then add.", effort=Effort(20, 3, 0.5))
    assert priced.used(several) == Used(4, 20, 3, 0.5)  # words, as no tokenizer is given: [cot] Multiply. Then add.
    assert priced([several])[0].price == pytest.approx(0.004 + 0.2 + 0.3 + 0.5)
    assert priced.used(rollout("")) == Used(0, 15, 1, 2.0)  # one call: the rollout's own tokens and seconds


def test_without_prices_rollouts_stay_as_they_are() -> None:
    tried = [rollout(), rollout("", 0.0), rollout("Guess.", None)]
    assert Pricing()(tried) == with_net_rewards(tried) == tried
    assert Pricing().stage(tried) is None


def test_the_plain_reward_stays_and_the_net_one_takes_its_place_only_where_it_is_asked_for() -> None:
    [priced] = Pricing(Cost(steps=0.1))([rollout(effort=Effort(1, 4))])
    assert priced.reward == Reward(1.0, "as said")
    assert priced.won()
    [net] = with_net_rewards([priced])
    assert net.reward is not None
    assert net.reward.score == pytest.approx(0.6)
    assert net.reward.feedback == "as said"


def test_a_rollout_without_a_reward_has_no_net_reward_and_counts_in_no_mean() -> None:
    price = Pricing(Cost(steps=0.1))
    tried = [rollout(score=None, effort=Effort(0, 9)), rollout(effort=Effort(0, 3)), rollout(score=0.0)]
    assert price(tried)[0].net is None
    stage = price.stage(tried)
    assert stage is not None
    assert (stage.score, stage.used.steps, stage.price) == (0.5, 2.0, pytest.approx(0.2))
    assert price.stage(tried[:1]) is None


def test_a_stage_on_the_frontier_is_beaten_by_none_and_equal_stages_share_it() -> None:
    assert find_frontier({}) == []
    assert find_frontier({"a": (0.1, 0.5), "b": (0.1, 0.5), "c": (0.2, 0.5), "d": (0.1, 0.4)}) == ["a", "b"]


def test_the_store_keeps_the_plain_reward_and_what_a_run_used(tmp_path: Path) -> None:
    one, several = rollout("Once."), rollout("Often.", effort=Effort(812, 7, 1.25))
    [priced] = Pricing(Cost(steps=0.1))([several])
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        store.add(one, "scope")
        store.add(priced, "scope")
        assert store.get("scope", "q1", one.supplement) == one
        assert store.get("scope", "q1", several.supplement) == several
