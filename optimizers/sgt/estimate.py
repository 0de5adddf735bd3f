"""Estimates the cost of an SGT run before it is paid for: calls, tokens, dollars and seconds per stage. Pure.

recipe, sizes, probe of a few examples -> a `StageEstimate` per stage -> `Estimate`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optimizers.core.estimate import Estimate, Probe, StageEstimate
from optimizers.core.events import Plan, Step
from optimizers.core.stages import SFT, pool_name, round_stage
from optimizers.sgt.adaptive import share_of
from optimizers.sgt.recipe import Recipe

REPEATS = {"warm": 1.0, "round 1": 1.95, "round 2": 3.8, "later": 7.0, "dpo1/val": 2.7, "later/val": 10.0}
"""Exponents: the share of new samples in a stage is that of the warm start to this power.

Measured on the embedded world, three seeds: .88 of the warm start's samples were new, .77 of round 1's, .61 of round
2's, .39 of later rounds'. A generator that never repeats itself has a share of 1 in every stage."""

PAIR = 2.5
"""The training time of a preference pair in SFT rows: it has two texts and their reference log-probabilities."""

SAMPLE = 1.25
"""The training time of GRPO's sample in SFT rows: half of a pair's."""

MIXED = 0.6
"""The share of queries that have both winners and losers, on the embedded world."""


def estimate_sgt(
    recipe: Recipe,
    *,
    train: int,
    validation: int,
    epochs: tuple[int, int],
    probe: Probe | None,
    as_it_came: Sequence[str] = (),
    actors: int = 1,
) -> Estimate:
    """Estimate a run of this recipe; `epochs` are those of SFT and of DPO. The stages `as_it_came` were trained before,
    and are only validated. Each of several `actors` runs each supplement: of a `probe`, `calls` are those of one
    actor's run, its other figures those of all actors together.

    >>> found = estimate_sgt(Recipe(rounds=1), train=100, validation=50, epochs=(3, 1), probe=None)
    >>> [(stage.name, round(stage.actor_calls)) for stage in found.stages][:3]
    [('none', 150), ('warm', 4500), ('sft', 50)]
    """
    measured = probe or Probe()
    measured = replace(measured, calls=measured.calls * actors)
    live = _with_drafts(measured) if recipe.draft and measured.places > 1 else measured
    kinds = len(recipe.kinds)
    places = train * measured.places
    warm = places * recipe.kinds_asked * recipe.warm_samples
    rows = min(kinds * recipe.max_per_kind, measured.won * measured.distinct * warm * _tried_share(recipe, 0))
    stages = [
        _estimate_unaided(measured, train + validation),
        *(_estimate_aided(measured, stage, validation, validation) for stage in as_it_came),
        _estimate_pool(recipe, measured, pool_name(0), warm, "warm", _tried_share(recipe, 0)),
        *([_estimate_training(live, SFT, rows, epochs[0], validation)] if recipe.sft else []),
    ]
    for number in range(1, recipe.rounds + 1):
        if recipe.algorithm == "grpo":
            stages += _estimate_policy_round(recipe, measured, number, places, epochs[1], validation)
            continue
        each = (
            (kinds + recipe.ood_kinds) * recipe.pool_samples + recipe.concat if number == 1 else recipe.direct_samples
        )
        power = "round 1" if number == 1 else "round 2" if number == 2 else "later"
        samples, share = places * each, _tried_share(recipe, number)
        acting = _estimate_pool(recipe, measured, pool_name(number), samples, power, share)
        tried = share * samples / places * measured.distinct ** REPEATS[power]
        pairs = MIXED * places * min(2 * recipe.pair_cap, measured.won * (1 - measured.won) * tried**2)
        training = _estimate_training(live, round_stage(number), pairs * PAIR, epochs[1], validation)
        stages += [acting, training]
    return Estimate(tuple(stages), probe, 2 * measured.calls if recipe.draft else None)


def _estimate_policy_round(
    recipe: Recipe, probe: Probe, number: int, places: float, epochs: int, validation: int
) -> list[StageEstimate]:
    """A round of GRPO: the samples of its queries, and training on those whose group has both winners and losers."""
    queries = min(places, recipe.queries_per_round or places)
    power = "round 2" if number <= 2 else "later"
    samples = queries * recipe.direct_samples
    acting = _estimate_pool(recipe, probe, pool_name(number), samples, power, 1.0)
    stage = round_stage(number, "grpo")
    return [acting, _estimate_training(probe, stage, MIXED * samples * SAMPLE, epochs, validation)]


def plan_sgt(
    recipe: Recipe, *, train: int, validation: int, epochs: tuple[int, int], as_it_came: Sequence[str] = ()
) -> Plan:
    """The estimate as a plan for the live view, without tokens and dollars; training counts in rows.

    >>> plan = plan_sgt(Recipe(rounds=1), train=100, validation=50, epochs=(3, 1))
    >>> [(step.name, round(step.runs), round(step.samples)) for step in plan.steps][:3]
    [('none', 150, 0), ('warm', 4500, 4500), ('sft', 50, 50)]
    """
    probe = Probe(row_seconds=1.0)
    estimate = estimate_sgt(
        recipe, train=train, validation=validation, epochs=epochs, probe=probe, as_it_came=as_it_came
    )
    steps = [Step(each.name, each.actor_calls, each.samples, each.seconds) for each in estimate.stages]
    return Plan(steps, recipe.threshold)


def _with_drafts(probe: Probe) -> Probe:
    """The costs of a run in which the generator writes: each call has a draft. Some are known from the unaided run."""
    names = ("calls", "tokens_in", "tokens_out", "cost", "run_seconds")
    return replace(probe, **{name: 2 * getattr(probe, name) for name in names})


def _tried_share(recipe: Recipe, round_: int) -> float:
    return share_of(round_).open if recipe.adaptive else 1.0


def _estimate_unaided(probe: Probe, runs: float) -> StageEstimate:
    calls, seconds = probe.calls * runs, probe.run_seconds * runs
    read, wrote, cost = probe.bare_in * runs, probe.bare_out * runs, probe.bare_cost * runs
    return StageEstimate("none", calls, calls, read, wrote, cost, seconds=seconds)


def _estimate_pool(recipe: Recipe, probe: Probe, name: str, pool: float, power: str, share: float) -> StageEstimate:
    """The pool of a stage. A closed recipe samples nothing, and its rounds repeat the warm start.

    In a program of several places they do not, as the other places then read other supplements.
    """
    if recipe.closed and name != "warm" and probe.places <= 1:
        return StageEstimate(name)
    stage = _estimate_acting(probe, name, pool, power, share)
    sampling = stage.samples * probe.sample_seconds
    return replace(stage, samples=0.0, seconds=stage.seconds - sampling) if recipe.closed else stage


def _estimate_acting(probe: Probe, name: str, samples: float, power: str, share: float) -> StageEstimate:
    """The pool of a stage: all of it is sampled, and the new part is run."""
    return _estimate_aided(
        probe, name, samples, samples * probe.distinct ** REPEATS[power] * share, most=samples * share
    )


def _estimate_training(probe: Probe, name: str, rows: float, epochs: int, validation: int) -> StageEstimate:
    """The training of a stage and its validation, whose supplements often repeat earlier ones."""
    new = (
        1.0
        if name == SFT
        else probe.distinct ** REPEATS["dpo1/val" if name in (round_stage(1), round_stage(1, "grpo")) else "later/val"]
    )
    return _estimate_aided(probe, name, validation, validation * new, training=probe.row_seconds * rows * epochs)


def _estimate_aided(
    probe: Probe, name: str, samples: float, runs: float, training: float = 0.0, most: float | None = None
) -> StageEstimate:
    """A stage with this many samples, new runs and seconds of training."""
    return StageEstimate(
        name,
        actor_calls=probe.calls * runs,
        at_most=probe.calls * (samples if most is None else most),
        tokens_in=probe.tokens_in * runs,
        tokens_out=probe.tokens_out * runs,
        cost_usd=probe.cost * runs,
        samples=samples,
        seconds=training + probe.sample_seconds * samples + probe.run_seconds * runs,
    )
