"""Estimates the cost of an SPT run before it is paid for: actor calls and corrector replies per round. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from optimizers.core.estimate import Estimate, Probe, StageEstimate
from optimizers.core.records import Rollout
from optimizers.core.usage import Usage
from optimizers.spt.recipe import SPTRecipe

WRITTEN_SENTENCES = 8
"""The assumed number of sentences of a prompt that the corrector writes."""

SHORTEST_SENTENCE = 4
"""The tokens of a short sentence, which bounds the sentences of a prompt."""


def summarize_probe(rollouts: Sequence[Rollout], paid: Usage, threshold: float) -> Probe:
    """Summarize runs on a few examples; `paid` has the new runs, their calls, and the seconds of all runs."""
    count = max(1, len(rollouts))
    return Probe(
        calls=paid.calls / paid.runs if paid.runs else 1.0,
        bare_in=sum(each.tokens_in for each in rollouts) / count,
        bare_out=sum(each.tokens_out for each in rollouts) / count,
        bare_cost=sum(each.cost for each in rollouts) / count,
        won=sum(each.won(threshold) for each in rollouts) / count,
        run_seconds=paid.seconds / paid.runs if paid.runs else 0.0,
    )


def estimate_spt(
    recipe: SPTRecipe, *, train: int, validation: int, sentences: Sequence[int], probe: Probe | None
) -> Estimate:
    """Estimate a run of this recipe; `sentences` has the number of sentences of each predictor's prompt.

    The expected cost assumes that every round accepts a prompt and makes as many mistakes as the `probe` (without one,
    on half of the training set). The upper bound assumes that every answer is a mistake and prompts have as many
    sentences as fit. `samples` are the corrector's replies, whose dollars and seconds are unknown.

    >>> found = estimate_spt(SPTRecipe(rounds=2), train=100, validation=50, sentences=[1], probe=None)
    >>> [(stage.name, stage.actor_calls, stage.at_most, stage.samples) for stage in found.stages]
    [('student', 150.0, 150.0, 0), ('round 1', 340.0, 490.0, 4), ('round 2', 620.0, 10450.0, 4)]
    """
    measured = probe or Probe()
    wrong, impacted = (1 - measured.won) * train, min(recipe.impact_examples, train) if recipe.impact else 0
    stages = [_estimate_stage(measured, "student", train + validation, train + validation, 0)]
    for number in range(1, recipe.rounds + 1):
        first = number <= len(sentences)
        parts = sentences[number - 1] if first else WRITTEN_SENTENCES
        most = sentences[number - 1] if first else recipe.prompt_tokens // SHORTEST_SENTENCE
        tried = recipe.candidates * wrong + (train - wrong if recipe.accept else 0)
        briefs = int(recipe.variant == "pc" and number < recipe.rounds)
        stages.append(
            _estimate_stage(
                measured,
                f"round {number}",
                impacted * parts + tried + validation,
                impacted * most + recipe.candidates * train + validation,
                recipe.candidates + briefs,
            )
        )
    return Estimate(tuple(stages), probe)


def _estimate_stage(probe: Probe, name: str, runs: float, most: float, replies: int) -> StageEstimate:
    return StageEstimate(
        name,
        actor_calls=probe.calls * runs,
        at_most=probe.calls * most,
        tokens_in=probe.bare_in * runs,
        tokens_out=probe.bare_out * runs,
        cost_usd=probe.bare_cost * runs,
        samples=replies,
        seconds=probe.run_seconds * runs,
    )
