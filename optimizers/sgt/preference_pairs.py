"""Makes preference pairs from the rollouts of each query: between kinds, within a kind, by length. Pure and seeded."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from optimizers.core.error_types import Failure, advise_on_adapter, group_errors, is_unreadable
from optimizers.core.records import BETWEEN, Between, Category, PreferencePair, Rollout
from optimizers.sgt.costs import cheaper_couples

NEEDLESS = 0.8
"""A query needs no supplement if at least this share of its supplements won."""

SILENT = 0.25
"""The largest share of a query's `inter` pairs that have no supplement on one side."""

_Couple = tuple[Rollout, Rollout]


def preference_pairs(
    rollouts: Iterable[Rollout],
    *,
    cap: int = 20,
    threshold: float = 1.0,
    margin: float | None = None,
    length_preference: float | None = None,
    categories: Sequence[Between] = BETWEEN,
    tried: Iterable[Rollout] = (),
    rng: random.Random,
) -> list[PreferencePair]:
    """Pairs of a winner and a loser of the same query, at most `cap` a category a query.

    `inter` pairs differ in kind, `intra` pairs share it; only `categories` are made. A winner has a reward of at least
    `threshold`; with `margin` (above 0) a pair is any two rollouts whose rewards differ by at least `margin`. A rollout
    without a reward is in no pair. The least used winners and losers are paired first. The result depends on the seed
    and the set of rollouts, not on their order.

    Silence: at most `SILENT` of a query's `inter` pairs have no supplement on one side; if a query has no other pairs,
    at most that share of `cap`.

    Length: with `length_preference`, in (0, 1], the shortest winner is preferred to each winner of the same reward that
    is longer by at least that share of characters (`shorter` pairs, at most `cap` / 4 per query). The empty
    supplement is the shortest, but it is preferred only for a query that needs none: one where at least `NEEDLESS` of
    the supplements in `tried` (default: these rollouts) won. For other queries it won by luck.

    Cost: where rollouts have a price, `margin` is a gap of net rewards, but a winner never loses to a loser. Without
    `margin` each winner is also preferred to the winners that cost clearly more (`cheaper` pairs, at most `cap` per
    query; see `optimizers.sgt.costs`); the empty supplement only for a query that needs none.

    Source: arXiv 2604.20727 for the categories and the cap; `docs/method.md` says what is ours.

    >>> from optimizers.core.records import Query, Reward
    >>> from sgt_modules import Supplement
    >>> asked = Query("1f3a", 0, "solve", "question: 17 x 3?")
    >>> tried = [("cot", "10 x 3, then 7 x 3.", 1.0), ("cot", "Guess.", 0.0), ("summary", "A product.", 0.0)]
    >>> rollouts = [Rollout(asked, "dpo1", "direct", Supplement(kind, text), Reward(r)) for kind, text, r in tried]
    >>> for pair in preference_pairs(rollouts, rng=random.Random(0)):
    ...     print(f"{pair.category}: {pair.chosen} > {pair.rejected}")
    inter: [cot] 10 x 3, then 7 x 3. > [summary] A product.
    intra: [cot] 10 x 3, then 7 x 3. > [cot] Guess.
    """
    if margin is not None and margin <= 0:
        raise ValueError(f"margin must be above 0, got {margin}. Pass None to pair winners with losers.")
    if length_preference is not None and not 0 < length_preference <= 1:
        raise ValueError(f"length_preference must be in (0, 1], got {length_preference}. Pass None for no preference.")
    base = rng.getrandbits(64)
    pairs: list[PreferencePair] = []
    rollouts = list(rollouts)
    needless = _queries_needing_none(tried or rollouts, threshold)
    for query, rated in _rated_by_query(rollouts).items():
        couples = _couples(rated, threshold, margin)
        own = random.Random(f"{base}/{query}")
        for category in categories:
            ready = [couple for couple in couples if _category(couple) == category]
            pairs += [_pair(couple, category) for couple in _limit_silence(ready, cap, own)]
        if margin is None and any(each.price for each in rated):
            cheaper = [each for each in cheaper_couples(rated, threshold) if each[0].supplement or query in needless]
            pairs += [_pair(couple, "cheaper") for couple in _limit_silence(cheaper, cap, own)]
        if length_preference is not None:
            ties = _length_couples(
                [each for each in rated if each.supplement or query in needless], threshold, length_preference
            )
            pairs += [_pair(couple, "shorter") for couple in _spread(ties, -(-cap // 4), own)]
    return pairs


def _rated_by_query(rollouts: Iterable[Rollout]) -> dict[str, list[Rollout]]:
    """The rewarded rollouts of each query, sorted; each supplement once, with its lowest reward."""
    once: dict[tuple[str, str], Rollout] = {}
    for rollout in sorted((r for r in rollouts if r.reward is not None), key=_order):
        once.setdefault((rollout.query.id, rollout.supplement.render()), rollout)
    by_query: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in once.values():
        by_query[rollout.query.id].append(rollout)
    return by_query


def _order(rollout: Rollout) -> tuple[str, str, float, bool, str, str]:
    query, supplement = rollout.query, rollout.supplement
    return query.id, supplement.render(), _reward(rollout), supplement.cut, supplement.kind, query.prompt


def _reward(rollout: Rollout) -> float:
    assert rollout.reward is not None
    return rollout.reward.score


def _couples(rated: Sequence[Rollout], threshold: float, margin: float | None) -> list[_Couple]:
    if margin is None:
        losers = [r for r in rated if r.lost(threshold)]
        return [(winner, loser) for winner in rated if winner.won(threshold) for loser in losers]
    return [
        (a, b)
        for a in rated
        for b in rated
        if _reward(a) - a.price - (_reward(b) - b.price) >= margin and not (a.lost(threshold) and b.won(threshold))
    ]


def _length_couples(rated: Sequence[Rollout], threshold: float, share: float) -> list[_Couple]:
    """The shortest winner with each winner of the same reward that is longer by at least `share` of its length."""
    winners = sorted((r for r in rated if r.won(threshold)), key=lambda r: len(r.supplement.render()))
    return [
        (winners[0], wordy)
        for wordy in winners[1:]
        if _reward(winners[0]) == _reward(wordy)
        and len(winners[0].supplement.render()) <= (1 - share) * len(wordy.supplement.render())
    ]


def _queries_needing_none(tried: Iterable[Rollout], threshold: float) -> set[str]:
    """The queries that at least `NEEDLESS` of their supplements won."""
    won: dict[str, list[bool]] = defaultdict(list)
    for rollout in tried:
        if rollout.reward is not None and rollout.supplement:
            won[rollout.query.id].append(rollout.won(threshold))
    return {query for query, outcomes in won.items() if sum(outcomes) >= NEEDLESS * len(outcomes)}


def _category(couple: _Couple) -> Category:
    chosen, rejected = couple
    return "intra" if chosen.supplement.kind == rejected.supplement.kind else "inter"


def _limit_silence(couples: Sequence[_Couple], cap: int, rng: random.Random) -> list[_Couple]:
    """At most `cap` couples, of which at most the share `SILENT` has silence on one side.

    If all couples have silence, at most that share of `cap`.
    """
    speaking = [couple for couple in couples if all(each.supplement for each in couple)]
    silent = [couple for couple in couples if not all(each.supplement for each in couple)]
    most = max(1, int(SILENT * cap))
    if speaking:
        most = min(most, int(len(speaking) * SILENT / (1 - SILENT)))
    few = _spread(silent, most, rng)
    return [*_spread(speaking, cap - len(few), rng), *few]


def _spread(couples: Sequence[_Couple], cap: int, rng: random.Random) -> list[_Couple]:
    """At most `cap` couples: always the one whose two sides were used least so far, ties at random."""
    used: Counter[tuple[str, str]] = Counter()
    chosen: list[_Couple] = []
    heap = [(0, rng.random(), number) for number in range(len(couples))]
    heapq.heapify(heap)
    while heap and len(chosen) < cap:
        load, lot, number = heap[0]
        sides = [(side, rollout.supplement.render()) for side, rollout in zip("+-", couples[number], strict=True)]
        now = sum(used[side] for side in sides)
        if now > load:
            heapq.heapreplace(heap, (now, lot, number))
        else:
            heapq.heappop(heap)
            used.update(sides)
            chosen.append(couples[number])
    return chosen


def _pair(couple: _Couple, category: Category) -> PreferencePair:
    chosen, rejected = couple
    query, better, worse = chosen.query, chosen.supplement, rejected.supplement
    return PreferencePair(
        query.id, category, query.prompt, better.reply(), worse.reply(), chosen_cut=better.cut, rejected_cut=worse.cut
    )


_SHARED: Mapping[tuple[Between, ...], str] = {("inter",): "a query in two kinds", ("intra",): "a query and a kind"}


def explain_no_pairs(
    rollouts: Iterable[Rollout], *, threshold: float = 1.0, categories: Sequence[Between] = BETWEEN
) -> str:
    """Says why these rollouts give no pair, and what to do.

    >>> explain_no_pairs([])
    'No supplement was tried, so there is nothing to prefer. Use examples the program can run on.'
    """
    rollouts = list(rollouts)
    rated = [r for of_query in _rated_by_query(rollouts).values() for r in of_query]
    won = sum(r.won(threshold) for r in rated)
    unread = sum(is_unreadable(r.error) for r in rated)
    if unread and 2 * unread >= len(rated):
        return (
            f"The adapter could not read the actor's answer to {unread} of {len(rated)} supplements, so these lost "
            f"whatever they said, and there is nothing to prefer. {advise_on_adapter()}"
        )
    if not rated and rollouts:
        types = group_errors(Failure(each.stage, each.error, False) for each in rollouts)
        said = f": {types[0].name}, {types[0].quoted_example}" if types else ""
        return (
            f"None of {len(rollouts)} runs with a supplement has a reward{said}, so there is nothing to prefer. "
            "Mend the cause and compile again with the same log_dir."
        )
    if not rated:
        return "No supplement was tried, so there is nothing to prefer. Use examples the program can run on."
    if won == len(rated):
        return f"All {won} supplements won, so there is nothing to prefer. Use harder examples or a stricter threshold."
    if won == 0:
        return (
            f"All {len(rated)} supplements lost, so there is nothing to prefer. "
            "Use easier examples, a metric with partial credit and a lower threshold, or a stronger actor."
        )
    return (
        f"{won} of {len(rated)} supplements won, but winners and losers never share "
        f"{_SHARED.get(tuple(categories), 'a query')}, so there is nothing to prefer. "
        "Sample more supplements a query, or use examples of middling difficulty."
    )
