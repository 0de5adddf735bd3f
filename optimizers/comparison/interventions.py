"""Changes the supplements that runs read: exchanges them, removes their kinds, or replaces their words. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from sgt_modules.episode import Call
from sgt_modules.kinds import FREE, SILENCE, Supplement

SplitCalls = Sequence[Sequence[Call]]
"""The calls of one run per example of a split, in the examples' order; each call has the supplement that it read."""

_KIND_TAG = re.compile(r"^\[[A-Za-z][A-Za-z0-9_ -]{0,30}\] ", re.MULTILINE)
_CONSONANTS, _VOWELS = "bdfgjklmnprstvz", "aeiou"


def exchange_supplements(split: SplitCalls, rng: random.Random) -> list[list[Call]]:
    """Gives each example the supplements of another example, place by place; a place that the other lacks gets none.

    The examples form a circle in random order, and each gets those of the next one, so no example keeps its own. Raises
    `ValueError` if fewer than two examples have calls.
    """
    circle = [index for index, calls in enumerate(split) if calls]
    if len(circle) < 2:
        raise ValueError(f"Expected two or more examples with supplements, got {len(circle)}.")
    rng.shuffle(circle)
    source = dict(zip(circle, [*circle[1:], circle[0]], strict=True))
    changed: list[list[Call]] = []
    for index, calls in enumerate(split):
        other = {call.place: call.supplement for call in split[source.get(index, index)]}
        changed.append([call._replace(supplement=other.get(call.place, SILENCE)) for call in calls])
    return changed


def remove_tags(split: SplitCalls) -> list[list[Call]]:
    """Removes the kinds in brackets, also before the second part of concatenated supplements."""
    return _change_each(split, lambda supplement: Supplement(FREE, _KIND_TAG.sub("", supplement.text)))


def replace_words(split: SplitCalls, rng: random.Random) -> list[list[Call]]:
    """Replaces each word, tags included, by an invented word of the same length; spaces and lines stay."""

    def invent_word(match: re.Match[str]) -> str:
        letters = (rng.choice(_VOWELS if place % 2 else _CONSONANTS) for place in range(len(match[0])))
        return "".join(letters)

    return _change_each(split, lambda supplement: Supplement(FREE, re.sub(r"\S+", invent_word, supplement.render())))


def _change_each(split: SplitCalls, change: Callable[[Supplement], Supplement]) -> list[list[Call]]:
    """Changes every supplement that is not empty."""
    return [
        [call._replace(supplement=change(call.supplement)) if call.supplement else call for call in calls]
        for calls in split
    ]


def measure_unchanged(before: SplitCalls, after: SplitCalls) -> float:
    """Returns the share of the examples with calls whose supplements a change left equal."""
    same = [_render_each(first) == _render_each(second) for first, second in zip(before, after, strict=True) if first]
    return sum(same) / len(same) if same else 0.0


def _render_each(calls: Sequence[Call]) -> list[str]:
    return [call.supplement.render() for call in calls]


def join_supplements(calls: Sequence[Call]) -> str:
    """Joins the supplements of one run, each on its own lines."""
    return "\n".join(call.supplement.render() for call in calls if call.supplement)
