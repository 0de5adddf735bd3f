"""What the outcomes of training say about the meaning of each house term, to a reasoner that no model has to be.

Pure: it reads rollouts and the world's list of candidate conditions.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimizers.core.records import Rollout
from sgt_modules.embedded import HouseTermsWorld
from sgt_modules.embedded.company import Condition, conditions
from sgt_modules.embedded.world import HouseTerm

TRUE_WINS, WRONG_WINS = (1.0, 1.0), (1.0, 9.0)
"""Beta priors of how often a supplement wins that states a term's true meaning, or a wrong one.

A true meaning may win anything from never to always, as nothing is known of the actor. A wrong one wins by luck, one
time in ten on average: the query of a wrong condition sometimes returns the right rows."""

_DENIED = re.compile(r"Do not read [^;\n]*;|Wrong: [^\n]*")
"""The part of a supplement that says what a term does not mean."""


@dataclass(frozen=True, slots=True)
class Deduction:
    """The most likely meaning of a term, and how many other meanings are as likely.

    `tried` counts the training outcomes that said something about the term, `won` those that stated this meaning and
    won.
    """

    term: HouseTerm
    condition: Condition
    equals: int
    tried: int
    won: int

    @property
    def right(self) -> bool:
        """Whether the deduced meaning is the true one."""
        return self.condition == self.term.condition


def stated_condition(term: HouseTerm, others: Iterable[str], text: str) -> Condition | None:
    """Return the one candidate condition that a supplement says the term means; None if it states none, or several.

    What a supplement denies does not count, nor one that names one of the `others`, the words of other terms. A
    question with a condition of its own makes an answer state two, which says nothing here.

    >>> from sgt_modules.embedded.company import TABLES
    >>> zoka = HouseTerm("zoka", TABLES["customers"], Condition("age", ">", "45"))
    >>> text = "[mistakes] Do not read zoka as tier = 'gold'; read it as age > 30."
    >>> str(stated_condition(zoka, ["bima"], text)), stated_condition(zoka, [], "[cot] Think of zoka.")
    ('age > 30', None)
    """
    if any(re.search(rf"\b{re.escape(word)}\b", text) for word in others):
        return None
    kept = _DENIED.sub("", text)
    found = [each for each in conditions(term.table) if re.search(rf"\b{re.escape(str(each))}(?!\d)", kept)]
    return found[0] if len(found) == 1 else None


def deduce_meanings(
    world: HouseTermsWorld, explored: Iterable[Rollout], *, seed: int = 0, threshold: float = 1.0
) -> list[Deduction]:
    """Return the most likely meaning of each of the world's terms, given the outcomes on the training questions.

    What it knows: the table and the list of conditions that a term of this table can mean (20), which training
    questions use the term, and for each supplement tried there the condition that it states and whether it won. That
    is more than a generator gets, which must also find the list and the form by itself.

    What it does not know: the true meanings, the database and the expected rows, so a wrong condition that returns the
    right rows looks like a true one; the actor, so a true meaning that the actor failed to use counts against itself;
    and other splits. It does not see which rows an answer returned, nor the actor's query.

    The actor is imperfect, so outcomes are weighed and none eliminates a meaning: the likelihood of a meaning is
    beta-binomial in the wins of the supplements that state it (prior `TRUE_WINS`) and of those that state another one
    (`WRONG_WINS`). A meaning that nothing stated is thus more likely than one that was stated and lost. Equally likely
    meanings: a seeded choice.
    """
    outcomes = _count_outcomes(world, explored, threshold)
    rng = random.Random(f"{seed}-elimination")
    found: list[Deduction] = []
    for term in world.terms:
        wins, losses = outcomes[term.word]
        candidates = conditions(term.table)
        support = [round(_weigh(wins[each], losses[each]), 9) for each in candidates]
        best = [each for each, weight in zip(candidates, support, strict=True) if weight == max(support)]
        chosen = rng.choice(best)
        found.append(Deduction(term, chosen, len(best) - 1, wins.total() + losses.total(), wins[chosen]))
    return found


def _count_outcomes(
    world: HouseTermsWorld, explored: Iterable[Rollout], threshold: float
) -> Mapping[str, tuple[Counter[Condition], Counter[Condition]]]:
    """Return for each term how often each stated condition won and lost, each supplement once a question."""
    terms: Mapping[str, HouseTerm] = {term.word: term for term in (*world.terms, *world.shifted_terms)}
    examples: Sequence[str] = [example.term for example in world.train]
    outcomes = {term.word: (Counter[Condition](), Counter[Condition]()) for term in world.terms}
    seen = set[tuple[str, str]]()
    for rollout in explored:
        word, text = examples[rollout.query.index], rollout.supplement.render()
        if not word or rollout.reward is None or (rollout.query.id, text) in seen:
            continue
        seen.add((rollout.query.id, text))
        condition = stated_condition(terms[word], (other for other in terms if other != word), text)
        if condition is not None:
            outcomes[word][0 if rollout.won(threshold) else 1][condition] += 1
    return outcomes


def _weigh(wins: int, losses: int) -> float:
    """Return the log-likelihood ratio of these outcomes if what was stated is true, and if it is wrong.

    >>> _weigh(0, 0), _weigh(2, 0) > 0 > _weigh(0, 2)
    (0.0, True)
    """
    return _log_beta_ratio(wins, losses, *TRUE_WINS) - _log_beta_ratio(wins, losses, *WRONG_WINS)


def _log_beta_ratio(wins: int, losses: int, a: float, b: float) -> float:
    """Return ln B(a + wins, b + losses) - ln B(a, b)."""

    def log_beta(first: float, second: float) -> float:
        return math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)

    return log_beta(a + wins, b + losses) - log_beta(a, b)
