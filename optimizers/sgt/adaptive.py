"""Which of a stage's new supplements are tried where calls are spared: those that may still tell something. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from optimizers.core.records import Candidate, Rollout

Part = Literal["warm", "round 1", "round 2", "later"]
"""A stage as it counts here."""


class Share(NamedTuple):
    """How much of a stage's new supplements is tried: a share of each query's, and a number of a settled one's."""

    open: float
    settled: int


SHARES: Mapping[Part, Share] = {
    "warm": Share(0.5, 2),
    "round 1": Share(1.0, 2),
    "round 2": Share(0.6, 2),
    "later": Share(0.3, 1),
}
"""Round 1 teaches most; what later rounds sample was tried before, more and more of it."""

SETTLED = 0.95
"""The share of wins from which a query counts as settled: what else is tried for it hardly makes a pair."""


class Thrift:
    """A stage's new candidates: `first` those to try at once, then `doubted` what their outcomes call for.

    A query is open until all that was tried for it in the stage `before` and is known of this one has won. A settled
    one is only probed, as it may have been luck; where a probe loses, it is open again. Of an open query's candidates a
    share is tried: each kind has its turn, and of samples that were asked for no kind the likeliest come first, as they
    are what the generator says when it is used. A stage and a query count by the stage's `SHARES`.

    >>> from optimizers.core.records import Query
    >>> from sgt_modules.kinds import Supplement
    >>> query = Query("q", 0, "self", "2+2?")
    >>> new = [Candidate(query, Supplement("cot", str(number)), "free") for number in range(20)]
    >>> len(Thrift(new, "warm", threshold=1.0).first)
    10
    """

    def __init__(
        self, candidates: Sequence[Candidate], stage: str, *, threshold: float, before: Iterable[Rollout] = ()
    ) -> None:
        self._threshold, share = threshold, SHARES[part_of(stage)]
        settled = {query for query, won in self._outcomes(before).items() if sum(won) >= SETTLED * len(won)}
        of_query: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            of_query[candidate.query.id].append(candidate)
        self.first: list[Candidate] = []
        self._kept_back: dict[str, list[Candidate]] = {}
        for number, (query, own) in enumerate(of_query.items()):
            ready = _likeliest(own) if own[0].source == "direct" else _by_turns(own, start=number)
            ready = ready[: max(1, round(share.open * len(ready)))]
            now = min(share.settled, len(ready)) if query in settled else len(ready)
            self.first += ready[:now]
            self._kept_back[query] = ready[now:]

    def doubted(self, first: Iterable[Rollout]) -> list[Candidate]:
        """What was kept back of settled queries whose probes lost, given what came of `first`."""
        outcomes = self._outcomes(first)
        doubted = [query for query, won in outcomes.items() if not all(won)]
        return [candidate for query in doubted for candidate in self._kept_back.get(query, [])]

    def _outcomes(self, rollouts: Iterable[Rollout]) -> dict[str, list[bool]]:
        """Of each query, whether each rollout that has a reward won."""
        found: dict[str, list[bool]] = defaultdict(list)
        for rollout in rollouts:
            if rollout.reward is not None:
                found[rollout.query.id].append(rollout.won(self._threshold))
        return found


def _likeliest(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: -candidate.logprob)


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
    """A stage's name as it counts here.

    >>> part_of("warm"), part_of("round 2"), part_of("round 7")
    ('warm', 'round 2', 'later')
    """
    return stage if stage in ("warm", "round 1", "round 2") else "later"


def share_of(stage: str) -> float:
    """The share of a stage's new supplements that are tried, at most.

    >>> share_of("round 2")
    0.6
    """
    return SHARES[part_of(stage)].open
