"""The embedded demonstration of Supervisory Prompt Training: a corrector finds the rules of a house by their outcomes.

Simulated world and corrector, real method and actor: see `sgt_modules.embedded.rules`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, cast

from optimizers.comparison.summary import paired_p_value
from optimizers.core.events import EventBus
from optimizers.core.fingerprints import scope_of
from optimizers.core.memory import MARK
from optimizers.core.records import Rollout
from optimizers.core.reward import Scorer
from optimizers.core.run_folder import RunFolder
from optimizers.core.spending import Clock
from optimizers.core.statistics import spearman
from optimizers.observe.progress import build_views
from optimizers.observe.report import write_report
from optimizers.rollouts.engine import Actor
from optimizers.rollouts.evaluation import Evaluator, mean_score
from optimizers.spt.impact import SentenceImpact, Way, impacts, prompts_to_run, subsample
from optimizers.spt.recipe import SPTRecipe, Variant
from optimizers.spt.result import SPTResult
from optimizers.spt.sentences import sentences
from optimizers.spt.teleprompter import SupervisoryPromptTeleprompter
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.embedded import acting, embedded_actor
from sgt_modules.embedded.rules import (
    RULES_FULL,
    RULES_QUICK,
    HouseRulesWorld,
    RulesCorrector,
    RuleSizes,
    list_program,
)
from sgt_modules.wrapping import instructions_of, with_instructions


@dataclass(frozen=True, slots=True)
class PromptScale:
    """How large a demonstration is: the world's sizes, the method's options, and prompts to try impact scores on."""

    sizes: RuleSizes
    recipe: SPTRecipe
    panels: int


SPT_FULL = PromptScale(RULES_FULL, SPTRecipe(rounds=8), panels=2)
"""Sixty-four training questions and eight rounds; all other options are the method's own."""

SPT_QUICK = PromptScale(RULES_QUICK, SPTRecipe(rounds=4), panels=1)
"""A smaller world and four rounds."""

THREADS = 64
"""Program runs at once: as many actor calls are then served in one batch."""

NONE = "none"
"""The name of the student's own stage in tables and summary."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A sentence of a panel: its known truth (1 helps, 0 idle, -1 harms), and its impact measured in both ways."""

    sentence: str
    truth: int
    prefix: float
    leave_one_out: float


@dataclass(frozen=True)
class PromptDemonstration:
    """A finished demonstration: its world, how compiling went, every stage's rollouts on test, the panels' sentences,
    and the summary.
    """

    world: HouseRulesWorld
    result: SPTResult
    tested: Mapping[str, Sequence[Rollout]]
    judged: Sequence[Judged]
    summary: Mapping[str, Any]


def demonstrate_prompts(
    seed: int = 0,
    *,
    variant: Variant = "p",
    log_dir: Path | None = None,
    scale: PromptScale = SPT_FULL,
    display: bool | None = None,
) -> PromptDemonstration:
    """Run Supervisory Prompt Training on the house-rules world of `seed`, and score every stage on its test split.

    The summary is also written to `<log_dir>/summary.json`; `display=False` is silence.
    """
    world, bus = HouseRulesWorld(seed, sizes=scale.sizes), EventBus(build_views(display))
    student = list_program(world.instructions)
    teleprompter = SupervisoryPromptTeleprompter(
        world.metric,
        RulesCorrector(seed),
        variant=variant,
        recipe=scale.recipe,
        num_threads=THREADS,
        seed=seed,
        log_dir=log_dir,
        display_progress=display,
    )
    with acting("rule-follower"):
        better = teleprompter.compile(student, trainset=world.train, valset=world.val)
        result = cast("SPTResult", cast("Any", better).detailed_results)
        better.save(result.log_dir / "program.json")
        folder = RunFolder(result.log_dir)
        clock, scoring = Clock.of_scoring(folder)
        id_ = (folder.read("run.json") or {}).get("id", "")
        with RolloutStore(folder.store, run=f"{id_} controls") as store, bus.run():
            store.on_write = clock.tick
            scope = scope_of(student, world.metric)
            actor = Actor(student, Scorer(world.metric), store, scope, num_threads=THREADS)
            test = Evaluator(actor, "test", world.test, bus)
            tested = {
                _shown(stage.name): test.of(with_instructions(student, stage.prompts)).as_it_is(stage.name)
                for stage in result.stages
            }
            rng = random.Random(f"{seed}-panel")
            chosen = subsample(len(world.train), scale.recipe.impact_examples, rng)
            part = Evaluator(actor, "train", [world.train[n] for n in chosen], bus)
            judged = [each for _ in range(scale.panels) for each in _panel(world, part, rng)]
    clock.stop()
    summary = summarize_prompts(world, variant, result, tested, judged, seconds=result.spent.total + scoring())
    RunFolder(result.log_dir).write("summary.json", summary)
    write_report(result.log_dir)
    return PromptDemonstration(world, result, tested, judged, summary)


