"""The embedded demonstration of SGT: a generator learns what a frozen actor needs to know; every stage is scored.

The world is simulated, the method is real: see `sgt_modules.embedded.world`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dspy

from optimizers.comparison.summary import (
    collect_peak_memory,
    compute_gated_share,
    compute_kind_shares,
    compute_leak_share,
    compute_mean_length,
    compute_mean_scores,
    compute_p_value,
)
from optimizers.core.clusters import Clusters, count_clusters, number_splits
from optimizers.core.events import EventBus
from optimizers.core.fingerprints import scope_of
from optimizers.core.paired_scores import pair_scores, select_clusters
from optimizers.core.peak_memory import MARK
from optimizers.core.records import Rollout
from optimizers.core.result import SGTResult, result_of
from optimizers.core.reward import Scorer
from optimizers.core.run_folder import CLUSTERS_FILE, RunFolder
from optimizers.core.statistics import gain_interval
from optimizers.core.work_clock import WorkClock
from optimizers.demos.house_terms_controls import TERMS_THREADS, ScoredControls, score_controls, use_actor
from optimizers.observe.progress import build_views
from optimizers.observe.report import write_report
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator
from optimizers.sgt.recipe import Recipe
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.store.rollout_store import RolloutStore
from optimizers.training.embedded import embedded_trainer
from optimizers.training.processes import join_team
from sgt_modules import supplement
from sgt_modules.embedded import (
    FULL,
    QUICK,
    HouseTermsWorld,
    Sizes,
    embedded_actor,
    embedded_generator,
    find_term,
    program,
)
from sgt_modules.embedded.models import ActorName
from sgt_modules.lms import LMLike, lm_named


@dataclass(frozen=True, slots=True)
class Scale:
    """Size of a demonstration: the world's sizes and the method's options."""

    sizes: Sizes
    recipe: Recipe


FULL_SCALE = Scale(FULL, Recipe(length_preference=0.25, gate=True))
"""A hundred training questions and the default options, with a generator that may stay silent."""

LOUD_SCALE = Scale(FULL, Recipe(silence=False))
"""The same with a generator that always speaks, as the baseline for silence."""

QUICK_SCALE = Scale(QUICK, replace(FULL_SCALE.recipe, rounds=2, direct_samples=12))
"""A world of eight terms and two rounds."""

TINY_SCALE = Scale(
    Sizes(train=4, validation=4, test=4, shifted=4, terms=4, shifted_terms=4),
    Recipe(rounds=1, warm_samples=1, pool_samples=1, ood_kinds=1, concat=1, max_per_kind=4, pair_cap=2),
)
"""Every step once, in seconds: it shows that the method runs, not how well."""

REAL_SCALE = FULL_SCALE
"""The full world for your own actor: about 12,000 calls. Fewer are not enough: one supplement in twenty guesses a
meaning right, and a real actor uses one in three of those."""

REAL_QUICK_SCALE = Scale(
    Sizes(train=32, validation=16, test=32, shifted=4, terms=4, shifted_terms=4),
    replace(Recipe.auto("light").with_rounds(2), warm_samples=4),
)
"""The start page's small world, two rounds: about 1,400 calls of your own actor. One supplement in twenty guesses a
meaning right, so the warm start tries four of each kind."""

ROWS_WITHOUT_GENERATOR = ("none", "oracle", "oracle_glossary", "elimination", "small_model")
"""Rows of the table whose supplements, if any, no generator and no training run wrote."""

StageRollouts = Mapping[str, Mapping[str, Sequence[Rollout]]]
"""Rollouts by stage and split."""


@dataclass(frozen=True)
class Demonstration:
    """A finished demonstration: its world, the result, every row's rollouts on every split, and the summary."""

    world: HouseTermsWorld
    result: SGTResult
    stage_rollouts: StageRollouts
    summary: Mapping[str, Any]


