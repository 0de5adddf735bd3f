"""Rollouts -> SFT rows, balanced over kinds and spread over queries; stages -> the best one. Pure and seeded."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

from optimizers.core.records import Rollout, SFTExample


def balance_kinds(
    rollouts: Iterable[Rollout], *, max_per_kind: int, threshold: float = 1.0, rng: random.Random
) -> list[SFTExample]:
    """The successful supplements as training rows, at most `max_per_kind` of a kind, in a shuffled order.

    Each (query, supplement) stands once. Inside a kind the queries take turns in a seeded order, so none crowds out
    the others. The prompt names no kind: the model is to learn which one to write. The result depends on the seed and
    the set of rollouts, not on their order.
    """
    rows = {
        SFTExample(r.query.id, r.supplement.kind, r.query.prompt, r.supplement.render(), r.supplement.cut)
        for r in rollouts
        if r.supplement and r.won(threshold)
    }
    strata: dict[str, list[SFTExample]] = defaultdict(list)
    for row in _once_each(rows):
        strata[row.kind].append(row)
    base = rng.getrandbits(64)
    chosen: list[SFTExample] = []
    for kind in sorted(strata):
        chosen += _taking_turns(strata[kind], random.Random(f"{base}/{kind}"))[:max_per_kind]
    rng.shuffle(chosen)
    return chosen


def _once_each(rows: Iterable[SFTExample]) -> list[SFTExample]:
    """One row for each query and completion, sorted; one that the model ended before one that was cut."""
    ordered = sorted(rows, key=lambda row: (row.query, row.completion, row.cut, row.kind, row.prompt))
    return list({(row.query, row.completion): row for row in reversed(ordered)}.values())[::-1]


def _taking_turns(rows: Iterable[SFTExample], rng: random.Random) -> list[SFTExample]:
    """The rows so ordered that every query gives its first before any gives its second."""
    by_query: dict[str, list[SFTExample]] = defaultdict(list)
    for row in rows:
        by_query[row.query].append(row)
    queues = list(by_query.values())
    rng.shuffle(queues)
    for queue in queues:
        rng.shuffle(queue)
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def best_stage(stages: Sequence[Sequence[Rollout]], came_in: int = 0) -> int:
    """The position of the best stage, each given as its rollouts on the same examples in the same order.

    Two stages are compared on the examples on which both have a reward. The earlier one stays on a tie. A stage is
    never chosen that is worse there than the program that came in, whose position is `came_in`.

    >>> from optimizers.core.records import Query, Reward
    >>> from sgt_modules.kinds import SILENCE
    >>> def stage(*scores):
    ...     each = [None if score is None else Reward(score) for score in scores]
    ...     return [Rollout(Query(f"q{n}", n, "", ""), "", "", SILENCE, one) for n, one in enumerate(each)]
    >>> best_stage([stage(0, 1, 1, 1), stage(None, 1, None, None)])  # 1 of 1 is no better than the same 1 of 1
    0
    """
    best = came_in
    for number, stage in enumerate(stages):
        if number == came_in:
            continue
        gain, against_first = gain_of(stages[best], stage), gain_of(stages[came_in], stage)
        if gain is None or against_first is None or against_first < 0:
            continue
        if gain > 0 or (gain == 0 and number < best):
            best = number
    return best


def gain_of(before: Sequence[Rollout], after: Sequence[Rollout]) -> float | None:
    """How much higher the mean reward is `after` than `before`, on the examples on which both have one; None of none.

    Both hold a rollout an example, in the same order.
    """
    both = [
        (first.reward.score, second.reward.score)
        for first, second in zip(before, after, strict=True)
        if first.reward is not None and second.reward is not None
    ]
    if not both:
        return None
    return (math.fsum(score for _, score in both) - math.fsum(score for score, _ in both)) / len(both)
