from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runtime_fixtures import tiny_engine, tiny_model
from sample_requests import requests

from sgt_modules.local.batching import TokenRequest, cut_batches
from sgt_modules.local.decoding import Decoder
from sgt_modules.local.engine import LocalEngine
from sgt_modules.local.loading import LoadedModel
from sgt_modules.local.prefix_cache import Layers, PrefixCache
from sgt_modules.local.prefix_tree import PrefixTree, TokenIds, build_prefix_tree, count_shared, group_by_prefix

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), min_size=1, max_size=12)

QUESTIONS = [
    "Which of the many singers of the show is the oldest one?",
    "How many pets are there, and of which kind are they?",
]
NOTES = ["Count.", "Count them twice.", "Order by age, then take the first of them.", "Order by age."]
GROUPED = [f"Answer in one word or in none. {question} {note}" for question in QUESTIONS for note in NOTES]


def path(tree: PrefixTree, node: int | None) -> TokenIds:
    """The tokens from the first to the node's last."""
    if node is None:
        return ()
    found = tree.nodes[node]
    return path(tree, found.parent) + found.ids


@given(PROMPTS, st.integers(1, 9))
def test_a_tree_spells_every_prompt_but_its_last_token(prompts: list[TokenIds], min_saving: int) -> None:
    tree = build_prefix_tree(prompts, min_saving=min_saving)
    assert {prompt: path(tree, end) for prompt, end in tree.ends.items()} == {each: each[:-1] for each in prompts}
    assert all(node.parent is None or node.parent < place for place, node in enumerate(tree.nodes))
    assert all(node.ids and node.start == len(path(tree, node.parent)) for node in tree.nodes)


@given(PROMPTS)
def test_a_tree_reads_each_distinct_prefix_once_and_with_a_larger_min_saving_at_most_all_tokens(
    prompts: list[TokenIds],
) -> None:
    prefixes = {prompt[:length] for prompt in prompts for length in range(1, len(prompt))}
    assert build_prefix_tree(prompts, min_saving=1).tokens == len(prefixes)
    assert (
        len(prefixes)
        <= build_prefix_tree(prompts, min_saving=9).tokens
        <= sum(len(prompt) - 1 for prompt in {*prompts})
    )


@given(PROMPTS, st.integers(1, 5))
def test_groups_hold_every_prompt_once(prompts: list[TokenIds], min_saving: int) -> None:
    assert sorted(prompt for group in group_by_prefix(prompts, min_saving=min_saving) for prompt in group) == sorted(
        {*prompts}
    )


def test_token_requests_of_one_question_stay_in_one_batch_whatever_the_lengths_of_its_notes() -> None:
    first, second = (1,) * 40, (2,) * 40
    token_requests = [
        TokenRequest(start + (3,) * length, 0, 0.0, 5) for length in (1, 9, 4, 7) for start in (first, second)
    ]
    near = cut_batches(token_requests, 4 * 54, group_prefixes=True)
    assert [{request.ids[0] for request in batch} for batch in near] == [{1}, {2}]
    assert all({request.ids[0] for request in batch} == {1, 2} for batch in cut_batches(token_requests, 4 * 54))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_shared_question_is_read_once_and_the_replies_are_those_of_a_prompt_by_itself(
    folder: Path, temperature: float
) -> None:
    tree, batch, alone = (tiny_engine(folder, share=share) for share in ("prefix", "batch", "batch"))
    asked, seeds = GROUPED * 2, range(len(GROUPED) * 2)
    replies = tree.sample(requests(asked, seeds=seeds, temperature=temperature))
    by_batch = batch.sample(requests(asked, seeds=seeds, temperature=temperature))
    assert [each.text for each in replies] == [each.text for each in by_batch]
    assert [each.logprob for each in replies] == pytest.approx([each.logprob for each in by_batch])
    singly = [
        alone.sample(requests([each], seeds=[seed], temperature=temperature))[0]
        for each, seed in zip(asked, seeds, strict=True)
    ]
    assert [each.text for each in replies] == [each.text for each in singly]
    prompts = {prompt: tree.encoder.encode([{"role": "user", "content": prompt}]) for prompt in GROUPED}
    begun = sum(len(ids) for ids in prompts.values())
    assert tree.tokens_read < 0.6 * batch.tokens_read
    assert batch.tokens_read < alone.tokens_read
    assert begun > 2 * build_prefix_tree(list(prompts.values())).tokens


