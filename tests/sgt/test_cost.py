"""What the page on scaling says a run costs is what the recipes and the store say."""

from __future__ import annotations

import re

import cost
import pytest
from places import ROOT

from optimizers.sgt.recipe import Auto, Recipe

DOCS = ROOT / "docs"
PAGE = (DOCS / "scaling.md").read_text(encoding="utf-8")


def test_the_page_holds_the_tables_as_they_are_computed_now() -> None:
    for table in cost.tables():
        assert table in PAGE, f"Put this into docs/scaling.md:\n{table}"


@pytest.mark.parametrize(("size", "most"), [("heavy", 150), ("medium", 76), ("light", 38)])
def test_the_start_page_names_the_calls_of_each_size(size: Auto, most: int) -> None:
    assert cost.calls(Recipe.auto(size)).total == most
    assert re.search(rf'{size}"`[^;]*? up to {most}\b', (DOCS / "index.md").read_text(encoding="utf-8"))


def test_every_candidate_but_a_concatenation_is_sampled() -> None:
    recipe = Recipe()
    assert cost.calls(recipe).sampled == cost.calls(recipe).total - recipe.concat


def test_a_recipe_of_one_round_has_no_later_calls_and_one_rounds_pairs() -> None:
    recipe = Recipe(rounds=1, pair_cap=2)
    assert (cost.calls(recipe).later, cost.pairs(recipe)) == (0, 4)


def test_few_candidates_make_few_pairs() -> None:
    recipe = Recipe(rounds=2, pool_samples=0, concat=0, silence=False, direct_samples=5)
    assert cost.pairs(recipe) == 2 * 3


def test_a_call_costs_what_it_reads_and_what_it_writes() -> None:
    assert cost.dollars(1_000_000, (1.0, 0.0)) == cost.PROMPT + cost.SUPPLEMENT
    assert cost.dollars(1_000_000, (0.0, 2.0)) == 2 * cost.ANSWER


def test_a_rollout_takes_the_bytes_that_the_page_says() -> None:
    on_disk, in_memory = cost.bytes_a_rollout(200)
    said = re.search(r"about ([\d.]+) kB on disk.*?up to ([\d.]+) kB of memory", PAGE, re.DOTALL)
    assert said is not None
    assert 1_000 * float(said[1]) == pytest.approx(on_disk, rel=0.1)
    assert 1_000 * float(said[2]) == pytest.approx(in_memory, rel=0.15)
