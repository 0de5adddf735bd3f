"""Orders winners by what their runs cost. Pure; without prices no winner is preferred to another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from optimizers.core.records import Rollout
from sgt_modules.generator import SupplementGenerator
from sgt_modules.local.engine import LocalEngine

SAVING = 0.1
"""A winner is cheaper than another if it saves at least this share of the other's price, where there is no `margin`."""


def is_cheaper(first: Rollout, second: Rollout, margin: float | None = None) -> bool:
    """Whether the first of two successes is to be preferred for its cost.

    Its net reward is higher, by at least `margin` where there is one; without one, it saves at least `SAVING` of the
    other's price. Never where both have no price.
    """
    if first.net is None or second.net is None or not (first.price or second.price):
        return False
    if margin is not None:
        return first.net - second.net >= margin
    return first.net > second.net and first.price <= (1 - SAVING) * second.price


def cheaper_couples(rated: Sequence[Rollout], threshold: float) -> list[tuple[Rollout, Rollout]]:
    """Each of the cheapest winners of one query with each winner that is dearer.

    A winner is among the cheapest if no supplement that won is cheaper. The others are never preferred to a third one:
    what they save compared with it is mostly chance.
    """
    winners = [each for each in rated if each.won(threshold)]
    speaking = [each for each in winners if each.supplement]
    cheapest = [each for each in winners if not any(is_cheaper(other, each) for other in speaking)]
    return [(first, second) for first in cheapest for second in winners if is_cheaper(first, second)]


def drop_dear_winners(
    rollouts: Sequence[Rollout], *, threshold: float, margin: float | None = None
) -> Sequence[Rollout]:
    """Leaves out the winners of which the same query has a cheaper one; without prices, the same rollouts."""
    if not any(each.price for each in rollouts):
        return rollouts
    winners: dict[str, list[Rollout]] = defaultdict(list)
    for each in rollouts:
        if each.supplement and each.won(threshold):
            winners[each.query.id].append(each)
    return [
        each
        for each in rollouts
        if not each.won(threshold) or not any(is_cheaper(other, each, margin) for other in winners[each.query.id])
    ]


def token_counter(generator: SupplementGenerator) -> Callable[[str], int]:
    """Counts a supplement's tokens: with the tokenizer of a generator in this process, else its words."""
    engine = generator.engine
    if not isinstance(engine, LocalEngine):
        return lambda text: len(text.split())
    return lambda text: len(engine.tokenizer.encode(text, add_special_tokens=False))  # loaded at its first use