def test_no_tokens_are_read_before_the_first_reply(folder: Path) -> None:
    engine = LocalEngine(folder, device="cpu")
    assert engine.tokens_read == 0
    assert engine.sample(requests(["one"], seeds=[0]))[0].prompt_tokens == engine.tokens_read


def test_an_unknown_value_of_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'prefix', 'batch'.*got 'all'"):
        LocalEngine("some/model", share="all")


def test_a_saved_engine_shares_as_it_did(folder: Path) -> None:
    engine = LocalEngine(folder, share="batch")
    assert LocalEngine.load_state(engine.dump_state()).share == "batch"
    assert engine.with_adapter(None).share == engine.with_model(folder).share == "batch"


@given(*[st.lists(st.integers(0, 1), max_size=9).map(tuple)] * 2)
def test_two_prompts_share_what_both_begin_with(one: TokenIds, other: TokenIds) -> None:
    same = count_shared(one, other)
    assert one[:same] == other[:same]
    assert same == min(len(one), len(other)) or one[same] != other[same]


def make_decoder(folder: Path, cache_bytes: int) -> tuple[Decoder, LocalEngine]:
    engine = tiny_engine(folder)
    loaded = LoadedModel([folder], device="cpu", dtype="float64")
    return Decoder(loaded, engine.tokenizer, cache_bytes=cache_bytes), engine


def token_requests_of(engine: LocalEngine, prompts: list[str], temperature: float) -> list[TokenRequest]:
    encoded = [engine.encoder.encode([{"role": "user", "content": prompt}]) for prompt in prompts]
    return [TokenRequest(ids, seed, temperature, 8) for seed, ids in enumerate(encoded)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("at_once", [1, 3])
def test_what_an_earlier_batch_has_read_is_not_read_again_and_the_replies_stay_the_same(
    folder: Path, temperature: float, at_once: int
) -> None:
    decoder, engine = make_decoder(folder, 2**20)
    without, _ = make_decoder(folder, 0)
    token_requests = token_requests_of(engine, GROUPED, temperature)
    for first in range(0, len(token_requests), at_once):
        part = token_requests[first : first + at_once]
        found, expected = decoder.decode(part, None), without.decode(part, None)
        assert [each.text for each in found.values()] == [each.text for each in expected.values()]
        assert [each.logprob for each in found.values()] == pytest.approx([each.logprob for each in expected.values()])
    begun = build_prefix_tree([request.ids for request in token_requests], min_saving=1).tokens + len(token_requests)
    assert begun <= decoder.tokens_read < 1.3 * begun
    assert decoder.tokens_read < 0.8 * without.tokens_read
    read = decoder.tokens_read
    decoder.decode(token_requests[-1:], None)
    assert decoder.tokens_read <= read + 40


def layers_of(tokens: int) -> Layers:
    return [(torch.zeros(tokens, 1, 1), torch.zeros(tokens, 1, 1))]


def test_the_prefix_cache_stays_within_its_bytes_and_removes_the_least_recently_used() -> None:
    cache = PrefixCache(
        max_bytes=3 * 8 * 4
    )  # twelve tokens of one number each for keys and values, in single precision
    cache.store((1, 1, 1, 1), layers_of(4))
    cache.store((2, 2, 2, 2), layers_of(4))
    assert cache.find_longest((1, 1, 1, 9))[0] == 3
    cache.store((3, 3, 3, 3, 3, 3), layers_of(6))
    assert [cache.find_longest(each)[0] for each in [(1, 1), (2, 2), (3, 3)]] == [2, 0, 2]
    cache.store((4,) * 99, layers_of(99))
    assert cache.find_longest((4, 4)) == (0, ())


def test_a_longer_prefix_replaces_those_it_begins_with() -> None:
    cache = PrefixCache(max_bytes=10**6)
    cache.store((1, 2), layers_of(2))
    cache.store((1, 2, 3), layers_of(3))
    assert cache.contains((1, 2))
    assert cache.contains((1, 2, 3))
    length, layers = cache.find_longest((1, 2, 4))
    assert (length, len(layers[0][0])) == (2, 3)
