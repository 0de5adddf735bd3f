"""Controls of the demonstration on house terms: what the outcomes, or the truth, give without a trained generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import dspy

from optimizers.comparison.compiled_run import CompiledRun
from optimizers.comparison.controls import run_small_model
from optimizers.core.events import EventBus
from optimizers.core.records import Candidate, Rollout
from optimizers.core.result import result_of
from optimizers.demos.elimination import Deduction, deduce_meanings
from optimizers.rollouts.evaluation import Evaluator
from optimizers.sgt.nearest.winners import choose_lookup
from sgt_modules import supplement
from sgt_modules.embedded import AnswerInSQL, HouseTermsWorld, acting, program
from sgt_modules.embedded.models import ActorName
from sgt_modules.kinds import Supplement
from sgt_modules.lms import acting_as

TERMS_THREADS = 128
"""Concurrent program runs, and so the size of a batch of actor calls."""


@dataclass(frozen=True, slots=True)
class ScoredControls:
    """The controls' rollouts by row and split, the reasons of rows that were skipped, and what was chosen.

    `lookup` has the score on validation of each number of neighbours, `neighbours` the chosen one; `deductions` are
    those of the row `elimination`.
    """

    rollouts: Mapping[str, Mapping[str, Sequence[Rollout]]]
    skipped: Mapping[str, str]
    lookup: Mapping[int, float]
    neighbours: int
    deductions: Sequence[Deduction]


@contextmanager
def use_actor(lm: dspy.LM | None, name: ActorName = "actor") -> Iterator[None]:
    """Make the LM act inside the block, or an embedded actor if there is no LM."""
    with acting(name) if lm is None else acting_as(lm):
        yield


def score_controls(
    world: HouseTermsWorld,
    compiled: dspy.Module,
    bus: EventBus,
    lm: dspy.LM | None = None,
    *,
    on_write: Callable[[], object] = lambda: None,
) -> ScoredControls:
    """Score the controls of a finished run on test, under the LM or else the embedded actor.

    `lookup`: the supplement that won for the most similar training queries, without any training. `elimination`: the
    meaning of the asked term that the outcomes of training make the most likely. `oracle`: its true meaning.
    `oracle_glossary`: all true meanings in the instructions. `small_model`: the generator's base model in place of the
    actor; skipped if it does not know the form of an answer. Rollouts that the run paid for are not paid again.
    """
    with (
        use_actor(lm),
        CompiledRun.open(compiled, program(), world.metric, num_threads=TERMS_THREADS, bus=bus) as run,
    ):
        run.store.on_write = on_write
        with run.open_split("val", world.val) as val:
            explored, inner = run.explored(val), run.result.generator
            lookup = choose_lookup(explored, inner, val, threshold=run.threshold, seed=world.seed)
        deductions = deduce_meanings(world, explored, seed=world.seed, threshold=run.threshold)
        deduced = {each.term.word: f"{each.term.word} means {each.condition}." for each in deductions}
        true = {term.word: f"{term.word} means {term.condition}." for term in (*world.terms, *world.shifted_terms)}
        with run.open_split("shifted", world.shifted) as shifted:
            on_shifted = {
                "lookup": shifted.score("lookup", lookup.generator).rollouts,
                "oracle": _run_with_meanings(shifted, true, "oracle", "shifted"),
            }
        with run.open_split("test", world.test) as test:
            rows = {
                "lookup": test.score("lookup", lookup.generator).rollouts,
                "elimination": _run_with_meanings(test, deduced, "elimination", "test"),
                "oracle": _run_with_meanings(test, true, "oracle", "test"),
                "oracle_glossary": _run_with_glossary(world, compiled, test),
            }
            alone = run_small_model(run, test)
    scored = {
        name: {"test": rows[name], **({"shifted": on_shifted[name]} if name in on_shifted else {})} for name in rows
    }
    scored["lookup"] = {"val": lookup.rollouts, **scored["lookup"]}
    skipped = {"small_model": alone} if isinstance(alone, str) else {}
    if not isinstance(alone, str):
        scored["small_model"] = {"test": alone}
    return ScoredControls(scored, skipped, lookup.validation, lookup.neighbours, deductions)


def _run_with_meanings(evaluator: Evaluator, meanings: Mapping[str, str], name: str, split: str) -> Sequence[Rollout]:
    """Run each question of a term that has a meaning with it as supplement; the others keep their run without one."""
    candidates = [
        Candidate(query, Supplement("background", meanings[word]), name)
        for query in evaluator.queries
        if (word := evaluator.examples[query.index].term) in meanings
    ]
    with evaluator.bus.work(f"{name}: acting", len(candidates)) as work:
        found = evaluator.actor.run(candidates, evaluator.examples, stage=f"{name}/{split}", on_done=work.advance)
    aided = {rollout.query.index: rollout for rollout in found}
    return [aided.get(index, rollout) for index, rollout in enumerate(evaluator.unaided)]


def _run_with_glossary(world: HouseTermsWorld, compiled: dspy.Module, test: Evaluator) -> Sequence[Rollout]:
    """Run the test questions with all meanings of the world's terms in the instructions, and no supplement."""
    meanings = [f"{term.word} means {term.condition}." for term in world.terms]
    lines = "\n".join(["The words of this house:", *meanings])
    student = dspy.Predict(AnswerInSQL.with_instructions(f"{AnswerInSQL.instructions}\n\n{lines}"))
    return test.for_program(supplement(student, generator=result_of(compiled).generator)).score_unaided(
        "oracle_glossary"
    )
