"""Makes candidate supplements: predefined kinds, free style, new kinds, joins of winners, direct samples. Pure.

Each pool is a list of requests to the generator, each with its query; `to_candidates` turns the samples into
`Candidate`s.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from optimizers.core.records import Candidate, Query, Rollout
from sgt_modules.kinds import FREE, KINDS, NONE, SILENCE, BetterThan, Kind, Supplement
from sgt_modules.samples import Sample, SampleRequest

QueryRequest = tuple[Query, SampleRequest]
"""A request to the generator, and the query that its sample is for."""


def warm_start_requests(
    queries: Sequence[Query],
    *,
    rng: random.Random,
    kinds: Mapping[str, Kind] = KINDS,
    samples: int = 5,
    free: bool = True,
) -> list[QueryRequest]:
    """The pool of the warm start: `samples` for each kind and, with `free`, for free style (9 x 5 per query).

    >>> query = Query("q", 0, "self", "2+2?")
    >>> requests = [request for _, request in warm_start_requests([query], rng=random.Random(0))]
    >>> len(requests), requests[0].kind.name, source_of(requests[-1])
    (45, 'answer', 'free')
    """
    return _requests(queries, [*kinds.values(), *([FREE] if free else [])], samples, rng)


def predefined_requests(
    queries: Sequence[Query],
    *,
    rng: random.Random,
    kinds: Mapping[str, Kind] = KINDS,
    samples: int = 2,
) -> list[QueryRequest]:
    """The first pool of round 1: `samples` for each predefined kind."""
    return _requests(queries, list(kinds.values()), samples, rng)


def ood_requests(
    queries: Sequence[Query],
    names: Sequence[str],
    *,
    rng: random.Random,
    samples: int = 2,
) -> list[QueryRequest]:
    """The second pool of round 1: `samples` for each new kind of the generator (see `ood_names`)."""
    return _requests(queries, names, samples, rng)


def direct_requests(queries: Sequence[Query], *, rng: random.Random, samples: int = 20) -> list[QueryRequest]:
    """The pool of later rounds: `samples` for the prompt that names no kind, as at inference."""
    return _requests(queries, [None], samples, rng)


def _requests(
    queries: Sequence[Query], kinds: Sequence[Kind | str | None], samples: int, rng: random.Random
) -> list[QueryRequest]:
    """`samples` requests for each query and kind, each with its own seed."""
    return [
        (query, SampleRequest(query.prompt, rng.getrandbits(32), kind))
        for query in queries
        for kind in kinds
        for _ in range(samples)
    ]


def source_of(request: SampleRequest) -> str:
    """The pool of a request: `direct` without a kind, `free`, `predefined` for a kind of the table, else `ood`;
    `feedback` where a failed note is shown.

    >>> [source_of(SampleRequest("2+2?", kind=kind)) for kind in (None, FREE, KINDS["cot"], "units")]
    ['direct', 'free', 'predefined', 'ood']
    """
    if isinstance(request.kind, BetterThan):
        return "feedback"
    if isinstance(request.kind, Kind):
        return "predefined"
    return {None: "direct", FREE: "free"}.get(request.kind, "ood")


def to_candidates(requests: Iterable[QueryRequest], samples: Iterable[Sample], writer: str = "") -> Iterator[Candidate]:
    """Yields samples as candidates, in the order of their requests; an empty sample is left out.

    Silence has its own pool: see `silence_candidates`. `writer` is the generator's fingerprint.
    """
    for (query, request), sample in zip(requests, samples, strict=True):
        if supplement := sample.supplement:
            yield Candidate(query, supplement, source_of(request), sample.logprob, writer)


def silence_candidates(queries: Sequence[Query]) -> list[Candidate]:
    """One candidate without a supplement (kind `none`) per query; its outcome is usually stored and then free."""
    return [Candidate(query, SILENCE, "none") for query in queries]


def given_candidates(queries: Sequence[Query], kinds: Sequence[Kind]) -> list[Candidate]:
    """The fixed texts of kinds as candidates for each query. Nothing is sampled.

    >>> query = Query("q", 0, "self", "2+2?")
    >>> [each.supplement.render() for each in given_candidates([query], [Kind("units", text="Mind the units.")])]
    ['[units] Mind the units.']
    """
    return [Candidate(query, kind.given, "given") for query in queries for kind in kinds]


def drop_repeats(proposed: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yields each supplement once per query, compared as the actor reads it; the first one is kept."""
    seen: set[tuple[str, str]] = set()
    for candidate in proposed:
        key = (candidate.query.id, candidate.supplement.render())
        if key not in seen:
            seen.add(key)
            yield candidate


def ood_names(rollouts: Iterable[Rollout], *, kinds: Mapping[str, Kind] = KINDS, count: int = 3) -> list[str]:
    """The generator's new kinds: the most frequent names in its free-style samples that are not in `kinds`.

    At most `count`; ties are broken by the higher mean log-probability, then by the alphabet.
    """
    logprobs: dict[str, list[float]] = defaultdict(list)
    for rollout in rollouts:
        name = rollout.supplement.kind
        if rollout.source == "free" and name not in kinds and name not in (FREE, NONE):
            logprobs[name].append(rollout.logprob)
    ranked = sorted((-len(each), -sum(sorted(each)) / len(each), name) for name, each in logprobs.items())
    return [name for _, _, name in ranked[:count]]


def join_winners(
    rollouts: Iterable[Rollout], *, rng: random.Random, per_query: int = 3, threshold: float = 1.0
) -> list[Candidate]:
    """Joins two winners of one query and of two kinds: at most `per_query` joins per query, in a seeded order.

    A pair of kinds is repeated only if a query has fewer than `per_query` pairs. A join is one supplement of the first
    winner's kind, with the second in its text. A query whose winners are all of one kind has no join. The result does
    not depend on the order of the rollouts.
    """
    winners: dict[Query, dict[Supplement, Supplement]] = defaultdict(dict)
    for rollout in rollouts:
        if rollout.supplement and rollout.won(threshold):
            of_query = winners[rollout.query]
            if rollout.supplement not in of_query or of_query[rollout.supplement].cut:  # prefer a text that is not cut
                of_query[rollout.supplement] = rollout.supplement
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
    joins = [Candidate(query, join_supplements(*rng.sample(couple, 2)), "concat") for couple in couples]
    return list(drop_repeats(joins))


def join_supplements(first: Supplement, second: Supplement) -> Supplement:
    """Joins two supplements: the first, and the second in its rendered form on the next line.

    >>> join_supplements(Supplement("cot", "Add them."), Supplement("answer", "4")).render()
    '[cot] Add them.\\n[answer] 4'
    """
    return Supplement(first.kind, f"{first.text}\n{second.render()}", cut=second.cut)
