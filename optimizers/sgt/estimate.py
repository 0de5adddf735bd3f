"""What a run will take, before it is paid for: calls, tokens, dollars and seconds a stage. Pure.

recipe, sizes, what a few examples took -> a `StageEstimate` a stage -> `Estimate`
"""

from __future__ import annotations

from dataclasses import replace

from optimizers.core.estimate import Estimate, Probe, StageEstimate
from optimizers.core.events import Plan, Step
from optimizers.core.stages import pool_name
from optimizers.sgt.adaptive import share_of
from optimizers.sgt.recipe import Recipe

REPEATS = {"warm": 1.0, "round 1": 1.95, "round 2": 3.8, "later": 7.0, "dpo1/val": 2.7, "later/val": 10.0}
"""How much less is new in a stage than in the warm start: the share of its samples that were not tried before is the
warm start's to this power. Measured on the embedded world, three seeds: .88 of the warm start's samples were new, .77
of round 1's, .61 of round 2's, .39 of later ones'. A generator that never writes the same twice has 1 everywhere."""

PAIR = 2.5
"""What a preference pair costs to train on, in rows of SFT: two texts, and a reference for them."""

MIXED = 0.6
"""The share of queries that have winners and losers to pair, on the embedded world."""


def estimate_sgt(
    recipe: Recipe, *, train: int, validation: int, epochs: tuple[int, int], probe: Probe | None
) -> Estimate:
    """What a run of this recipe takes on so many examples, with so many epochs of SFT and of DPO.

    >>> found = estimate_sgt(Recipe(rounds=1), train=100, validation=50, epochs=(3, 1), probe=None)
    >>> [(stage.name, round(stage.actor_calls)) for stage in found.stages][:3]
    [('none', 150), ('warm', 4500), ('sft', 50)]
    """
    took = probe or Probe()
    kinds = len(recipe.kinds)
    places = train * took.places
    warm = places * recipe.kinds_asked * recipe.warm_samples
    rows = min(kinds * recipe.max_per_kind, took.won * took.distinct * warm * _tried_share(recipe, 0))
    stages = [
        _estimate_unaided(took, train + validation),
        _estimate_pool(recipe, took, pool_name(0), warm, "warm", _tried_share(recipe, 0)),
        *([_estimate_training(took, "sft", rows, epochs[0], validation)] if recipe.sft else []),
    ]
    for number in range(1, recipe.rounds + 1):
        each = (
            (kinds + recipe.ood_kinds) * recipe.pool_samples + recipe.concat if number == 1 else recipe.direct_samples
        )
        power = "round 1" if number == 1 else "round 2" if number == 2 else "later"
        samples, share = places * each, _tried_share(recipe, number)
        acting = _estimate_pool(recipe, took, pool_name(number), samples, power, share)
        tried = share * samples / places * took.distinct ** REPEATS[power]
        pairs = MIXED * places * min(2 * recipe.pair_cap, took.won * (1 - took.won) * tried**2)
        fitted = _estimate_training(took, f"dpo{number}", pairs * PAIR, epochs[1], validation)
        stages += [acting, fitted]
    return Estimate(tuple(stages), probe)


def plan_sgt(recipe: Recipe, *, train: int, validation: int, epochs: tuple[int, int]) -> Plan:
    """The same as a plan for a live view: nothing about tokens and dollars, and rows to train on.

    >>> plan = plan_sgt(Recipe(rounds=1), train=100, validation=50, epochs=(3, 1))
    >>> [(step.name, round(step.runs), round(step.samples)) for step in plan.steps][:3]
    [('none', 150, 0), ('warm', 4500, 4500), ('sft', 50, 50)]
    """
    found = estimate_sgt(recipe, train=train, validation=validation, epochs=epochs, probe=Probe(row_seconds=1.0))
    steps = [Step(each.name, each.actor_calls, each.samples, each.seconds) for each in found.stages]
    return Plan(steps, recipe.threshold)


def _tried_share(recipe: Recipe, round_: int) -> float:
    return share_of(round_).open if recipe.adaptive else 1.0


def _estimate_unaided(took: Probe, runs: float) -> StageEstimate:
    calls, seconds = took.calls * runs, took.run_seconds * runs
    read, wrote, cost = took.bare_in * runs, took.bare_out * runs, took.bare_cost * runs
    return StageEstimate("none", calls, calls, read, wrote, cost, seconds=seconds)


def _estimate_pool(recipe: Recipe, took: Probe, name: str, pool: float, power: str, share: float) -> StageEstimate:
    """A stage's pool. A closed recipe's is not sampled, and its rounds try nothing that the warm start did not, unless
    what other places read has changed."""
    if recipe.closed and name != "warm" and took.places <= 1:
        return StageEstimate(name)
    found = _estimate_acting(took, name, pool, power, share)
    sampling = found.samples * took.sample_seconds
    return replace(found, samples=0.0, seconds=found.seconds - sampling) if recipe.closed else found


def _estimate_acting(took: Probe, name: str, samples: float, power: str, share: float) -> StageEstimate:
    """A stage's pool: all of it is sampled, and the share of it that was not tried before is run."""
    return _estimate_aided(took, name, samples, samples * took.distinct ** REPEATS[power] * share, most=samples * share)


def _estimate_training(took: Probe, name: str, rows: float, epochs: int, validation: int) -> StageEstimate:
    """A stage's training, and its validation, whose supplements were often tried before."""
    new = 1.0 if name == "sft" else took.distinct ** REPEATS["dpo1/val" if name == "dpo1" else "later/val"]
    return _estimate_aided(took, name, validation, validation * new, training=took.row_seconds * rows * epochs)


def _estimate_aided(
    took: Probe, name: str, samples: float, runs: float, training: float = 0.0, most: float | None = None
) -> StageEstimate:
    """So many samples, of which so many are run for the first time, and so many seconds of training besides."""
    return StageEstimate(
        name,
        actor_calls=took.calls * runs,
        at_most=took.calls * (samples if most is None else most),
        tokens_in=took.tokens_in * runs,
        tokens_out=took.tokens_out * runs,
        cost_usd=took.cost * runs,
        samples=samples,
        seconds=training + took.sample_seconds * samples + took.run_seconds * runs,
    )
