"""Where candidate supplements come from: predefined kinds, free style, new kinds, concatenations, direct samples.

Pure: builders say what to ask the generator (`Wish`); the generator's replies come back as `Candidate`s.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from optimizers.core.records import Candidate, Query, Rollout
from sgt_modules.kinds import FREE, KINDS, NONE, SILENCE, Kind, Supplement


@dataclass(frozen=True, slots=True)
class Wish:
    """A sample to be asked from the generator: for which query, the pool it is for, the kind, and its own seed.

    `kind` is a `Kind` of the table, `FREE` for one of the generator's own choice, another kind's bare name, or None
    where none is asked for; the reply may be of another.
    """

    query: Query
    source: str
    kind: Kind | str | None
    seed: int


class Reply(Protocol):
    """What the generator answers to one wish."""

    @property
    def supplement(self) -> Supplement:
        """The reply, read as a supplement; empty when it says nothing."""
        ...

    @property
    def logprob(self) -> float:
        """The mean log-probability of its tokens (natural, untempered)."""
        ...


def warm_start(
    queries: Sequence[Query],
    *,
    rng: random.Random,
    kinds: Mapping[str, Kind] = KINDS,
    samples: int = 5,
    free: bool = True,
) -> list[Wish]:
    """The warm start's pool: a prompt for each kind and one free in style, `samples` of each (9 x 5 a query).

    Without `free`, the one in free style is left out.

    >>> query = Query("q", 0, "self", "2+2?")
    >>> wishes = warm_start([query], rng=random.Random(0))
    >>> len(wishes), wishes[0].kind.name, wishes[-1].source
    (45, 'answer', 'free')
    """
    asks: list[tuple[str, Kind | str]] = [("predefined", kind) for kind in kinds.values()]
    return _wishes(queries, [*asks, *([("free", FREE)] if free else [])], samples, rng)


def predefined(
    queries: Sequence[Query],
    *,
    rng: random.Random,
    kinds: Mapping[str, Kind] = KINDS,
    samples: int = 2,
) -> list[Wish]:
    """Round 1's first pool: a prompt for each kind of the table."""
    return _wishes(queries, [("predefined", kind) for kind in kinds.values()], samples, rng)


def ood(
    queries: Sequence[Query],
    names: Sequence[str],
    *,
    rng: random.Random,
    samples: int = 2,
) -> list[Wish]:
    """Round 1's second pool: a prompt for each of the generator's own kinds (see `ood_names`)."""
    return _wishes(queries, [("ood", name) for name in names], samples, rng)


def direct(queries: Sequence[Query], *, rng: random.Random, samples: int = 20) -> list[Wish]:
    """The later rounds' pool: samples for the prompt that names no kind, as at inference."""
    return [Wish(query, "direct", None, rng.getrandbits(32)) for query in queries for _ in range(samples)]


def _wishes(
    queries: Sequence[Query],
    asks: Sequence[tuple[str, Kind | str]],
    samples: int,
    rng: random.Random,
) -> list[Wish]:
    return [
        Wish(query, source, kind, rng.getrandbits(32))
        for query in queries
        for source, kind in asks
        for _ in range(samples)
    ]


def candidates(wishes: Iterable[Wish], replies: Iterable[Reply], writer: str = "") -> Iterator[Candidate]:
    """The generator's replies, in the wishes' order and as they come, as candidates; what says nothing is dropped.

    Silence has a pool of its own: see `silence`. `writer` is the generator's fingerprint.
    """
    for wish, reply in zip(wishes, replies, strict=True):
        if reply.supplement:
            yield Candidate(wish.query, reply.supplement, wish.source, reply.logprob, writer)


def silence(queries: Sequence[Query]) -> list[Candidate]:
    """The kind `none`: for each query, no supplement at all. Its outcome is mostly known, and then costs nothing."""
    return [Candidate(query, SILENCE, "none") for query in queries]