def _panel(world: HouseRulesWorld, part: Evaluator, rng: random.Random) -> list[Judged]:
    """The sentences of one panel, with the impact of each measured in both ways."""
    parts = sentences(" ".join(world.panel(rng)))
    prefix, left_out = (_measured(parts, part, way) for way in cast("tuple[Way, Way]", ("prefix", "leave-one-out")))
    return [
        Judged(one.sentence.strip(), world.truth(one.sentence), one.impact, other.impact)
        for one, other in zip(prefix, left_out, strict=True)
    ]


def _measured(parts: Sequence[str], part: Evaluator, way: Way) -> list[SentenceImpact]:
    program = part.actor.program
    (place,) = instructions_of(program)
    runs = [
        part.of(with_instructions(program, {place: prompt})).as_it_is(f"panel {way}")
        for prompt in prompts_to_run(parts, way)
    ]
    return impacts(parts, [[run.reward.score if run.reward else None for run in each] for each in runs], way)


def summarize_prompts(
    world: HouseRulesWorld,
    variant: Variant,
    result: SPTResult,
    tested: Mapping[str, Sequence[Rollout]],
    judged: Sequence[Judged],
    *,
    seconds: float,
) -> dict[str, Any]:
    """The summary in its public format, with what a run on prompts has besides; see `docs/architecture.md`."""
    spent, corrector, selected = result.spent, result.corrector, _shown(result.selected)
    written = {"generator_in": corrector.tokens_in, "generator_out": corrector.tokens_out}
    return {
        "task": "house-rules",
        "method": f"spt_{variant}",
        "seed": world.seed,
        "actor": embedded_actor("rule-follower").model,
        "generator": RulesCorrector(world.seed).model,
        "splits": {name: len(split) for name, split in world.splits.items()},
        "scores": {
            name: {"val": round(stage.score, 4), "test": round(mean_score(tested[name]), 4)}
            for stage in result.stages
            for name in (_shown(stage.name),)
        },
        "selected": selected,
        "p_value": {NONE: paired_p_value(tested[NONE], tested[selected])},
        "kinds": {},
        "leakage": {},
        "lengths": {},
        "gated": {},
        "actor_calls": spent.actor_calls,
        "generator_calls": corrector.calls,
        "tokens": {**spent.tokens, **written},
        "seconds": {"total": round(seconds, 1), **{name: round(each, 1) for name, each in spent.seconds.items()}},
        "peak_rss_mb": MARK.highest,
        "peak_mb": {"rss": {}},
        "notes": list(result.notes),
        "prompts": {_shown(stage.name): next(iter(stage.prompts.values())) for stage in result.stages},
        "impact": {
            "rounds": [{**row, "truth": world.truth(str(row["sentence"]))} for row in result.impact_table()],
            "panel": [asdict(each) for each in judged],
            "spearman": correlations(world, result, judged),
        },
    }


def correlations(world: HouseRulesWorld, result: SPTResult, judged: Sequence[Judged]) -> dict[str, float]:
    """Spearman's correlation of impact and truth: of the run's sentences (the mean of the rounds that measured one) and
    of the panels', measured in both ways; rounded to three places.
    """
    found: dict[str, list[float]] = {}
    for row in result.impact_table():
        found.setdefault(str(row["sentence"]), []).append(cast("float", row["impact"]))
    truths = [each.truth for each in judged]
    return {
        "run": round(spearman([mean(each) for each in found.values()], [world.truth(each) for each in found]), 3),
        "prefix": round(spearman([each.prefix for each in judged], truths), 3),
        "leave_one_out": round(spearman([each.leave_one_out for each in judged], truths), 3),
    }


def _shown(stage: str) -> str:
    return NONE if stage == "student" else stage
