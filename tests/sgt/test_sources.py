"""The pools of candidates: what is asked of the generator, and what two winners make together."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import query, rollout, winners_and_losers

from optimizers.core.records import Candidate, Reward, Rollout
from optimizers.sgt.candidates import (
    direct_requests,
    drop_repeats,
    join_supplements,
    join_winners,
    ood_names,
    ood_requests,
    predefined_requests,
    silence_candidates,
    source_of,
    to_candidates,
    warm_start_requests,
)
from sgt_modules.kinds import FREE, KINDS, SILENCE, Supplement
from sgt_modules.samples import SILENT, Sample

QUERIES = [query("a", 0), query("b", 1)]


def test_the_warm_start_asks_for_each_kind_and_for_a_free_one_five_times() -> None:
    requests = warm_start_requests(QUERIES, rng=random.Random(0))
    asked = Counter((query.id, source_of(request), request.kind) for query, request in requests)
    expected = [("predefined", kind) for kind in KINDS.values()] + [("free", FREE)]
    assert asked == {(query.id, *ask): 5 for query in QUERIES for ask in expected}


def test_round_one_asks_for_the_table_s_kinds_and_for_the_generator_s_own() -> None:
    first = predefined_requests(QUERIES, rng=random.Random(0))
    second = ood_requests(QUERIES, ["hint", "rule"], rng=random.Random(0))
    assert Counter(request.kind for _, request in first) == dict.fromkeys(KINDS.values(), 4)
    assert Counter((source_of(request), request.kind) for _, request in second) == {
        ("ood", "hint"): 4,
        ("ood", "rule"): 4,
    }


def test_a_direct_sample_s_prompt_names_no_kind() -> None:
    requests = direct_requests(QUERIES, rng=random.Random(0))
    assert len(requests) == 40
    asked = {(query, request.prompt, request.kind, source_of(request)) for query, request in requests}
    assert asked == {(query, query.prompt, None, "direct") for query in QUERIES}


def test_every_sample_has_a_seed_of_its_own_and_the_same_run_has_the_same_ones() -> None:
    requests = direct_requests(QUERIES, rng=random.Random(7))
    assert len({request.seed for _, request in requests}) == len(requests)
    assert requests == direct_requests(QUERIES, rng=random.Random(7))
    assert requests != direct_requests(QUERIES, rng=random.Random(8))


def test_replies_become_candidates_of_the_kind_they_name_and_empty_ones_are_dropped() -> None:
    requests = predefined_requests(QUERIES, rng=random.Random(0), samples=1)[:3]
    samples = [Sample("Look.", logprob=-1.0, kind="hint"), SILENT, Sample("Think.", logprob=-2.0, kind="cot")]
    assert list(to_candidates(requests, samples)) == [
        Candidate(QUERIES[0], Supplement("hint", "Look."), "predefined", -1.0),
        Candidate(QUERIES[0], Supplement("cot", "Think."), "predefined", -2.0),
    ]


def test_silence_is_a_candidate_of_its_own_once_a_query() -> None:
    assert silence_candidates(QUERIES) == [Candidate(each, SILENCE, "none") for each in QUERIES]
    [written] = drop_repeats([*silence_candidates(QUERIES[:1]), Candidate(QUERIES[0], Supplement("cot", " "), "free")])
    assert (written.supplement, written.source) == (SILENCE, "none")


def test_a_reply_too_few_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        list(to_candidates(direct_requests(QUERIES, rng=random.Random(0)), []))


def test_what_the_actor_would_read_twice_is_proposed_once_a_query() -> None:
    first = Candidate(QUERIES[0], Supplement("cot", "Think."), "predefined")
    other_query = Candidate(QUERIES[1], Supplement("cot", "Think."), "direct")
    reads_the_same = Candidate(QUERIES[0], Supplement(FREE, "[cot] Think."), "free")
    assert list(drop_repeats([first, other_query, reads_the_same])) == [first, other_query]


def test_the_generator_s_own_kinds_are_the_most_frequent_new_names_of_its_free_replies() -> None:
    free = [rollout(0.0, kind=kind, source="free") for kind in ["rule"] * 3 + ["hint"] * 2 + ["cot"] * 9 + [FREE] * 9]
    asked_for = [rollout(0.0, kind="stray", source="predefined")] * 9
    silent = [Rollout(query(), "sft", "free", SILENCE, Reward(1.0))] * 9
    assert ood_names([*free, *asked_for, *silent]) == ["rule", "hint"]


def test_names_as_frequent_rank_by_log_probability_and_then_by_the_alphabet() -> None:
    found = {"b": -2.0, "a": -2.0, "likely": -1.0, "unlikely": -9.0}
    free = [rollout(1.0, kind=kind, source="free", logprob=logprob) for kind, logprob in found.items()]
    assert ood_names(free) == ["likely", "a", "b"]
    assert ood_names(free, count=1) == ["likely"]


def test_two_winners_of_different_kinds_are_joined_into_one_supplement() -> None:
    winners = [rollout(1.0, kind="cot", text="Add."), rollout(1.0, kind="answer", text="4")]
    [joined] = join_winners(winners, rng=random.Random(0))
    assert joined.source == "concat"
    assert joined.supplement.render() in {"[cot] Add.\n[answer] 4", "[answer] 4\n[cot] Add."}
    orders = {join_winners(winners, rng=random.Random(seed))[0].supplement.kind for seed in range(20)}
    assert orders == {"cot", "answer"}


def test_silence_that_won_is_joined_with_nothing() -> None:
    winners = [rollout(1.0, kind="cot", text="Add."), rollout(1.0, kind="none", text="")]
    assert join_winners(winners, rng=random.Random(0)) == []


def test_winners_of_one_kind_or_of_different_queries_are_not_joined() -> None:
    one_kind = [rollout(1.0, text="Add."), rollout(1.0, text="Count.")]
    two_queries = [rollout(1.0, of=QUERIES[0], kind="cot"), rollout(1.0, of=QUERIES[1], kind="answer")]
    one_lost = [rollout(1.0, kind="cot"), rollout(0.0, kind="answer"), rollout(None, kind="pairs")]
    assert [join_winners(found, rng=random.Random(0)) for found in (one_kind, two_queries, one_lost)] == [[], [], []]


@settings(deadline=None)
@given(winners_and_losers(), st.integers(1, 4), st.integers(0, 9))
def test_joins_are_few_distinct_and_made_of_the_query_s_own_winners(
    rollouts: list[Rollout], per_query: int, seed: int
) -> None:
    joins = join_winners(rollouts, rng=random.Random(seed), per_query=per_query)
    assert joins == list(drop_repeats(joins))
    assert all(count <= per_query for count in Counter(join.query.id for join in joins).values())
    for joined in joins:
        own = [r.supplement for r in rollouts if r.query == joined.query and r.won() and r.supplement]
        assert joined.supplement in [join_supplements(a, b) for a in own for b in own if a.kind != b.kind]


@pytest.mark.parametrize("seed", range(5))
def test_a_query_s_joins_are_of_distinct_pairs_of_kinds_where_it_has_them(seed: int) -> None:
    many = [rollout(1.0, kind="cot", text=f"Step {number}.") for number in range(20)]
    winners = [*many, rollout(1.0, kind="answer", text="4"), rollout(1.0, kind="pairs", text="4, not 5.")]
    joins = join_winners(winners, rng=random.Random(seed), per_query=4)
    pairs = [frozenset(part.partition("]")[0] for part in each.supplement.render().split("\n")) for each in joins]
    assert len(set(pairs[:3])) == 3
    assert len(joins) == 4


@settings(deadline=None)
@given(winners_and_losers(), st.randoms(use_true_random=False), st.integers(0, 9))
def test_joins_do_not_depend_on_the_order_of_the_rollouts(
    rollouts: list[Rollout], shuffler: random.Random, seed: int
) -> None:
    shuffled = rollouts.copy()
    shuffler.shuffle(shuffled)
    assert join_winners(rollouts, rng=random.Random(seed)) == join_winners(shuffled, rng=random.Random(seed))


def test_a_seed_gives_the_same_joins_in_every_process() -> None:
    winners = [rollout(1.0, kind=kind, text=text) for kind in ("answer", "cot", "pairs") for text in "abc"]
    joins = [joined.supplement.render() for joined in join_winners(winners, rng=random.Random(0))]
    assert joins == ["[pairs] c\n[answer] a", "[answer] b\n[cot] a", "[cot] b\n[pairs] a"]
