"""What outcomes say about the meaning of a term: which condition a supplement states, and how outcomes are weighed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from optimizers.core.records import Query, Reward, Rollout
from optimizers.demos.elimination import Deduction, deduce_meanings, stated_condition
from sgt_modules.embedded import QUICK, HouseTermsWorld
from sgt_modules.embedded.company import Condition, conditions
from sgt_modules.embedded.phrasing import FREE_STYLE, PREDEFINED, Claim, phrase
from sgt_modules.embedded.questions import FORMS, Ask
from sgt_modules.embedded.world import HouseTerm
from sgt_modules.kinds import Supplement

WORLD = HouseTermsWorld(100, sizes=QUICK)
TERM = WORLD.terms[0]
OTHERS = [term.word for term in WORLD.terms[1:]]


def claim(condition: Condition, term: HouseTerm = TERM) -> Claim:
    ask = Ask(FORMS[0], term.table)
    other = next(each for each in conditions(term.table) if each != condition)
    return Claim(ask, f"{term.word} {term.table.name}", term.word, condition, other, ask)


@pytest.mark.parametrize("kind", [*PREDEFINED, *FREE_STYLE])
def test_each_form_of_a_supplement_states_the_condition_it_claims_and_not_the_one_it_denies(kind: str) -> None:
    for condition in conditions(TERM.table):
        assert stated_condition(TERM, OTHERS, phrase(kind, claim(condition)).render()) == condition


def test_what_states_none_or_two_or_speaks_of_another_word_says_nothing() -> None:
    first, second = conditions(TERM.table)[:2]
    for text in ("", "[cot] Think.", f"[background] {TERM.word} means {first}.\n[hint] Filter by {second}."):
        assert stated_condition(TERM, OTHERS, text) is None
    assert stated_condition(TERM, OTHERS, f"[background] {OTHERS[0]} means {first}.") is None


def outcomes(term: HouseTerm, condition: Condition, *scores: float | None) -> Iterator[Rollout]:
    """Outcomes of a condition on the training questions of a term, each in another form."""
    places = [n for n, example in enumerate(WORLD.train) if example.term == term.word]
    for number, score in enumerate(scores):
        place = places[number % len(places)]
        given = phrase([*PREDEFINED, *FREE_STYLE][number // len(places)], claim(condition, term))
        reward = None if score is None else Reward(score)
        yield Rollout(Query(f"q{place}", place, "self", WORLD.train[place].question), "warm", "free", given, reward)


def of(term: HouseTerm, found: list[Deduction]) -> Deduction:
    return next(each for each in found if each.term == term)


def test_the_meaning_whose_supplements_win_is_the_most_likely_though_the_actor_fails_at_times() -> None:
    wrong = next(each for each in conditions(TERM.table) if each != TERM.condition)
    rollouts = [*outcomes(TERM, TERM.condition, 1.0, 0.0, 1.0), *outcomes(TERM, wrong, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)]
    found = of(TERM, deduce_meanings(WORLD, rollouts))
    assert (found.condition, found.right, found.equals, found.tried, found.won) == (TERM.condition, True, 0, 9, 2)


def test_what_was_stated_and_lost_is_less_likely_than_what_nobody_tried() -> None:
    lost = conditions(TERM.table)[:-1]
    rollouts = [each for condition in lost for each in outcomes(TERM, condition, 0.0)]
    found = of(TERM, deduce_meanings(WORLD, rollouts))
    assert (found.condition, found.equals) == (conditions(TERM.table)[-1], 0)


def test_without_outcomes_each_meaning_is_as_likely_and_the_seed_chooses() -> None:
    by_seed = {of(TERM, deduce_meanings(WORLD, [], seed=seed)).condition for seed in range(40)}
    assert len(by_seed) > 5
    assert {each.equals for each in deduce_meanings(WORLD, [])} == {len(conditions(TERM.table)) - 1}


def test_outages_repeats_and_plain_questions_count_nothing() -> None:
    plain = next(n for n, example in enumerate(WORLD.train) if not example.term)
    about_plain = Rollout(
        Query("p", plain, "self", "?"), "warm", "free", Supplement("cot", str(TERM.condition)), Reward(1.0)
    )
    once = list(outcomes(TERM, TERM.condition, 1.0))
    rollouts = [about_plain, *once, *once, *outcomes(TERM, TERM.condition, None)]
    assert sum(each.tried for each in deduce_meanings(WORLD, rollouts)) == 1


def test_enough_outcomes_of_an_imperfect_actor_imply_every_meaning() -> None:
    """The true meaning wins 70 % of the time, a wrong one 5 %; each condition is stated up to nine times a term."""
    rng = random.Random(0)
    rollouts: list[Rollout] = []
    for term in WORLD.terms:
        for condition in conditions(term.table):
            chance = 0.7 if condition == term.condition else 0.05
            rollouts += outcomes(term, condition, *(float(rng.random() < chance) for _ in range(9)))
    assert all(each.right for each in deduce_meanings(WORLD, rollouts))
