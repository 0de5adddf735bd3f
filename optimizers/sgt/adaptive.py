"""Chooses which supplements of a stage to try in order to save calls: those that may still teach something. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from optimizers.core.records import Candidate, Query, Rollout
from optimizers.sgt.costs import cheaper_couples
from sgt_modules.episode import Place


class Share(NamedTuple):
    """How many new supplements are tried: a share for an open query, a number for a settled one."""

    open: float
    settled: int


SHARES: Sequence[Share] = (Share(0.5, 2), Share(1.0, 2), Share(0.6, 2), Share(0.3, 1))
"""The shares of the warm start and of rounds 1, 2 and later. Round 1 teaches most; later rounds repeat more."""

SETTLED = 0.95
"""A query with at least this share of wins is settled: more supplements for it rarely make a pair."""

FIRST_PASS = 0.2
"""The share of a query's candidates that tell whether its predictor's supplements matter at all."""

DECIDES = 0.1
"""The least share of a predictor's queries that its supplements must decide for more of them to be tried."""


def share_of(round_: int) -> Share:
    """The shares of a round; round 0 is the warm start.

    >>> share_of(2).open, share_of(7) == share_of(3)
    (0.6, True)
    """
    return SHARES[min(round_, len(SHARES) - 1)]


class CandidateScheduler:
    """Splits a stage's new candidates into those to try `first` and those held back.

    A query is *settled* when at least 95 % of its rollouts in `before` won and, where they have prices, no winner is
    cheaper than another; otherwise it is *open*. Of an open query's
    candidates a share is tried: each kind in turn; of direct samples the most probable, as those are the ones that the
    generator writes at inference. Of a settled query a few are tried; if one loses, or prices differ, `reopen`
    returns the others.

    >>> from optimizers.core.records import Query
    >>> from sgt_modules.kinds import Supplement
    >>> query = Query("q", 0, "self", "2+2?")
    >>> new = [Candidate(query, Supplement("cot", str(number)), "free") for number in range(20)]
    >>> len(CandidateScheduler(new, 0, threshold=1.0).first)
    10
    """

    def __init__(
        self, candidates: Sequence[Candidate], round_: int, *, threshold: float, before: Iterable[Rollout] = ()
    ) -> None:
        self._threshold, share = threshold, share_of(round_)
        settled = {query for query, own in _by_query(before).items() if self._is_settled(own)}
        of_query: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            of_query[candidate.query.id].append(candidate)
        self.first: list[Candidate] = []
        self._held_back: dict[str, list[Candidate]] = {}
        for number, (query, own) in enumerate(of_query.items()):
            ordered = _by_likelihood(own) if own[0].source == "direct" else _by_kind_in_turn(own, start=number)
            ordered = ordered[: max(1, round(share.open * len(ordered)))]
            now = min(share.settled, len(ordered)) if query in settled else len(ordered)
            self.first += ordered[:now]
            self._held_back[query] = ordered[now:]

    def reopen(self, first: Iterable[Rollout]) -> list[Candidate]:
        """The candidates held back of each settled query that `first` shows to be open: by a loss, or by a price."""
        opened = [query for query, own in _by_query(first).items() if self._teaches(own)]
        return [candidate for query in opened for candidate in self._held_back.get(query, [])]

    def _is_settled(self, rollouts: Sequence[Rollout]) -> bool:
        won = [each.won(self._threshold) for each in rollouts]
        return sum(won) >= SETTLED * len(won) and not cheaper_couples(rollouts, self._threshold)

    def _teaches(self, rollouts: Sequence[Rollout]) -> bool:
        """Whether some of these could be a pair: one lost, or one won more cheaply than another."""
        return not all(each.won(self._threshold) for each in rollouts) or bool(
            cheaper_couples(rollouts, self._threshold)
        )


def _by_query(rollouts: Iterable[Rollout]) -> dict[str, list[Rollout]]:
    """The rollouts with a reward, by query."""
    found: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        if rollout.reward is not None:
            found[rollout.query.id].append(rollout)
    return found


def _by_likelihood(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: -candidate.logprob)


def _by_kind_in_turn(candidates: Sequence[Candidate], start: int) -> list[Candidate]:
    """Orders a query's candidates so that each kind, from number `start` on, comes once before any comes twice."""
    kinds = list(dict.fromkeys(candidate.supplement.kind for candidate in candidates))
    turn: Counter[str] = Counter()
    order: list[tuple[int, int, Candidate]] = []
    for candidate in candidates:
        kind = candidate.supplement.kind
        order.append((turn[kind], (kinds.index(kind) - start) % len(kinds), candidate))
        turn[kind] += 1
    return [candidate for *_, candidate in sorted(order, key=lambda each: each[:2])]


def deciding_predictors(rollouts: Iterable[Rollout], threshold: float, margin: float | None = None) -> set[str]:
    """The predictors whose supplements matter: `DECIDES` or more of their queries have both a winner and a loser.

    With a `margin`, as where pairs are made by one, rewards that lie at least that far apart.
    """
    rewards: dict[Query, list[float]] = defaultdict(list)
    for rollout in rollouts:
        if rollout.reward is not None:
            rewards[rollout.query].append(rollout.reward.score)
    of_predictor: dict[str, list[bool]] = defaultdict(list)
    for query, found in rewards.items():
        worst, best = min(found), max(found)
        decided = worst < threshold <= best if margin is None else best - worst >= margin
        of_predictor[query.predictor].append(decided)
    return {predictor for predictor, mixed in of_predictor.items() if sum(mixed) >= DECIDES * len(mixed)}


def split_first_pass(pool: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """A few candidates of each query (at least two), and the others.

    They are spread over the pool, which is ordered by kind, and start elsewhere from query to query: each kind gets its
    turn at each place.
    """
    of_query: dict[Query, list[Candidate]] = defaultdict(list)
    for candidate in pool:
        of_query[candidate.query].append(candidate)
    first: list[Candidate] = []
    rest: list[Candidate] = []
    met: Counter[Place] = Counter()
    for query, candidates in of_query.items():
        cut = max(2, round(FIRST_PASS * len(candidates)))
        step = max(1, len(candidates) // cut)
        chosen = set(range(met[query.place] % step, len(candidates), step))
        met[query.place] += 1
        first += [each for number, each in enumerate(candidates) if number in chosen]
        rest += [each for number, each in enumerate(candidates) if number not in chosen]
    return first, rest
