"""The rows of each training by a recipe's options: SFT's winners, a round's pairs, GRPO's groups."""

from __future__ import annotations

import random
from collections.abc import Sequence

from optimizers.core.cost import with_net_rewards
from optimizers.core.records import PreferencePair, Rollout, ScoredSample, SFTExample
from optimizers.sgt.costs import drop_dear_winners
from optimizers.sgt.draft_rules import prefer_drafts
from optimizers.sgt.policy_groups import explain_no_groups, scored_groups
from optimizers.sgt.preference_pairs import explain_no_pairs, preference_pairs
from optimizers.sgt.recipe import Recipe
from optimizers.sgt.sft_data import balance_kinds


def make_sft_rows(recipe: Recipe, rollouts: Sequence[Rollout], rng: random.Random) -> tuple[list[SFTExample], str]:
    """Select supplements that worked, balanced by kind; the text says why there are none."""
    if recipe.draft:
        rollouts = prefer_drafts(rollouts, recipe.threshold)
    rows = balance_kinds(
        drop_dear_winners(rollouts, threshold=recipe.threshold, margin=recipe.margin),
        max_per_kind=recipe.max_per_kind,
        threshold=recipe.threshold,
        silence=recipe.draft,
        rng=rng,
    )
    return rows, "" if rows else f"SFT learned nothing. {explain_no_pairs(rollouts, threshold=recipe.threshold)}"


def make_round_pairs(
    recipe: Recipe, round_: int, rollouts: Sequence[Rollout], tried: Sequence[Rollout], rng: random.Random
) -> tuple[list[PreferencePair], str]:
    """Pair winners with losers of the same query; the text says why there are none."""
    pairs = preference_pairs(
        prefer_drafts(rollouts, recipe.threshold) if recipe.draft else rollouts,
        cap=recipe.pair_cap,
        threshold=recipe.threshold,
        margin=recipe.margin,
        length_preference=recipe.length_preference,
        categories=recipe.pair_categories,
        tried=tried,
        rng=rng,
    )
    if pairs:
        return pairs, ""
    reason = explain_no_pairs(rollouts, threshold=recipe.threshold, categories=recipe.pair_categories)
    return pairs, f"Round {round_} learned nothing, so the rounds end here. {reason}"


def make_policy_rows(recipe: Recipe, round_: int, rollouts: Sequence[Rollout]) -> tuple[list[ScoredSample], str]:
    """Make GRPO's rows of a round's samples; the text says that no group has different rewards."""
    rows = scored_groups(with_net_rewards(rollouts))
    if rows:
        return rows, ""
    partial = recipe.queries_per_round is not None
    ended = "learned nothing" if partial else "learned nothing, so the rounds end here"
    return rows, f"Round {round_} {ended}. {explain_no_groups(rollouts, threshold=recipe.threshold)}"
