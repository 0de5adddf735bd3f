"""Where a stage's samples are likely to be of use: successive halving over queries and kinds. Pure.

Source: successive halving is that of Jamieson and Talwalkar (arXiv 1502.07943, section 3), with queries for arms.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from optimizers.records import Rollout
from optimizers.sources import Wish

Part = Literal["warm", "round 1", "round 2", "later"]
"""A stage as halving knows it. The warm start looks for supplements that win, a round for winners beside losers."""


class Level(NamedTuple):
    """A part of a stage: which share of the queries gets which share of its samples."""

    queries: float
    samples: float


LEVELS: Mapping[Part, tuple[Level, ...]] = {
    "warm": (Level(1.0, 0.2), Level(0.5, 0.2), Level(0.25, 0.4)),
    "round 1": (Level(1.0, 0.6), Level(0.5, 0.4)),
    "round 2": (Level(1.0, 0.3), Level(0.5, 0.3), Level(0.25, 0.4)),
    "later": (Level(1.0, 0.05), Level(0.5, 0.1), Level(0.25, 0.2)),
}
"""Two fifths of a warm start's samples, four fifths of round 1's, 55 % of round 2's, 15 % of later ones': the first
pairs teach most, and the more was learned the more samples are repeats."""

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
    >>> halving = Halving(wishes, "round 2", threshold=1.0)
    >>> [len(halving.part(level, [])) for level in range(halving.levels)]
    [3, 3, 4]
    """

    def __init__(self, wishes: Sequence[Wish], stage: str, *, threshold: float) -> None:
        self._warm, self._threshold, self._levels = stage == "warm", threshold, LEVELS[part_of(stage)]
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
        return self._warm and sum(outcomes) >= ENOUGH

    def _promise(self, outcomes: Sequence[bool]) -> float:
        won, tried = sum(outcomes), len(outcomes)
        if self._warm:
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


def part_of(stage: str) -> Part:
    """A stage's name as halving knows it.

    >>> part_of("warm"), part_of("round 2"), part_of("round 7")
    ('warm', 'round 2', 'later')
    """
    return stage if stage in ("warm", "round 1", "round 2") else "later"


def share_of(stage: str) -> float:
    """The share of a stage's samples that are asked for, at most.

    >>> round(share_of("round 2"), 3)
    0.55
    """
    return sum(level.queries * level.samples for level in LEVELS[part_of(stage)])
