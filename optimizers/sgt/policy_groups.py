"""Makes the groups of GRPO: which queries a round takes, and which rollouts are samples of the policy. Pure and seeded.

A group holds what the generator's current weights wrote for the prompt that training reads, as often as they wrote it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

from optimizers.core.records import Candidate, Query, Rollout, ScoredSample
from optimizers.sgt.preference_pairs import explain_no_pairs
from sgt_modules.samples import Sample, SampleRequest


def queries_of_round(queries: Sequence[Query], round_: int, count: int | None, *, seed: int) -> list[Query]:
    """The queries of a round, from 1 on: `count` of them in turn, so that all come before one comes again.

    Each pass over all queries has its own seeded order. A query comes once in a round. None takes all.

    >>> queries = [Query(str(number), number, "self", "?") for number in range(4)]
    >>> rounds = [queries_of_round(queries, round_, 2, seed=0) for round_ in (1, 2)]
    >>> sorted(query.index for own in rounds for query in own)
    [0, 1, 2, 3]
    """
    if count is None or count >= len(queries):
        return list(queries)
    chosen: dict[str, Query] = {}
    for place in range((round_ - 1) * count, round_ * count):
        number, at = divmod(place, len(queries))
        order = random.Random(f"{seed}-queries-{number}").sample(range(len(queries)), len(queries))
        query = queries[order[at]]
        chosen[query.id] = query
    return sorted(chosen.values(), key=lambda query: query.index)


def policy_candidates(
    requests: Iterable[tuple[Query, SampleRequest]], samples: Iterable[Sample], writer: str, *, silence: bool
) -> list[Candidate]:
    """All samples as candidates, repeats too: how often the policy writes a text is what it is trained on.

    With `silence`, a reply without a text is a sample too; else it is left out. A prompt that was too long for the
    generator has no reply, and is always left out.
    """
    found = zip(requests, samples, strict=True)
    return [
        Candidate(query, sample.supplement, "direct", sample.logprob, writer)
        for (query, _), sample in found
        if sample.supplement or (silence and (sample.tokens or sample.prompt_tokens))
    ]


def scored_groups(rollouts: Iterable[Rollout]) -> list[ScoredSample]:
    """The samples of each group whose rewards differ, as training rows in the order of the rollouts.

    Only a generator's direct samples count: a join, a given text, a logged one or silence that was added is none, and
    what was written for a prompt that names a kind has another probability under the prompt of training. A rollout
    without a reward is left out. A group of equal rewards has no gradient.

    >>> from optimizers.core.records import Reward
    >>> from sgt_modules import Supplement
    >>> asked = Query("1f3a", 0, "solve", "question: 17 x 3?")
    >>> def rolled(text, score, source="direct", writer="weights"):
    ...     return Rollout(asked, "round 1", source, Supplement("cot", text), Reward(score), writer=writer)
    >>> found = scored_groups([rolled("Add.", 0.0), rolled("Multiply.", 1.0), rolled("Both.", 1.0, "concat", "")])
    >>> [(row.completion, row.reward) for row in found]
    [('[cot] Add.', 0.0), ('[cot] Multiply.', 1.0)]
    """
    groups: dict[str, list[ScoredSample]] = defaultdict(list)
    for each in rollouts:
        said, query = each.supplement, each.query
        if each.source == "direct" and each.writer and each.reward is not None:
            row = ScoredSample(query.id, said.kind, query.prompt, said.reply(), each.reward.score, said.cut)
            groups[query.id].append(row)
    return [row for rows in groups.values() if len({row.reward for row in rows}) > 1 for row in rows]


def explain_no_groups(rollouts: Sequence[Rollout], *, threshold: float = 1.0) -> str:
    """Says why these rollouts give no group with different rewards, and what to do.

    >>> explain_no_groups([])
    'No supplement was tried, so there is nothing to prefer. Use examples the program can run on.'
    """
    rewards: dict[str, list[float]] = defaultdict(list)
    for each in rollouts:
        if each.reward is not None:
            rewards[each.query.id].append(each.reward.score)
    scores = {score for own in rewards.values() for score in own}
    if len(scores) < 2:
        return explain_no_pairs(rollouts, threshold=threshold)
    return (
        f"Within each of {len(rewards)} queries all samples have one reward, so there is nothing to tell apart. Sample "
        "more supplements a query (direct_samples), or use examples of middling difficulty."
    )
