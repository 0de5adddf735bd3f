"""Samples of the current generator for GRPO: what it writes for the prompt that training reads, repeats too.

They are drawn at temperature 1 from all tokens, whatever exploration's settings: then the probability that a sample was
drawn with is the one that training computes, and the importance ratio is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from optimizers.core.records import Rollout
from optimizers.core.stages import Stage, pool_name
from optimizers.rollouts.sampling import sample_stage
from optimizers.sgt.candidates import QueryRequest, direct_requests
from optimizers.sgt.exploration import ExplorationContext
from optimizers.sgt.policy_groups import policy_candidates, queries_of_round
from sgt_modules.generator import SupplementGenerator
from sgt_modules.samples import Sample


def explore_policy(context: ExplorationContext, round_: int, generator: SupplementGenerator) -> list[Rollout]:
    """A rollout for each sample of a round; a supplement that comes several times for a query is run once."""
    recipe, train, stage = context.recipe, context.train, pool_name(round_)
    queries = context.queries(round_, generator)
    chosen = queries_of_round(queries, round_, recipe.queries_per_round, seed=context.seed)
    asked = direct_requests(chosen, rng=context.rng(f"round-{round_}"), samples=recipe.direct_samples)
    requests = [(query, replace(request, temperature=1.0, top_p=1.0)) for query, request in asked]
    samples = _draw(context, stage, requests, generator)
    pool = policy_candidates(requests, samples, generator.fingerprint, silence=recipe.silence)
    with context.clock.measure("acting"), context.bus.work(Stage(stage), len(pool)) as work:
        return train.actor.run(pool, train.examples, stage=stage, on_done=work.advance)


def _draw(
    context: ExplorationContext, stage: str, asked: Sequence[QueryRequest], generator: SupplementGenerator
) -> Iterator[Sample]:
    actor, requests = context.train.actor, [request for _, request in asked]
    queries = [query.id for query, _ in asked]

    def on_new(_: Sample) -> None:
        actor.budget.check()  # what is stored already costs nothing

    with context.clock.measure("sampling"), context.bus.work(Stage(stage), len(requests), "sampling") as work:
        for sample in sample_stage(actor.store, stage, generator, requests, queries=queries, on_new=on_new):
            work.advance()
            yield sample
