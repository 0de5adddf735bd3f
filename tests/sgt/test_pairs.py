"""The laws of preference pairs: one query, a winner over a loser, capped, spread, and no two alike."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import query, rollout, winners_and_losers

from optimizers.core.records import PreferencePair, Rollout
from optimizers.sgt.preference_pairs import explain_no_pairs, preference_pairs
from sgt_modules.kinds import SILENCE, parse

SILENT = {"kind": "none", "text": ""}
SPEAKING = [
    rollout(1.0, text="good"),
    *(rollout(0.0, kind="answer", text=f"bad {number}") for number in range(3)),
]
"""Three pairs between kinds, so that silence may stand in a fourth."""


def pairs_of(
    rollouts: list[Rollout],
    *,
    cap: int = 20,
    threshold: float = 1.0,
    margin: float | None = None,
    shorter: float | None = None,
    seed: int = 0,
) -> list[PreferencePair]:
    rng = random.Random(seed)
    return preference_pairs(rollouts, cap=cap, threshold=threshold, margin=margin, length_preference=shorter, rng=rng)


def test_a_pair_is_two_tagged_texts_under_the_prompt_that_names_no_kind() -> None:
    rollouts = [rollout(1.0, kind="pairs", text="not 5 but 4"), rollout(0.0, kind="cot", text="guess")]
    assert pairs_of(rollouts) == [PreferencePair("q", "inter", "Help with q.", "[pairs] not 5 but 4", "[cot] guess")]


def test_a_pair_of_one_kind_teaches_quality() -> None:
    [pair] = pairs_of([rollout(1.0, text="good"), rollout(0.0, text="bad")])
    assert (pair.category, pair.chosen, pair.rejected) == ("intra", "[cot] good", "[cot] bad")


def test_a_winner_is_paired_only_with_losers_of_its_own_query() -> None:
    won, lost = rollout(1.0, of=query("a", 0)), rollout(0.0, of=query("b", 1), text="other")
    assert pairs_of([won, lost]) == []


def test_a_rollout_without_reward_is_in_no_pair() -> None:
    assert pairs_of([rollout(1.0, text="good"), rollout(None, text="failed"), rollout(None, **SILENT)]) == []


def test_silence_that_wins_over_a_supplement_is_chosen_as_the_generator_writes_it() -> None:
    pairs = pairs_of([rollout(1.0, **SILENT), *SPEAKING])
    [pair] = [pair for pair in pairs if pair.chosen == "[none]"]
    assert pair.category == "inter"
    assert pair.rejected.startswith("[answer] bad")
    assert parse(pair.chosen) == SILENCE


def test_silence_that_loses_to_a_supplement_is_rejected() -> None:
    pairs = pairs_of([rollout(0.0, **SILENT), *SPEAKING])
    [pair] = [pair for pair in pairs if pair.rejected == "[none]"]
    assert (pair.category, pair.chosen) == ("inter", "[cot] good")


def test_where_silence_alone_won_it_is_chosen_in_a_quarter_of_the_cap() -> None:
    lost = [rollout(0.0, text=f"bad {number}") for number in range(40)]
    assert {pair.chosen for pair in pairs_of([rollout(1.0, **SILENT), *lost])} == {"[none]"}
    assert len(pairs_of([rollout(1.0, **SILENT), *lost], cap=20)) == 5


def test_where_silence_alone_lost_it_is_rejected_in_a_quarter_of_the_cap() -> None:
    won = [rollout(1.0, text=f"good {number}") for number in range(40)]
    pairs = pairs_of([rollout(0.0, **SILENT), *won], cap=20)
    assert {pair.rejected for pair in pairs} == {"[none]"}
    assert len(pairs) == 5


@settings(deadline=None)
@given(winners_and_losers(), st.integers(1, 30), st.integers(0, 9))
def test_silence_is_in_at_most_a_quarter_of_a_query_s_pairs_between_kinds(
    rollouts: list[Rollout], cap: int, seed: int
) -> None:
    inter = [pair for pair in pairs_of(rollouts, cap=cap, seed=seed) if pair.category == "inter"]
    silent = Counter(pair.query for pair in inter if "[none]" in (pair.chosen, pair.rejected))
    of_query = Counter(pair.query for pair in inter)
    others = {pair.query for pair in inter if "[none]" not in (pair.chosen, pair.rejected)}
    assert all(count <= (of_query[name] if name in others else max(4, cap)) / 4 for name, count in silent.items())


@settings(deadline=None)
@given(winners_and_losers(), st.integers(1, 6), st.integers(0, 9))
def test_winner_and_loser_share_the_query_and_caps_hold(rollouts: list[Rollout], cap: int, seed: int) -> None:
    pairs = pairs_of(rollouts, cap=cap, seed=seed)
    won = {(r.query.id, r.supplement.reply()): r for r in rollouts if r.won()}
    lost = {(r.query.id, r.supplement.reply()): r for r in rollouts if r.lost()}
    assert len(set(pairs)) == len(pairs)
    assert all(count <= cap for count in Counter((pair.query, pair.category) for pair in pairs).values())
    for pair in pairs:
        winner, loser = won[pair.query, pair.chosen], lost[pair.query, pair.rejected]
        assert (pair.category == "intra") == (winner.supplement.kind == loser.supplement.kind)
        assert pair.prompt == winner.query.prompt == loser.query.prompt


@settings(deadline=None)
@given(winners_and_losers(), st.integers(0, 9))
def test_nothing_is_left_out_while_the_cap_has_room(rollouts: list[Rollout], seed: int) -> None:
    lost = {(r.query.id, r.supplement.reply()) for r in rollouts if r.lost()}
    won = {(r.query.id, r.supplement.reply()) for r in rollouts if r.won()} - lost
    expected = {(name, good, bad) for name, good in won for other, bad in lost if name == other}
    found = {(pair.query, pair.chosen, pair.rejected) for pair in pairs_of(rollouts, cap=1000, seed=seed)}
    assert {each for each in found if "[none]" not in each} == {each for each in expected if "[none]" not in each}
    assert found <= expected


@settings(deadline=None)
@given(winners_and_losers(), st.randoms(use_true_random=False), st.integers(0, 9))
def test_the_same_seed_gives_the_same_pairs_whatever_the_order_of_the_rollouts(
    rollouts: list[Rollout], shuffler: random.Random, seed: int
) -> None:
    shuffled = rollouts.copy()
    shuffler.shuffle(shuffled)
    assert pairs_of(rollouts, cap=3, seed=seed) == pairs_of(shuffled, cap=3, seed=seed)


def test_one_query_s_pairs_do_not_depend_on_the_other_queries() -> None:
    own = [rollout(float(n % 2), text=str(n)) for n in range(20)]
    others = [rollout(float(n % 2), of=query("a", 1), text=str(n)) for n in range(20)]
    assert pairs_of(own, cap=5) == [pair for pair in pairs_of([*others, *own], cap=5) if pair.query == "q"]


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 20))
def test_the_cap_is_spread_over_winners_and_losers(winners: int, losers: int, cap: int) -> None:
    rollouts = [rollout(1.0, text=f"good {n}") for n in range(winners)]
    rollouts += [rollout(0.0, text=f"bad {n}") for n in range(losers)]
    pairs = pairs_of(rollouts, cap=cap)
    assert len(pairs) == min(cap, winners * losers)
    for side, count in (
        (Counter(pair.chosen for pair in pairs), winners),
        (Counter(p.rejected for p in pairs), losers),
    ):
        assert len(side) == min(count, len(pairs))
        assert max(side.values()) <= len(pairs) / count + 2


def test_a_margin_pairs_by_the_reward_s_gap() -> None:
    rollouts = [rollout(score, text=str(score)) for score in (0.1, 0.4, 0.5, 0.9)]
    pairs = {(pair.chosen, pair.rejected) for pair in pairs_of(rollouts, margin=0.4)}
    assert pairs == {
        ("[cot] 0.5", "[cot] 0.1"),
        ("[cot] 0.9", "[cot] 0.1"),
        ("[cot] 0.9", "[cot] 0.4"),
        ("[cot] 0.9", "[cot] 0.5"),
    }


def test_a_margin_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="margin must be above 0, got 0"):
        pairs_of([rollout(1.0)], margin=0)


def winner(letters: int, score: float = 1.0) -> Rollout:
    """A winner that the actor reads as so many characters, six of them its tag."""
    return rollout(score, text="x" * (letters - 6))


def lengths(pairs: list[PreferencePair]) -> list[tuple[int, int]]:
    return sorted((len(pair.chosen), len(pair.rejected)) for pair in pairs if pair.category == "shorter")


def test_two_winners_tie_by_default() -> None:
    assert pairs_of([winner(10), winner(40)]) == []


def test_of_two_winners_the_shorter_one_is_preferred_where_that_is_wanted() -> None:
    [pair] = pairs_of([winner(40), winner(10)], shorter=0.25)
    assert (pair.query, pair.category, pair.prompt) == ("q", "shorter", "Help with q.")
    assert (len(pair.chosen), len(pair.rejected)) == (10, 40)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.25, [(10, 20), (10, 30), (10, 40)]),
        (0.5, [(10, 20), (10, 30), (10, 40)]),
        (0.6, [(10, 30), (10, 40)]),
        (0.75, [(10, 40)]),
        (0.8, []),
    ],
)
def test_the_shortest_winner_is_preferred_where_it_saves_the_share_of_the_longer_one(
    share: float, expected: list[tuple[int, int]]
) -> None:
    """By hand: 10 characters save 1/2 of 20, 2/3 of 30 and 3/4 of 40."""
    assert lengths(pairs_of([winner(length) for length in (30, 10, 40, 20)], shorter=share)) == expected


def test_pairs_by_length_are_a_quarter_of_the_cap() -> None:
    winners = [winner(length) for length in range(10, 100, 10)]
    assert len(lengths(pairs_of(winners, shorter=0.1, cap=20))) == 5
    assert len(lengths(pairs_of(winners, shorter=0.1, cap=5))) == 2
    assert len(lengths(pairs_of(winners, shorter=0.1, cap=1))) == 1


def test_silence_is_shorter_than_anything_by_all_of_it() -> None:
    [pair] = pairs_of([winner(10), winner(40), rollout(1.0, **SILENT)], shorter=1.0, cap=1)
    assert (pair.category, pair.chosen) == ("shorter", "[none]")


def test_the_shorter_one_is_preferred_among_equal_rewards_and_winners_only() -> None:
    unequal = [winner(10, 0.6), winner(40, 0.9)]
    assert pairs_of(unequal, threshold=0.5, shorter=0.25) == []
    losers = [winner(10, 0.25), winner(40, 0.25)]
    assert pairs_of(losers, threshold=0.5, shorter=0.25) == []
    equal = [winner(10, 0.75), winner(40, 0.75)]
    assert lengths(pairs_of(equal, threshold=0.5, shorter=0.25)) == [(10, 40)]


def test_winners_of_other_queries_are_not_compared_by_length() -> None:
    apart = [rollout(1.0, of=query("a", 0), text="x"), rollout(1.0, of=query("b", 1), text="x" * 40)]
    assert pairs_of(apart, shorter=0.25) == []


@settings(deadline=None)
@given(winners_and_losers(), st.integers(1, 9), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 9))
def test_pairs_by_length_do_not_crowd_out_the_others(
    rollouts: list[Rollout], cap: int, share: float, seed: int
) -> None:
    pairs = pairs_of(rollouts, cap=cap, shorter=share, seed=seed)
    assert [pair for pair in pairs if pair.category != "shorter"] == pairs_of(rollouts, cap=cap, seed=seed)
    of_query = Counter(pair.query for pair in pairs if pair.category == "shorter")
    assert all(count <= -(-cap // 4) for count in of_query.values())
    assert all(len(parse(p.chosen).render()) < len(p.rejected) for p in pairs if p.category == "shorter")


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"length_preference must be in \(0, 1\], got"):
        pairs_of([rollout(1.0)], shorter=share)


def test_a_supplement_that_both_won_and_lost_counts_as_lost() -> None:
    unsure = [rollout(1.0, text="unsure"), rollout(0.0, text="unsure")]
    [pair] = pairs_of([*unsure, rollout(1.0, text="sure")])
    assert (pair.chosen, pair.rejected) == ("[cot] sure", "[cot] unsure")


def test_why_there_is_nothing_to_prefer_is_said_in_words() -> None:
    won = [rollout(1.0, text=str(n)) for n in range(640)]
    lost = [rollout(0.0, text=str(n)) for n in range(3)]
    apart = [rollout(1.0, of=query("a", 0)), rollout(0.0, of=query("b", 1))]
    assert explain_no_pairs(won) == (
        "All 640 supplements won, so there is nothing to prefer. Use harder examples or a stricter threshold."
    )
    assert explain_no_pairs(lost).startswith(
        "All 3 supplements lost, so there is nothing to prefer. Use easier examples"
    )
    assert "winners and losers never share a query" in explain_no_pairs(apart)
    assert explain_no_pairs([]).startswith("No supplement was tried")
    failed = replace(rollout(None), error="LMRateLimitError: slow down")
    assert explain_no_pairs([failed]).startswith(
        "None of 1 runs with a supplement has a reward: LMRateLimitError, 'slow down', so there is nothing to prefer."
    )
