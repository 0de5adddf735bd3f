"""A gate's thresholds from validation: the strictest novelty that scores best, then the most lenient sureness."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import rollout

from optimizers.rollouts.evaluation import Scored
from optimizers.sgt.gating import GateExample, fit_gate, gate_examples
from sgt_modules.episode import Call, Place
from sgt_modules.gate import Gate
from sgt_modules.kinds import SILENCE, Supplement

KNOWN = Gate.of(["red car", "red boat", "red ship"])
HINT = Supplement("answer", "Add one.")


def thresholds(*found: GateExample) -> tuple[float, float]:
    gate = fit_gate(KNOWN, found)
    assert (gate.seen, gate.inputs) == (KNOWN.seen, KNOWN.inputs)
    return gate.most_novel, gate.least_sure


def test_the_novelty_that_scores_best_is_found_and_of_equal_ones_the_strictest() -> None:
    """By hand: the bar .1 scores 1 + 0 + 1 (the last two as without), .3 scores 1 + 0 + 1, and .5 scores 1 + 0 + 0."""
    found = GateExample(1, 0, 0.1, -1), GateExample(0, 0, 0.3, -1), GateExample(0, 1, 0.5, -1)
    assert thresholds(*found) == (0.1, -math.inf)


def test_a_gain_at_a_high_novelty_that_outweighs_the_losses_below_it_opens_the_gate() -> None:
    """By hand: the bar .2 scores 0 + 0 + 0 (the last two as without), .5 scores 0 + 1 + 1."""
    found = GateExample(0, 1, 0.2, -1), GateExample(1, 0, 0.5, -1), GateExample(1, 0, 0.5, -1)
    assert thresholds(*found)[0] == 0.5


def test_the_sureness_that_scores_best_is_found_and_of_equal_ones_the_most_lenient() -> None:
    """By hand: everything through scores 1 + 0 + 0; -.9 the same; -.7 scores 1 + 0 + 1 (the last as without); -.2
    scores 1 + 0 + 1."""
    found = GateExample(1, 0, 0.0, -0.2), GateExample(0, 0, 0.0, -0.7), GateExample(0, 1, 0.0, -0.9)
    assert thresholds(*found) == (0.0, -0.7)


def test_sureness_is_judged_on_what_the_novelty_lets_through() -> None:
    """The unsure failure is as novel as can be and gated already: nothing more is asked of the sureness."""
    assert thresholds(GateExample(1, 0, 0.1, -0.9), GateExample(0, 1, 0.8, -2.0)) == (0.1, -math.inf)


def test_where_nothing_was_judged_only_what_is_all_familiar_gets_through() -> None:
    assert thresholds() == (0.0, -math.inf)


def test_where_supplements_gain_nothing_the_strictest_novelty_is_taken() -> None:
    assert thresholds(GateExample(1, 1, 0.2, -1), GateExample(0, 0, 0.4, -2)) == (0.0, -math.inf)
    assert thresholds(GateExample(0, 1, 0.2, -1)) == (0.0, -math.inf)


judgements = st.lists(
    st.builds(
        GateExample,
        st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from([0.0, 0.2, 0.4, 1.0]),
        st.sampled_from([-0.1, -0.5, -2.0]),
    ),
    max_size=8,
)


def kept(found: list[GateExample], gate: Gate) -> float:
    through = [each.novelty <= gate.most_novel and gate.sure(each.logprob) for each in found]
    return sum(each.score if open_ else each.without for each, open_ in zip(found, through, strict=True))


@settings(deadline=None)
@given(judgements)
def test_a_fitted_gate_costs_nothing_on_validation(found: list[GateExample]) -> None:
    assert kept(found, fit_gate(KNOWN, found)) >= sum(each.score for each in found)


def spoken(prompt: str, logprob: float, supplement: Supplement = HINT) -> Call:
    return Call(Place("self"), prompt, supplement, logprob)


def test_an_example_is_judged_by_its_most_novel_and_its_least_sure_call() -> None:
    """By hand (see test_gate): `red car train` is 2/3 new, `red car` not at all."""
    aided = Scored([rollout(1.0)], [[spoken("red car train", -0.5), spoken("red car", -2.0)]])
    [found] = gate_examples(KNOWN, aided, [rollout(0.25)])
    assert (found.score, found.without, found.logprob) == (1.0, 0.25, -2.0)
    assert found.novelty == pytest.approx(2 / 3)


def test_what_was_not_rewarded_or_not_spoken_tells_nothing_of_a_gate() -> None:
    calls = [[spoken("red", -1)], [spoken("red", -1)], [spoken("red", -1, SILENCE)], []]
    aided = Scored([rollout(None), rollout(1.0), rollout(1.0), rollout(1.0)], calls)
    assert gate_examples(KNOWN, aided, [rollout(0.0), rollout(None), rollout(0.0), rollout(0.0)]) == []


def test_a_silent_call_beside_a_spoken_one_does_not_count_against_it() -> None:
    aided = Scored([rollout(1.0)], [[spoken("red car", -0.5), spoken("train", -9.0, SILENCE)]])
    assert gate_examples(KNOWN, aided, [rollout(0.0)]) == [GateExample(1.0, 0.0, 0.0, -0.5)]


def test_the_share_of_gated_examples_counts_an_example_once() -> None:
    shut = Call(Place("self"), "train", SILENCE, gated=True)
    calls = [[shut, shut], [spoken("red", -1)], [spoken("red", -1), shut], []]
    assert Scored([rollout(1.0)] * 4, calls).gated == 0.5
    assert Scored([], []).gated == 0.0
