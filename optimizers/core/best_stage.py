"""Selects the best stage. Two stages are compared on the examples on which both have a reward. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optimizers.core.paired_scores import pair_scores
from optimizers.core.records import Rollout


def select_best(stages: Sequence[Sequence[Rollout]], came_in: int = 0, floors: Sequence[int] = ()) -> int:
    """The position of the best stage, each given as its rollouts on the same examples in the same order.

    On a tie the earlier stage is best. A stage that is worse than the student, whose position is `came_in`, is never
    selected, nor one that is worse than a stage of `floors`.

    >>> from optimizers.core.records import Query, Reward
    >>> from sgt_modules.kinds import SILENCE
    >>> def stage(*scores):
    ...     each = [None if score is None else Reward(score) for score in scores]
    ...     return [Rollout(Query(f"q{n}", n, "", ""), "", "", SILENCE, one) for n, one in enumerate(each)]
    >>> select_best([stage(0, 1, 1, 1), stage(None, 1, None, None)])  # 1 of 1 is no better than the same 1 of 1
    0
    """
    best = came_in
    for number, stage in enumerate(stages):
        if number == came_in:
            continue
        gain, against_first = mean_gain(stages[best], stage), mean_gain(stages[came_in], stage)
        if gain is None or against_first is None or against_first < 0:
            continue
        if any((mean_gain(stages[floor], stage) or 0) < 0 for floor in floors):
            continue
        if gain > 0 or (gain == 0 and number < best):
            best = number
    return best


def mean_gain(before: Sequence[Rollout], after: Sequence[Rollout]) -> float | None:
    """The difference of mean rewards, `after` minus `before`, on the examples on which both have one; None without any.

    Both have one rollout per example, in the same order.
    """
    first, second = pair_scores(before, after)
    return (math.fsum(second) - math.fsum(first)) / len(first) if first else None
