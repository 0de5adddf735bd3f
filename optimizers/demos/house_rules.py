"""The embedded demonstration of Supervisory Prompt Training: a corrector learns the rules of a house from outcomes.

The world and the corrector are simulated, the method and the actor are real: see `sgt_modules.embedded.rules`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, cast

from optimizers.comparison.summary import compute_p_value
from optimizers.core.clusters import count_clusters, number_clusters
from optimizers.core.events import EventBus
from optimizers.core.fingerprints import scope_of
from optimizers.core.peak_memory import MARK
from optimizers.core.records import Rollout
from optimizers.core.reward import Scorer
from optimizers.core.run_folder import CLUSTERS_FILE, RunFolder
from optimizers.core.statistics import spearman
from optimizers.core.work_clock import WorkClock
from optimizers.observe.progress import build_views
from optimizers.observe.report import write_report
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator, mean_score
from optimizers.spt.impact import SentenceImpact, Way, compute_impacts, prompts_to_run, subsample
from optimizers.spt.recipe import SPTRecipe, Variant
from optimizers.spt.result import SPTResult
from optimizers.spt.sentences import split_sentences
from optimizers.spt.teleprompter import SupervisoryPromptTeleprompter
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.embedded import acting, embedded_actor
from sgt_modules.embedded.rules import RULES_FULL, RULES_QUICK, HouseRulesWorld, RulesCorrector, RuleSizes, list_program
from sgt_modules.wrapping import instructions_of, with_instructions


@dataclass(frozen=True, slots=True)
class PromptScale:
    """Size of a demonstration: the world's sizes, the method's options, and the number of impact panels."""

    sizes: RuleSizes
    recipe: SPTRecipe
    panels: int


SPT_FULL = PromptScale(RULES_FULL, SPTRecipe(rounds=8), panels=2)
"""Sixty-four training questions and eight rounds; all other options are the defaults."""

SPT_QUICK = PromptScale(RULES_QUICK, SPTRecipe(rounds=4), panels=1)
"""A smaller world and four rounds."""

RULES_THREADS = 64
"""Concurrent program runs, and so the size of a batch of actor calls."""

STUDENT_ROW = "none"
"""The name of the unchanged student in tables and summary."""


@dataclass(frozen=True, slots=True)
class PanelSentence:
    """A sentence of a panel: its true effect (1 helps, 0 idle, -1 harms), and its impact measured in two ways."""

    sentence: str
    truth: int
    prefix: float
    leave_one_out: float


@dataclass(frozen=True)
class PromptDemonstration:
    """A finished demonstration: its world, the result, the test rollouts by stage, the panels, and the summary."""

    world: HouseRulesWorld
    result: SPTResult
    test_rollouts: Mapping[str, Sequence[Rollout]]
    panel_sentences: Sequence[PanelSentence]
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

    The summary is also written to `<log_dir>/summary.json`; `display=False` prints nothing.
    """
    world, bus = HouseRulesWorld(seed, sizes=scale.sizes), EventBus(build_views(display))
    student = list_program(world.instructions)
    teleprompter = SupervisoryPromptTeleprompter(
        world.metric,
        RulesCorrector(seed),
        variant=variant,
        recipe=scale.recipe,
        num_threads=RULES_THREADS,
        seed=seed,
        log_dir=log_dir,
        display_progress=display,
    )
    with acting("rule-follower"):
        better = teleprompter.compile(student, trainset=world.train, valset=world.val)
        result = cast("SPTResult", cast("Any", better).detailed_results)
        better.save(result.log_dir / "program.json")
        folder = RunFolder(result.log_dir)
        scoring = WorkClock.of_scoring(folder)
        id_ = (folder.read("run.json") or {}).get("id", "")
        with RolloutStore(folder.store, run=f"{id_} controls") as store, bus.run():
            store.on_write = scoring.tick
            scope = scope_of(student, world.metric)
            actor = RolloutEngine(student, Scorer(world.metric), store, scope, num_threads=RULES_THREADS)
            test = Evaluator(actor, "test", world.test, bus)
            test_rollouts = {
                _display_name(stage.name): test.for_program(with_instructions(student, stage.prompts)).score_as_it_is(
                    stage.name
                )
                for stage in result.stages
            }
            rng = random.Random(f"{seed}-panel")
            indices = subsample(len(world.train), scale.recipe.impact_examples, rng)
            part = Evaluator(actor, "train", [world.train[n] for n in indices], bus)
            panel = [each for _ in range(scale.panels) for each in _measure_panel(world, part, rng)]
    scoring.write()
    seconds = result.spent.seconds.total + scoring.seconds.total
    summary = summarize_prompts(world, variant, result, test_rollouts, panel, seconds=seconds)
    clusters = {
        name: number_clusters([world.find_kind(example) for example in split]) for name, split in world.splits.items()
    }
    RunFolder(result.log_dir).write("summary.json", summary)
    RunFolder(result.log_dir).write(CLUSTERS_FILE, clusters)
    write_report(result.log_dir)
    return PromptDemonstration(world, result, test_rollouts, panel, summary)


