"""Which of a stage's supplements are tried: successive halving over queries and kinds, where it is likely of use. Pure.

Source: successive halving is that of Jamieson and Talwalkar (arXiv 1502.07943, section 3), with queries for arms.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from optimizers.records import Candidate, Rollout

Part = Literal["warm", "round 1", "round 2", "later"]
"""A stage as halving knows it. The warm start looks for supplements that win, a round for winners beside losers."""


class Level(NamedTuple):
    """A part of a stage: which share of the queries gets which share of its candidates tried."""

    queries: float
    candidates: float


LEVELS: Mapping[Part, tuple[Level, ...]] = {
    "warm": (Level(1.0, 0.6), Level(0.5, 0.36)),
    "round 1": (Level(1.0, 0.9), Level(0.5, 0.1)),
    "round 2": (Level(1.0, 0.3), Level(0.5, 0.3)),
    "later": (Level(1.0, 0.05), Level(0.5, 0.1)),
}
"""Of what is not settled and was not tried before, 78 % in the warm start, 95 % in round 1, 45 % in round 2 and a tenth
in later ones: all later rounds stand on what SFT and the first one learn, and more and more of theirs is known."""

ENOUGH = 5
"""Winners of a query after which a warm start asks for no more of it."""

SETTLED = 0.95
"""The share of wins from which a query counts as settled: what else is tried for it hardly makes a pair."""

PROBED = 2
"""Candidates of a settled query that are tried all the same, as it may have been luck."""


class Halving:
    """A stage's candidates, level by level: each level goes to the most promising half of the queries before it.

    A query promises winners by its share of wins so far (with one win and one loss added), until it has `ENOUGH`. It
    promises pairs by the share of wins times that of losses (with one win and a quarter of a loss added): least where
    everything won, as it is learned already, a little where nothing did. One that won all along `before` the first
    level is only probed. After that level, the more promising half of the kinds comes first. Ties keep the queries'
    order.

    >>> from optimizers.records import Query
    >>> from sgt_modules.kinds import Supplement
    >>> query = Query("q", 0, "self", "2+2?")
    >>> tried = [Candidate(query, Supplement("cot", str(number)), "free") for number in range(10)]
    >>> halving = Halving(tried, "round 2", threshold=1.0)
    >>> [len(halving.part(level, [])) for level in range(halving.levels)]
    [3, 3]
    """

    def __init__(
        self, candidates: Sequence[Candidate], stage: str, *, threshold: float, before: Iterable[Rollout] = ()
    ) -> None:
        self._warm, self._threshold, self._levels = stage == "warm", threshold, LEVELS[part_of(stage)]
        self._left: dict[str, list[Candidate]] = {}
        self._all: Counter[str] = Counter()
        of_query: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            of_query[candidate.query.id].append(candidate)
        for number, (query, own) in enumerate(of_query.items()):
            self._left[query] = _by_turns(own, start=number)
            self._all[query] = len(own)
        known = self._outcomes(before)
        self._settled = {query for query, won in known.items() if sum(won) >= SETTLED * len(won)}

    @property
    def levels(self) -> int:
        """How many parts there are."""
        return len(self._levels)

    def part(self, level: int, tried: Iterable[Rollout]) -> list[Candidate]:
        """The candidates of a level, given what came of all levels before it."""
        tried = list(tried)
        outcomes = self._outcomes(tried)
        most = max(1, round(self._levels[level].queries * len(self._left)))
        queries = [query for query in self._left if not self._has_enough(outcomes[query])]
        queries.sort(key=lambda query: -self._promise(outcomes[query]))
        best = self._better_half(tried) if level else set[str]()
        found: list[Candidate] = []
        for query in queries[:most]:
            count = max(1, round(self._levels[level].candidates * self._all[query]))
            if not level and query in self._settled:
                count = min(count, PROBED)
            ready = sorted(self._left[query], key=lambda candidate: candidate.supplement.kind not in best)
            found += ready[:count]
            taken = set(map(id, ready[:count]))
            self._left[query] = [candidate for candidate in self._left[query] if id(candidate) not in taken]
        return found

    def _outcomes(self, rollouts: Iterable[Rollout]) -> dict[str, list[bool]]:
        """Of each query, whether each rollout that has a reward won."""
        found: dict[str, list[bool]] = defaultdict(list)
        for rollout in rollouts:
            if rollout.reward is not None:
                found[rollout.query.id].append(rollout.won(self._threshold))
        return found

    def _has_enough(self, outcomes: Sequence[bool]) -> bool:
        return self._warm and sum(outcomes) >= ENOUGH

    def _promise(self, outcomes: Sequence[bool]) -> float:
        won, tried = sum(outcomes), len(outcomes)
        if self._warm:
            return (won + 1) / (tried + 2)
        share = (won + 1) / (tried + 1.25)
        return share * (1 - share)

    def _better_half(self, tried: Iterable[Rollout]) -> set[str]:
        of_kind: dict[str, list[bool]] = defaultdict(list)
        for rollout in tried:
            if rollout.reward is not None:
                of_kind[rollout.supplement.kind].append(rollout.won(self._threshold))
        kinds = sorted(of_kind, key=lambda kind: (-self._promise(of_kind[kind]), kind))
        return set(kinds[: -(-len(kinds) // 2)])


def _by_turns(candidates: Sequence[Candidate], start: int) -> list[Candidate]:
    """A query's candidates so ordered that each kind, from number `start` on, has its turn before any second."""
    kinds = list(dict.fromkeys(candidate.supplement.kind for candidate in candidates))
    turn: Counter[str] = Counter()
    order: list[tuple[int, int, Candidate]] = []
    for candidate in candidates:
        kind = candidate.supplement.kind
        order.append((turn[kind], (kinds.index(kind) - start) % len(kinds), candidate))
        turn[kind] += 1
    return [candidate for *_, candidate in sorted(order, key=lambda each: each[:2])]


def part_of(stage: str) -> Part:
    """A stage's name as halving knows it.

    >>> part_of("warm"), part_of("round 2"), part_of("round 7")
    ('warm', 'round 2', 'later')
    """
    return stage if stage in ("warm", "round 1", "round 2") else "later"


def share_of(stage: str) -> float:
    """The share of a stage's new supplements that are tried, at most.

    >>> round(share_of("round 2"), 3)
    0.45
    """
    return sum(level.queries * level.candidates for level in LEVELS[part_of(stage)])
