from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from sgt_modules.local import roomy_cache
from sgt_modules.local.roomy_cache import RoomyLayer, choose_places, make_room

pytestmark = pytest.mark.usefixtures("room_for_all")

LAYERS, ROWS, HEADS, WIDTH = 2, 6, 2, 4


@pytest.fixture(scope="module")
def room_for_all() -> Iterator[None]:
    """Small layers get room too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roomy_cache, "LEAST_BYTES", 0)
        yield


def states(rows: int, tokens: int) -> torch.Tensor:
    return torch.randn(rows, HEADS, tokens, WIDTH)


@given(st.lists(st.sets(st.integers(0, ROWS - 1), min_size=1), max_size=5), st.integers(1, 9))
def test_it_holds_what_the_plain_cache_holds_whatever_rows_end(endings: list[set[int]], tokens: int) -> None:
    """At each step the rows that `endings` names are kept, as far as they are still there."""
    plain = DynamicCache()
    for layer in range(LAYERS):
        plain.update(states(ROWS, tokens), states(ROWS, tokens), layer)
    roomy = DynamicCache()
    for layer, filled in enumerate(plain.layers):
        roomy.update(filled.keys.clone(), filled.values.clone(), layer)
    make_room(roomy, len(endings))
    rows = ROWS
    for kept in endings:
        new = [(states(rows, 1), states(rows, 1)) for _ in range(LAYERS)]
        for layer, (keys, values) in enumerate(new):
            expected, held = plain.update(keys, values, layer), roomy.update(keys, values, layer)
            assert all(torch.equal(one, other) for one, other in zip(expected, held, strict=True))
        if places := choose_places(sorted(row for row in kept if row < rows)):
            for cache in (plain, roomy):
                cache.batch_select_indices(torch.tensor(places))
            rows = len(places)
        assert roomy.get_seq_length() == plain.get_seq_length()


@given(st.sets(st.integers(0, 30), min_size=1))
def test_the_kept_rows_come_once_each_and_those_within_their_number_stay(kept: set[int]) -> None:
    places = choose_places(sorted(kept))
    assert sorted(places) == sorted(kept)
    assert all(place == row for place, row in enumerate(places) if place in kept)


def test_new_tokens_are_written_in_place_and_the_plain_copy_is_freed() -> None:
    cache = DynamicCache()
    cache.update(states(ROWS, 5), states(ROWS, 5), 0)
    plain = cache.layers[0]
    make_room(cache, 3)
    (layer,) = cache.layers
    assert isinstance(layer, RoomyLayer)
    assert plain.keys is None
    before = layer.keys.data_ptr()
    for _ in range(3):
        cache.update(states(ROWS, 1), states(ROWS, 1), 0)
    assert layer.keys.data_ptr() == before


def test_a_sliding_window_keeps_its_own_layer() -> None:
    from transformers import MistralConfig

    cache = DynamicCache(config=MistralConfig(sliding_window=8, num_hidden_layers=1))
    cache.update(states(ROWS, 5), states(ROWS, 5), 0)
    make_room(cache, 3)
    assert not isinstance(cache.layers[0], RoomyLayer)


def test_a_small_layer_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DynamicCache()
    cache.update(states(ROWS, 5), states(ROWS, 5), 0)
    monkeypatch.setattr(roomy_cache, "LEAST_BYTES", cache.layers[0].keys.nbytes + 1)
    make_room(cache, 3)
    assert not isinstance(cache.layers[0], RoomyLayer)