def given(queries: Sequence[Query], kinds: Sequence[Kind]) -> list[Candidate]:
    """Kinds that have a text of their own: for each query, each text as it is. Nothing is sampled.

    >>> query = Query("q", 0, "self", "2+2?")
    >>> [each.supplement.render() for each in given([query], [Kind("units", text="Mind the units.")])]
    ['[units] Mind the units.']
    """
    return [Candidate(query, kind.given, "given") for query in queries for kind in kinds]


def distinct(proposed: Iterable[Candidate]) -> Iterator[Candidate]:
    """Each supplement once a query, compared as the actor would read it, as they come; the first one wins."""
    met: set[tuple[str, str]] = set()
    for candidate in proposed:
        key = (candidate.query.id, candidate.supplement.render())
        if key not in met:
            met.add(key)
            yield candidate


def ood_names(rollouts: Iterable[Rollout], *, kinds: Mapping[str, Kind] = KINDS, count: int = 3) -> list[str]:
    """The kinds the generator made up: the most frequent names in its free-style replies that are not in the table.

    At most `count`; ties go to the higher mean log-probability, then to the alphabet.
    """
    logprobs: dict[str, list[float]] = defaultdict(list)
    for rollout in rollouts:
        name = rollout.supplement.kind
        if rollout.source == "free" and name not in kinds and name not in (FREE, NONE):
            logprobs[name].append(rollout.logprob)
    ranked = sorted((-len(found), -sum(sorted(found)) / len(found), name) for name, found in logprobs.items())
    return [name for _, _, name in ranked[:count]]


def concat(
    rollouts: Iterable[Rollout], *, rng: random.Random, per_query: int = 3, threshold: float = 1.0
) -> list[Candidate]:
    """Joins of two winners of one query, of two different kinds, in a seeded order: at most `per_query` a query.

    A query's joins are of distinct pairs of kinds; only where it has fewer pairs than `per_query` does one come again.
    A join is one supplement: of the first's kind, with the second in its text. A query whose winners are all of one
    kind gives none. The result does not depend on the order of the rollouts.
    """
    winners: dict[Query, dict[Supplement, Supplement]] = defaultdict(dict)
    for rollout in rollouts:
        if rollout.supplement and rollout.won(threshold):
            known = winners[rollout.query]
            if rollout.supplement not in known or known[rollout.supplement].cut:  # one that was ended is better
                known[rollout.supplement] = rollout.supplement
    base = rng.getrandbits(64)
    joins: list[Candidate] = []
    for query in sorted(winners, key=lambda query: (query.index, query.id, query.prompt)):
        own = random.Random(f"{base}/{query.id}")
        joins += _joins(query, winners[query].values(), own)[:per_query]
    return joins


def _joins(query: Query, winners: Iterable[Supplement], rng: random.Random) -> list[Candidate]:
    couples = [
        couple
        for couple in itertools.combinations(
            sorted(winners, key=lambda supplement: (supplement.kind, supplement.text)), 2
        )
        if couple[0].kind != couple[1].kind
    ]
    rng.shuffle(couples)
    turns: Counter[frozenset[str]] = Counter()
    turn_of: list[int] = []
    for one, other in couples:
        pair = frozenset((one.kind, other.kind))
        turn_of.append(turns[pair])
        turns[pair] += 1
    couples = [couples[place] for place in sorted(range(len(couples)), key=turn_of.__getitem__)]
    joins = [Candidate(query, join(*rng.sample(couple, 2)), "concat") for couple in couples]
    return list(distinct(joins))


def join(first: Supplement, second: Supplement) -> Supplement:
    """Two supplements as one: the first, and under it the second as it would be rendered.

    >>> join(Supplement("cot", "Add them."), Supplement("answer", "4")).render()
    '[cot] Add them.\\n[answer] 4'
    """
    return Supplement(first.kind, f"{first.text}\n{second.render()}", cut=second.cut)
