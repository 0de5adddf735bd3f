"""The laws of the SFT rows: winners only, each once, balanced over kinds and spread over queries."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import query, rollout, winners_and_losers

from optimizers.core.records import Rollout, SFTExample
from optimizers.sgt.sft_data import balance_kinds


def test_a_row_is_the_winner_s_tagged_text_under_the_prompt_that_names_no_kind() -> None:
    rows = balance_kinds([rollout(1.0, kind="pairs", text="not 5 but 4")], max_per_kind=1, rng=random.Random(0))
    assert rows == [SFTExample("q", "pairs", "Help with q.", "[pairs] not 5 but 4")]


def test_losers_failures_and_silence_give_no_rows() -> None:
    rollouts = [rollout(0.0), rollout(None), rollout(0.9), rollout(1.0, text=" ")]
    assert balance_kinds(rollouts, max_per_kind=9, rng=random.Random(0)) == []


def test_a_lower_threshold_lets_partial_success_in() -> None:
    assert len(balance_kinds([rollout(0.6)], max_per_kind=9, threshold=0.5, rng=random.Random(0))) == 1


def test_a_query_that_won_often_does_not_crowd_out_the_others() -> None:
    easy = [rollout(1.0, of=query("easy"), text=f"way {n}") for n in range(50)]
    hard = [rollout(1.0, of=query(f"hard{n}", n + 1)) for n in range(3)]
    rows = balance_kinds([*easy, *hard], max_per_kind=8, rng=random.Random(0))
    assert Counter(row.query for row in rows) == {"easy": 5, "hard0": 1, "hard1": 1, "hard2": 1}


def test_a_frequent_kind_is_cut_to_the_cap_and_a_rare_one_kept_whole() -> None:
    rollouts = [
        rollout(1.0, kind=kind, text=str(n)) for kind, count in {"cot": 30, "pairs": 2}.items() for n in range(count)
    ]
    rows = balance_kinds(rollouts, max_per_kind=10, rng=random.Random(0))
    assert Counter(row.kind for row in rows) == {"cot": 10, "pairs": 2}


@settings(deadline=None)
@given(winners_and_losers(), st.integers(1, 8), st.integers(0, 9))
def test_strata_are_as_full_as_the_cap_allows_and_queries_take_turns(
    rollouts: list[Rollout], cap: int, seed: int
) -> None:
    rows = balance_kinds(rollouts, max_per_kind=cap, rng=random.Random(seed))
    ready = {(r.query.id, r.supplement.kind, r.supplement.render()) for r in rollouts if r.won() and r.supplement}
    assert len({(row.query, row.completion) for row in rows}) == len(rows)
    assert {(row.query, row.kind, row.completion) for row in rows} <= ready
    assert Counter(row.kind for row in rows) == {
        kind: min(cap, count) for kind, count in Counter(kind for _, kind, _ in ready).items()
    }
    stock = Counter((kind, query) for query, kind, _ in ready)
    taken = Counter((row.kind, row.query) for row in rows)
    for kind, name in stock:
        most = max(taken[kind, other] for _, other in stock)
        assert taken[kind, name] >= min(stock[kind, name], most - 1)


@settings(deadline=None)
@given(winners_and_losers(), st.randoms(use_true_random=False), st.integers(0, 9))
def test_the_same_seed_gives_the_same_rows_whatever_the_order_of_the_rollouts(
    rollouts: list[Rollout], shuffler: random.Random, seed: int
) -> None:
    shuffled = rollouts.copy()
    shuffler.shuffle(shuffled)
    chosen = balance_kinds(rollouts, max_per_kind=3, rng=random.Random(seed))
    assert chosen == balance_kinds(shuffled, max_per_kind=3, rng=random.Random(seed))


def test_another_seed_chooses_other_rows() -> None:
    rollouts = [rollout(1.0, text=str(n)) for n in range(100)]
    first, second = (balance_kinds(rollouts, max_per_kind=10, rng=random.Random(seed)) for seed in (0, 1))
    assert set(first) != set(second)
