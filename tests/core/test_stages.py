"""A stage's name in the store is written and read in one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.core.stages import Stage, pool_name

NAMES = st.text("abr 1:/", max_size=12)


@given(NAMES)
def test_any_name_of_the_store_is_read_and_written_as_it_was(text: str) -> None:
    assert str(Stage.read(text)) == text


@pytest.mark.parametrize(
    ("text", "split"),
    [("none/val", "val"), ("dpo1/test", "test"), ("round1/impact0/train", "train"), ("round 1: others/train", "train")]
    + [(pool_name(round_), "") for round_ in range(3)],
)
def test_the_split_is_that_of_a_scored_stage_and_empty_where_the_run_explores(text: str, split: str) -> None:
    assert Stage.read(text).split == split
    assert str(Stage.read(text).on("")) == text.removesuffix(f"/{split}")
