"""Where a stage's samples are likely to be of use: successive halving over queries and kinds. Pure.

Source: successive halving is that of Jamieson and Talwalkar (arXiv 1502.07943, section 3), with queries for arms.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from optimizers.records import Rollout
from optimizers.sources import Wish

Aim = Literal["winners", "pairs"]
"""What a stage is for: supplements that win (the warm start), or winners beside losers of the same query (a round)."""


class Level(NamedTuple):
    """A part of a stage: which share of the queries gets which share of its samples."""

    queries: float
    samples: float


LEVELS: Mapping[Aim, tuple[Level, ...]] = {
    "winners": (Level(1.0, 0.15), Level(0.5, 0.15), Level(0.25, 0.2)),
    "pairs": (Level(1.0, 0.2), Level(0.5, 0.25), Level(0.25, 0.45)),
}
"""Of a warm start 28 % of the samples in all, of a round 44 %: SFT wants few rows, and a round's pairs teach most."""

ENOUGH = 5
"""Winners of a query after which a warm start asks for no more of it."""


class Halving:
    """A stage's wishes, level by level: each level goes to the most promising half of the queries before it.

    A query promises winners by its share of wins so far (with one win and one loss added), until it has `ENOUGH`. It
    promises pairs by the share of wins times that of losses (with one win and a quarter of a loss added): least where
    everything won, as it is learned already, a little where nothing did. After the first level, the more promising half
    of the kinds comes first. Ties keep the queries' order.

    >>> from optimizers.records import Query
    >>> query = Query("q", 0, "self", "2+2?")
    >>> wishes = [Wish(query, "2+2?", "free", "free", seed) for seed in range(10)]
    >>> halving = Halving(wishes, aim="pairs", threshold=1.0)
    >>> [len(halving.part(level, [])) for level in range(halving.levels)]
    [2, 2, 4]
    """

    def __init__(self, wishes: Sequence[Wish], *, aim: Aim, threshold: float) -> None:
        self._aim, self._threshold, self._levels = aim, threshold, LEVELS[aim]
        self._left: dict[str, list[Wish]] = {}
        self._all: Counter[str] = Counter()
        of_query: dict[str, list[Wish]] = defaultdict(list)
        for wish in wishes:
            of_query[wish.query.id].append(wish)
        for number, (query, own) in enumerate(of_query.items()):
            self._left[query] = _by_turns(own, start=number)
            self._all[query] = len(own)

    @property
    def levels(self) -> int:
        """How many parts there are."""
        return len(self._levels)

    def part(self, level: int, tried: Iterable[Rollout]) -> list[Wish]:
        """The wishes of a level, given what came of all levels before it."""
        outcomes: dict[str, list[bool]] = defaultdict(list)
        of_kind: dict[str, list[bool]] = defaultdict(list)
        for rollout in tried:
            if rollout.reward is not None:
                won = rollout.won(self._threshold)
                outcomes[rollout.query.id].append(won)
                of_kind[rollout.supplement.kind].append(won)
        most = max(1, round(self._levels[level].queries * len(self._left)))
        queries = [query for query in self._left if not self._has_enough(outcomes[query])]
        queries.sort(key=lambda query: -self._promise(outcomes[query]))
        best = self._better_half(of_kind) if level else set[str]()
        found: list[Wish] = []
        for query in queries[:most]:
            count = max(1, round(self._levels[level].samples * self._all[query]))
            ready = sorted(self._left[query], key=lambda wish: wish.kind not in best)
            found += ready[:count]
            taken = set(map(id, ready[:count]))
            self._left[query] = [wish for wish in self._left[query] if id(wish) not in taken]
        return found

    def _has_enough(self, outcomes: Sequence[bool]) -> bool:
        return self._aim == "winners" and sum(outcomes) >= ENOUGH

    def _promise(self, outcomes: Sequence[bool]) -> float:
        won, tried = sum(outcomes), len(outcomes)
        if self._aim == "winners":
            return (won + 1) / (tried + 2)
        share = (won + 1) / (tried + 1.25)
        return share * (1 - share)

    def _better_half(self, of_kind: dict[str, list[bool]]) -> set[str]:
        kinds = sorted(of_kind, key=lambda kind: (-self._promise(of_kind[kind]), kind))
        return set(kinds[: -(-len(kinds) // 2)])


def _by_turns(wishes: Sequence[Wish], start: int) -> list[Wish]:
    """A query's wishes so ordered that each kind, from that of number `start` on, has its turn before any second."""
    kinds = list(dict.fromkeys(wish.kind for wish in wishes))
    turn: Counter[str] = Counter()
    order: list[tuple[int, int, Wish]] = []
    for wish in wishes:
        order.append((turn[wish.kind], (kinds.index(wish.kind) - start) % len(kinds), wish))
        turn[wish.kind] += 1
    return [wish for *_, wish in sorted(order, key=lambda each: each[:2])]


def share_of(aim: Aim) -> float:
    """The share of a stage's samples that are asked for, at most.

    >>> round(share_of("pairs"), 4)
    0.4375
    """
    return sum(level.queries * level.samples for level in LEVELS[aim])