def demonstrate(
    seed: int = 0,
    *,
    actor: LMLike | None = None,
    log_dir: Path | None = None,
    scale: Scale | None = None,
    display: bool | None = None,
    world: HouseTermsWorld | None = None,
) -> Demonstration:
    """Run Supplement Generation Training on the house-terms world of `seed`, then score every stage and the controls.

    `actor` replaces the embedded frozen LM, or names one as `lm_named` reads it; then there is no second actor. The
    scale is `FULL_SCALE`, or `REAL_SCALE` with an actor. `score_controls` describes the controls. The test questions
    are first asked when the stage is selected; the control `lookup` chooses its number of neighbours on validation.
    `world` replaces the world of the seed and the scale's sizes.

    The summary is also written to `<log_dir>/summary.json`; `display=False` prints nothing. If several processes run,
    the main one scores and writes, and every process returns the same.
    """
    lm = None if actor is None else lm_named(actor)
    scale = scale or (FULL_SCALE if lm is None else REAL_SCALE)
    world = world or HouseTermsWorld(seed, sizes=scale.sizes)
    teleprompter = SGTTeleprompter(
        metric=world.metric,
        generator=embedded_generator(),
        recipe=scale.recipe,
        trainer=embedded_trainer(),
        num_threads=TERMS_THREADS,
        seed=seed,
        log_dir=log_dir,
        display_progress=display,
        cluster=find_term,
    )
    with use_actor(lm):
        better = teleprompter.compile(program(), trainset=world.train, valset=world.val)
    result = result_of(better)
    scoring = WorkClock.of_scoring(RunFolder(result.log_dir))

    def finish() -> tuple[StageRollouts, Mapping[str, Any]]:
        better.save(result.log_dir / "program.json")
        bus = EventBus(build_views(display))
        with bus.run():
            scored = score_stages(world, result, bus, lm, on_write=scoring.tick)
        controls = score_controls(world, better, EventBus(build_views(display)), lm, on_write=scoring.tick)
        scored = {**scored, **controls.rollouts}
        scoring.write()
        seconds = result.spent.seconds.total + scoring.seconds.total
        summary = summarize_stages(world, result, scored, controls, seconds=seconds, actor=lm)
        RunFolder(result.log_dir).write("summary.json", summary)
        RunFolder(result.log_dir).write(
            CLUSTERS_FILE, number_splits(find_term, {**world.splits, "transfer": world.test})
        )
        write_report(result.log_dir)
        return scored, summary

    scored, summary = join_team().run_once(finish)
    return Demonstration(world, result, scored, summary)


def score_stages(
    world: HouseTermsWorld,
    result: SGTResult,
    bus: EventBus,
    lm: dspy.LM | None = None,
    *,
    on_write: Callable[[], object] = lambda: None,
) -> StageRollouts:
    """Score every stage and the untrained generator on validation, test, shifted terms, and with the second actor.

    An LM of the caller's has no second actor.
    """
    generators = {"none": None, "untrained": result.generator}
    generators |= {stage.name: result.generator_of(stage.name) for stage in result.stages}
    gates = {stage.name: stage.gate for stage in result.stages}
    scored: dict[str, dict[str, Sequence[Rollout]]] = {name: {} for name in generators}
    for stage in result.stages:
        scored[stage.name]["val"] = stage.rollouts
    places: list[tuple[str, ActorName, list[dspy.Example]]] = [
        ("val", "actor", world.val),
        ("test", "actor", world.test),
        ("shifted", "actor", world.shifted),
        ("transfer", "second-actor", world.test),
    ]
    for split, actor_name, examples in places if lm is None else places[:-1]:
        with use_actor(lm, actor_name), _open_actor(world, result, on_write=on_write) as engine:
            evaluator = Evaluator(engine, split, examples, bus)
            for name, generator in generators.items():
                if split not in scored[name]:
                    if generator is None:
                        scored[name][split] = evaluator.score_unaided()
                    else:
                        scored[name][split] = evaluator.score(name, generator, gates.get(name)).rollouts
    return scored


