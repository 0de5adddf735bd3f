"""What a program was told -> what it is told instead: another's words, the words without their kind, no words. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from sgt_modules.episode import Call
from sgt_modules.kinds import FREE, SILENCE, Supplement

Told = Sequence[Sequence[Call]]
"""For each example of a split, in its order, the calls of its run with the supplement that each read."""

_TAG = re.compile(r"^\[[A-Za-z][A-Za-z0-9_ -]{0,30}\] ", re.MULTILINE)
_CONSONANTS, _VOWELS = "bdfgjklmnprstvz", "aeiou"


def shuffled(told: Told, rng: random.Random) -> list[list[Call]]:
    """Each example reads, place by place, what was written for another one; a place that the other lacks reads nothing.

    The examples stand in one seeded circle, and each reads its neighbour's, so none reads its own. Raises `ValueError`
    where fewer than two were told anything.
    """
    circle = [index for index, calls in enumerate(told) if calls]
    if len(circle) < 2:
        raise ValueError(f"Expected two or more examples with supplements, got {len(circle)}.")
    rng.shuffle(circle)
    source = dict(zip(circle, [*circle[1:], circle[0]], strict=True))
    changed: list[list[Call]] = []
    for index, calls in enumerate(told):
        other = {call.place: call.supplement for call in told[source.get(index, index)]}
        changed.append([call._replace(supplement=other.get(call.place, SILENCE)) for call in calls])
    return changed


def untagged(told: Told) -> list[list[Call]]:
    """The same words without their kind in brackets, that of a join's second part included."""
    return _each(told, lambda supplement: Supplement(FREE, _TAG.sub("", supplement.text)))


def filler(told: Told, rng: random.Random) -> list[list[Call]]:
    """Invented words in place of each word, the kind's tag among them: as many, as long, in as many lines."""

    def word(found: re.Match[str]) -> str:
        letters = (rng.choice(_VOWELS if place % 2 else _CONSONANTS) for place in range(len(found[0])))
        return "".join(letters)

    return _each(told, lambda supplement: Supplement(FREE, re.sub(r"\S+", word, supplement.render())))


def _each(told: Told, change: Callable[[Supplement], Supplement]) -> list[list[Call]]:
    """Every supplement that says something, changed; silence stays silence."""
    return [
        [call._replace(supplement=change(call.supplement)) if call.supplement else call for call in calls]
        for calls in told
    ]


def unchanged(before: Told, after: Told) -> float:
    """The share of the examples, of those that were told anything, that read the same after a change."""
    same = [_texts(first) == _texts(second) for first, second in zip(before, after, strict=True) if first]
    return sum(same) / len(same) if same else 0.0


def _texts(calls: Sequence[Call]) -> list[str]:
    return [call.supplement.render() for call in calls]


def words_of(calls: Sequence[Call]) -> str:
    """All that one run was told, each supplement on lines of its own."""
    return "\n".join(call.supplement.render() for call in calls if call.supplement)
