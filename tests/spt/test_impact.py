"""What each sentence does to the score, against numbers worked out by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.spt.impact import (
    SentenceImpact,
    annotate,
    compute_impacts,
    count_tokens,
    prompts_to_run,
    prune_prompt,
    strip_impacts,
    subsample,
)
from optimizers.spt.sentences import split_sentences

PARTS = ["Add. ", "Guess. ", "Smile."]


def alone(prompt: str) -> list[float | None]:
    """Eight examples: `Add.` makes six right, `Guess.` spoils two of them, `Smile.` does nothing."""
    right = 6 * ("Add." in prompt) - 2 * ("Add." in prompt and "Guess." in prompt)
    return [float(n < right) for n in range(8)]


@pytest.mark.parametrize("way", ["prefix", "leave-one-out"])
def test_a_sentences_impact_is_the_mean_of_paired_differences(way: str) -> None:
    """Prefixes score 0, 6/8, 4/8, 4/8, so impacts are .75, -.25, 0.

    All three score 4/8; without the first 0, without the second 6/8, without the third 4/8: .5, -.25, 0.
    The standard error of m differences of size 1 among 8 is sqrt(m/8 (1 - m/8) * 8/7 / 8): .1637 for 6 and 2, .189 for
    4. Agresti and Min's interval for 6 gained of 8 is 6/10 +- 1.96 sqrt((.7 - .36) / 10) = .6 +- .3614, which leaves
    0 out; for 2 lost it is -.2 +- 1.96 sqrt((.3 - .04) / 10) = -.2 +- .316, which does not.
    """
    found = compute_impacts(PARTS, [alone(prompt) for prompt in prompts_to_run(PARTS, way)], way)
    first = (0.75, 0.1637) if way == "prefix" else (0.5, 0.189)
    assert [(each.impact, round(each.error, 4)) for each in found] == [first, (-0.25, 0.1637), (0.0, 0.0)]
    assert [each.distinguishable for each in found] == [True, False, False]
    if way == "prefix":
        assert (round(found[0].low, 4), round(found[0].high, 4)) == (0.2386, 0.9614)


def test_an_example_without_an_answer_on_either_side_is_left_out() -> None:
    [found] = compute_impacts(["Add."], [[0.0, None, 0.0, 0.5], [1.0, 1.0, None, 1.0]], "prefix")
    assert (found.impact, found.examples) == (0.75, 2)


def test_without_any_pair_nothing_is_known() -> None:
    [found] = compute_impacts(["Add."], [[None], [1.0]], "prefix")
    assert (found.impact, found.error, found.low, found.high, found.examples) == (0.0, 0.0, -1.0, 1.0, 0)
    assert not found.distinguishable


def test_scores_of_another_number_of_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores of 2 prompts, got those of 1"):
        compute_impacts(["Add."], [[1.0]], "prefix")


def test_impacts_stand_at_the_end_of_their_sentences_and_come_off_again() -> None:
    prompt = "Add. Carry.\n\n- Check e.g. twice.\n```\na. B\n```\nEnd"
    parts = split_sentences(prompt)
    sure, unsure = (0.5, 0.1, 0.3, 0.7, 20), (-0.1, 0.2, -0.4, 0.3, 20)
    marked = annotate([SentenceImpact(part, *(sure if n % 2 else unsure)) for n, part in enumerate(parts)])
    doubt = "[impact -0.10 ± 0.20, not distinguishable from 0]"
    assert marked == (
        f"Add. {doubt} Carry. [impact +0.50 ± 0.10]\n\n- Check e.g. twice. {doubt}\n```\na. B\n```\n"
        f"[impact +0.50 ± 0.10]\nEnd {doubt}"
    )
    assert strip_impacts(marked) == prompt


def test_a_subsample_is_drawn_by_the_seed_and_keeps_the_order() -> None:
    first, again, other = (subsample(50, 8, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again == sorted(set(first))
    assert first != other
    assert len(first) == 8


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (100, "Add. Guess. Smile. Stop."),
        (8, "Add. Guess. Smile. Stop."),  # 24 bytes
        (7, "Add. Smile. Stop."),  # the harmful one first
        (5, "Add. Smile."),  # of two that do nothing, the last
        (2, "Add."),
        (1, "Add."),  # something stays
    ],
)
def test_a_prompt_that_is_too_long_loses_its_least_helpful_sentences(most: int, expected: str) -> None:
    parts = ["Add. ", "Guess. ", "Smile. ", "Stop."]
    assert prune_prompt(parts, {"Add.": 0.5, "Guess.": -0.2, "Smile.": 0.0}, most) == expected


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=6), st.integers(1, 40), st.randoms())
def test_a_pruned_prompt_fits_or_is_one_sentence_and_keeps_the_order(
    parts: list[str], most: int, rng: random.Random
) -> None:
    known = {part.strip(): rng.uniform(-1, 1) for part in parts}
    found = prune_prompt(parts, known, most)
    assert count_tokens(found) <= most or any(found == part.strip() for part in parts)
    assert len(found) <= len("".join(parts))