def _measure_panel(world: HouseRulesWorld, part: Evaluator, rng: random.Random) -> list[PanelSentence]:
    parts = split_sentences(" ".join(world.panel(rng)))
    prefix, left_out = _measure_impact(parts, part, "prefix"), _measure_impact(parts, part, "leave-one-out")
    return [
        PanelSentence(one.sentence.strip(), world.truth(one.sentence), one.impact, other.impact)
        for one, other in zip(prefix, left_out, strict=True)
    ]


def _measure_impact(parts: Sequence[str], part: Evaluator, way: Way) -> list[SentenceImpact]:
    program = part.actor.program
    (place,) = instructions_of(program)
    runs = [
        part.for_program(with_instructions(program, {place: prompt})).score_as_it_is(f"panel {way}")
        for prompt in prompts_to_run(parts, way)
    ]
    return compute_impacts(parts, [[run.reward.score if run.reward else None for run in each] for each in runs], way)


def summarize_prompts(
    world: HouseRulesWorld,
    variant: Variant,
    result: SPTResult,
    test_rollouts: Mapping[str, Sequence[Rollout]],
    panel: Sequence[PanelSentence],
    *,
    seconds: float,
) -> dict[str, Any]:
    """Return the summary in its public format, with the extra keys of a run on prompts; see `docs/run-folder.md`."""
    spent, corrector, selected = result.spent, result.corrector, _display_name(result.selected)
    clusters = [world.find_kind(example) for example in world.test]
    corrector_tokens = {"generator_in": corrector.tokens_in, "generator_out": corrector.tokens_out}
    return {
        "task": "house-rules",
        "method": f"spt_{variant}",
        "seed": world.seed,
        "actor": embedded_actor("rule-follower").model,
        "generator": RulesCorrector(world.seed).model,
        "splits": {name: len(split) for name, split in world.splits.items()},
        "scores": {
            name: {"val": round(stage.score, 4), "test": round(mean_score(test_rollouts[name]), 4)}
            for stage in result.stages
            for name in (_display_name(stage.name),)
        },
        "selected": selected,
        "p_value": {
            STUDENT_ROW: compute_p_value(test_rollouts[STUDENT_ROW], test_rollouts[selected], clusters=clusters)
        },
        "clusters": {"test": count_clusters(clusters)},
        "kinds": {},
        "leakage": {},
        "lengths": {},
        "gated": {},
        "actor_calls": spent.actor_calls,
        "generator_calls": corrector.calls,
        "tokens": {**spent.tokens, **corrector_tokens},
        "seconds": replace(spent.seconds, total=seconds).rounded(),
        "peak_rss_mb": MARK.highest,
        "peak_mb": {"rss": {}},
        "notes": list(result.notes),
        "prompts": {_display_name(stage.name): next(iter(stage.prompts.values())) for stage in result.stages},
        "impact": {
            "rounds": [{**row, "truth": world.truth(str(row["sentence"]))} for row in result.impact_table()],
            "panel": [asdict(each) for each in panel],
            "spearman": impact_correlations(world, result, panel),
        },
    }


def impact_correlations(world: HouseRulesWorld, result: SPTResult, panel: Sequence[PanelSentence]) -> dict[str, float]:
    """Return Spearman's correlation of impact and true effect, rounded to three places.

    `run` covers the run's sentences, with the mean over the rounds that measured one; the others cover the panels'
    sentences in both ways.
    """
    impacts_by_sentence: dict[str, list[float]] = {}
    for row in result.impact_table():
        impacts_by_sentence.setdefault(str(row["sentence"]), []).append(cast("float", row["impact"]))
    truths = [each.truth for each in panel]
    measured = impacts_by_sentence.items()
    return {
        "run": round(spearman([mean(each) for _, each in measured], [world.truth(each) for each, _ in measured]), 3),
        "prefix": round(spearman([each.prefix for each in panel], truths), 3),
        "leave_one_out": round(spearman([each.leave_one_out for each in panel], truths), 3),
    }


def _display_name(stage: str) -> str:
    return STUDENT_ROW if stage == "student" else stage
