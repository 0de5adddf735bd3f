"""Which completions are read once, and together; on lists of token ids."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from optimizers.training.shared_pairs import (
    PairIndex,
    PromptCompletion,
    PromptGrouped,
    build_blocks,
    index_pairs,
    split_pairs,
)
from optimizers.training.tokenisation import TokenRow

TOKENS = st.lists(st.integers(1, 3), min_size=1, max_size=3)
ROWS = st.lists(st.builds(TokenRow, TOKENS, st.tuples(TOKENS, TOKENS)), min_size=1, max_size=30)


@given(ROWS)
def test_every_row_can_be_read_back_from_its_distinct_completions(rows: list[TokenRow]):
    pairs = index_pairs(rows)
    read = [
        TokenRow(
            pairs.prompts[pairs.completions[chosen].prompt],
            (pairs.completions[chosen].ids, pairs.completions[other].ids),
        )
        for chosen, other in pairs.pairs
    ]
    assert read == rows
    met = {(tuple(row.prompt), tuple(ids)) for row in rows for ids in row.completions}
    assert len(pairs.completions) == len(met)


@given(ROWS, st.integers(1, 32), st.integers(0, 99))
def test_every_epoch_has_every_pair_once_in_an_order_that_the_seed_decides(rows: list[TokenRow], step: int, seed: int):
    one, other = (PromptGrouped(index_pairs(rows), step, random.Random(seed)) for _ in range(2))
    for _ in range(2):
        order = list(one)
        assert sorted(order) == list(range(len(rows)))
        assert order == list(other)


def every_pair(prompts: int, winners: int, losers: int) -> list[TokenRow]:
    return [
        TokenRow([prompt + 1], ([10 + winner], [20 + loser]))
        for winner in range(winners)
        for loser in range(losers)
        for prompt in range(prompts)
    ]


def test_pairs_that_come_together_are_of_one_prompt_and_share_completions():
    """Four pairs read alone would be 8 completions."""
    pairs = index_pairs(every_pair(prompts=6, winners=4, losers=4))
    order = list(PromptGrouped(pairs, 16, random.Random(0)))
    groups = [{number for index in order[at : at + 4] for number in pairs.pairs[index]} for at in range(0, 96, 4)]
    assert all(len({pairs.completions[number].prompt for number in sides}) == 1 for sides in groups)
    assert sum(map(len, groups)) / len(groups) < 6.5


def test_another_seed_gives_another_order():
    pairs = index_pairs(every_pair(prompts=3, winners=2, losers=3))
    assert list(PromptGrouped(pairs, 16, random.Random(0))) != list(PromptGrouped(pairs, 16, random.Random(1)))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(10, 19)), min_size=1), st.integers(2, 12))
def test_parts_keep_the_pairs_in_order_and_hold_no_more_completions_than_allowed(
    couples: list[tuple[int, int]], most: int
):
    found = split_pairs(couples, most)
    assert [couple for part in found for couple in part] == couples
    assert all(len({number for couple in part for number in couple}) <= most for part in found)


@given(ROWS, st.integers(0, 12))
def test_blocks_hold_each_wanted_completion_once_behind_its_own_prompt_and_within_the_length(
    rows: list[TokenRow], longest: int
):
    pairs = index_pairs(rows)
    found, order = build_blocks(pairs, range(len(pairs.completions)), longest)
    read = [(block.prompt, ids) for block in found for ids in block.completions]
    assert read == [(pairs.prompts[pairs.completions[at].prompt], pairs.completions[at].ids) for at in order]
    assert sorted(order) == list(range(len(pairs.completions)))
    assert all(block.length <= longest or len(block.completions) == 1 for block in found)


def test_without_a_length_every_completion_has_a_block_of_its_own():
    pairs = PairIndex([[1]], [PromptCompletion(0, [2]), PromptCompletion(0, [3])], [(0, 1)])
    assert [block.completions for block in build_blocks(pairs, [0, 1], 0)[0]] == [([2],), ([3],)]
