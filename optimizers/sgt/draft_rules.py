"""What training learns from a draft: where it is right, `[none]` wins and every note loses. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optimizers.core.records import Reward, Rollout


def prefer_drafts(rollouts: Sequence[Rollout], threshold: float = 1.0) -> list[Rollout]:
    """The rollouts, with reward 0.0 for every note to a query whose draft won: its second call gains nothing.

    A rollout without a supplement has the draft's reward. Queries whose draft lost or has no reward are unchanged.

    >>> from optimizers.core.records import Query
    >>> from sgt_modules.kinds import SILENCE, Supplement
    >>> easy, note = Query("e", 0, "self", "2+2?"), Supplement("cot", "Add.")
    >>> tried = [Rollout(easy, "warm", "predefined", each, Reward(1.0)) for each in (SILENCE, note)]
    >>> [each.reward.score for each in prefer_drafts(tried)]
    [1.0, 0.0]
    """
    right = {each.query.id for each in rollouts if not each.supplement and each.won(threshold)}
    return [
        replace(each, reward=Reward(0.0, each.reward.feedback))
        if each.supplement and each.reward is not None and each.query.id in right
        else each
        for each in rollouts
    ]
