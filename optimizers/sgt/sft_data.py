"""Makes SFT rows from rollouts, balanced over kinds and spread over queries. Pure and seeded."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable

from optimizers.core.records import Rollout, SFTExample


def balance_kinds(
    rollouts: Iterable[Rollout],
    *,
    max_per_kind: int,
    threshold: float = 1.0,
    silence: bool = False,
    rng: random.Random,
) -> list[SFTExample]:
    """The winning supplements as training rows, at most `max_per_kind` of a kind, in a shuffled order.

    Each (query, supplement) occurs once. Within a kind the queries take turns in a seeded order, so that no query
    dominates. With `silence`, `[none]` is a kind too. The prompt names no kind, as the model should learn which one to
    write. The result depends on the seed and the set of rollouts, not on their order.
    """
    rows = {
        SFTExample(r.query.id, r.supplement.kind, r.query.prompt, r.supplement.reply(), r.supplement.cut)
        for r in rollouts
        if (r.supplement or silence) and r.won(threshold)
    }
    strata: dict[str, list[SFTExample]] = defaultdict(list)
    for row in _drop_repeats(rows):
        strata[row.kind].append(row)
    base = rng.getrandbits(64)
    chosen: list[SFTExample] = []
    for kind in sorted(strata):
        chosen += _interleave_queries(strata[kind], random.Random(f"{base}/{kind}"))[:max_per_kind]
    rng.shuffle(chosen)
    return chosen


def _drop_repeats(rows: Iterable[SFTExample]) -> list[SFTExample]:
    """One row for each query and completion, sorted; a whole row is preferred to a cut one."""
    ordered = sorted(rows, key=lambda row: (row.query, row.completion, row.cut, row.kind, row.prompt))
    return list({(row.query, row.completion): row for row in reversed(ordered)}.values())[::-1]


def _interleave_queries(rows: Iterable[SFTExample], rng: random.Random) -> list[SFTExample]:
    """Orders rows so that every query has its first row before any has its second."""
    by_query: dict[str, list[SFTExample]] = defaultdict(list)
    for row in rows:
        by_query[row.query].append(row)
    queues = list(by_query.values())
    rng.shuffle(queues)
    for queue in queues:
        rng.shuffle(queue)
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