@contextmanager
def _open_actor(
    world: HouseTermsWorld, result: SGTResult, *, on_write: Callable[[], object] = lambda: None
) -> Iterator[RolloutEngine]:
    """Open the run's store, for the wrapped program under the current LM."""
    wrapped = supplement(program(), generator=result.generator, draft=result.draft)
    folder = RunFolder(result.log_dir)
    id_ = (folder.read("run.json") or {}).get("id", "")
    # A separate run, so that the compile's usage excludes scoring.
    with RolloutStore(folder.store, run=f"{id_} controls") as store:
        store.on_write = on_write
        scope = scope_of(wrapped, world.metric)
        yield RolloutEngine(wrapped, Scorer(world.metric), store, scope, num_threads=TERMS_THREADS)


def summarize_stages(
    world: HouseTermsWorld,
    result: SGTResult,
    scored: StageRollouts,
    controls: ScoredControls,
    *,
    seconds: float,
    actor: dspy.LM | None = None,
) -> dict[str, Any]:
    """Return the summary in its public format; see `docs/run-folder.md`."""
    selected = result.selected
    spent, clusters = result.spent, [find_term(example) for example in world.test]
    generated = {name: splits["test"] for name, splits in scored.items() if name not in ROWS_WITHOUT_GENERATOR}
    return {
        "task": "house-terms",
        "seed": world.seed,
        "actor": (actor or embedded_actor()).model,
        "generator": result.generator.name,
        "splits": {name: len(split) for name, split in world.splits.items()},
        "scores": {name: _stage_scores(world, splits) for name, splits in scored.items()},
        "selected": selected,
        "p_value": {
            name: compute_p_value(scored[name]["test"], scored[selected]["test"], clusters=clusters)
            for name in ("none", "sft", "lookup", "elimination")
            if name in scored
        },
        "clusters": {"test": count_clusters(clusters)},
        "kinds": {name: compute_kind_shares(rollouts) for name, rollouts in generated.items()},
        "leakage": {
            name: compute_leak_share(rollouts, world.test, world.leaks) for name, rollouts in generated.items()
        },
        "lengths": {
            name: compute_mean_length(splits["test"])
            for name, splits in scored.items()
            if name not in ("none", "small_model")
        },
        "gated": {split: compute_gated_share(rollouts) for split, rollouts in scored[selected].items()},
        "actor_calls": spent.actor_calls,
        "generator_calls": spent.generator_calls,
        "tokens": spent.tokens,
        "seconds": replace(spent.seconds, total=seconds).rounded(),
        "peak_rss_mb": MARK.highest,
        "peak_mb": collect_peak_memory(result.stages),
        "notes": list(result.notes),
        "lookup": _summarize_lookup(scored[selected]["test"], scored["lookup"]["test"], controls, clusters),
        "elimination": {
            "terms": len(controls.deductions),
            "right": sum(each.right for each in controls.deductions),
            "tied": sum(each.equals > 0 for each in controls.deductions),
        },
        "skipped": dict(controls.skipped),
    }


def _summarize_lookup(
    selected: Sequence[Rollout], lookup: Sequence[Rollout], controls: ScoredControls, clusters: Clusters
) -> dict[str, object]:
    """Return the chosen number of neighbours, and what the selected stage gains over the lookup on test."""
    before, after = pair_scores(lookup, selected)
    own = select_clusters(clusters, lookup, selected)
    gain = sum(after) / len(after) - sum(before) / len(before) if before else None
    return {
        "neighbours": controls.neighbours,
        "validation": {str(number): round(score, 4) for number, score in controls.lookup.items()},
        "gain": None if gain is None else round(gain, 4),
        "interval": [round(end, 4) for end in gain_interval(before, after, clusters=own)] if before else None,
    }


def _stage_scores(world: HouseTermsWorld, splits: Mapping[str, Sequence[Rollout]]) -> dict[str, float]:
    test = splits["test"]
    parts = {
        "test_terms": [rollout for rollout in test if world.test[rollout.query.index].term],
        "test_plain": [rollout for rollout in test if not world.test[rollout.query.index].term],
    }
    return compute_mean_scores({**splits, **parts})
