"""The steps of SPT, each a method; `teleprompter.py` is their order, and a `History` holds what they find.

Pure modules decide (`impact`, `sentences`, `corrector`); this one holds the store, the folder and the corrector.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from typing import Any, cast

import dspy
from dspy.adapters.utils import get_annotation_name

from optimizers.core.best_stage import mean_gain, select_best
from optimizers.core.clusters import find_clusters
from optimizers.core.estimate import Probe
from optimizers.core.events import Note, PhaseStarted, StageScored
from optimizers.core.evidence import Evidence
from optimizers.core.paired_scores import pair_scores
from optimizers.core.peak_memory import Peak
from optimizers.core.records import Rollout
from optimizers.core.result import mark_compiled
from optimizers.core.stages import Stage
from optimizers.core.usage import RunUsage
from optimizers.core.verdict import explain_unrewarded, write_verdict
from optimizers.rollouts.evaluation import Evaluator, mean_score
from optimizers.run_options import Examples, check_inputs
from optimizers.session import Session
from optimizers.spt.corrector import Corrector, Mistake, batch_mistakes, find_new, make_mistake
from optimizers.spt.estimate import summarize_probe
from optimizers.spt.history import History, ScoredCandidate
from optimizers.spt.impact import (
    SentenceImpact,
    annotate,
    compute_impacts,
    count_tokens,
    prompts_to_run,
    prune_prompt,
    subsample,
)
from optimizers.spt.result import PromptCandidate, PromptRound, PromptStage, SPTResult
from optimizers.spt.sentences import split_sentences
from optimizers.spt.settings import SPTSettings
from optimizers.store.rollout_store import RolloutStore
from optimizers.training.finished_stages import FinishedStages
from sgt_modules.wrapping import instructions_of, with_instructions


class PromptRun:
    """The resources of one compile. Made by `PromptRun.opened`, which checks every input before the first paid call."""

    def __init__(self, settings: SPTSettings, student: dspy.Module, session: Session, corrector: Corrector) -> None:
        self._settings, self._recipe, self._session, self._bus = settings, settings.recipe, session, session.bus
        self._student, self._corrector, self._places = student, corrector, settings.places(student)
        self._train, self._validation = session.train, session.validation
        self._finished = FinishedStages(session.folder)

    @classmethod
    @contextmanager
    def opened(
        cls,
        student: dspy.Module,
        trainset: Examples,
        valset: Examples | None,
        settings: SPTSettings,
        *,
        probe: int = 0,
    ) -> Iterator[PromptRun]:
        """Check everything that was passed in, then take the folder.

        Inside, the first Ctrl-C ends the run in good order.

        Raises:
            SetupError: something passed in cannot work, or another run works in the folder.
        """
        inputs, options = check_inputs(student, trainset, valset, settings, probe=probe), settings.options
        with (
            Session.opened(inputs, settings, probing=bool(probe)) as session,
            RolloutStore(options.store or session.folder.store, run=f"{session.id} corrector") as replies,
        ):
            corrector = Corrector(
                settings.corrector,
                replies,
                session.budget,
                seed=options.seed,
                temperature=settings.recipe.temperature,
                num_threads=options.num_threads,
                max_errors=options.max_errors,
            )
            replies.on_write = session.clock.tick
            yield cls(settings, student, session, corrector)

    def within_budget(self, history: History) -> AbstractContextManager[None]:
        """Where a budget is used up inside, the rest is left out; at Ctrl-C, `KeyboardInterrupt` once all is saved."""
        return self._session.within_budget(lambda: self._save(history))

    def probe(self, examples: int) -> Probe:
        """Measure calls, tokens and seconds on a few training examples: a run in this folder does not pay for them."""
        self._bus.emit(PhaseStarted("the probe"))
        before, began = self._session.budget.usage, time.perf_counter()
        few = Evaluator(self._train.actor, "train", self._train.examples[:examples], self._bus)
        rollouts = self._run(instructions_of(self._student), few, "probe")
        paid, seconds = self._session.budget.usage, time.perf_counter() - began
        return summarize_probe(rollouts, replace(paid - before, seconds=seconds), self._recipe.threshold)

    def validate(self, history: History) -> PromptStage:
        """Score the prompts as they are now on the validation set."""
        name = history.rounds[-1].name if history.rounds else "student"
        self._enter(f"the validation of {name}", history)
        rollouts = self._run(history.prompts, self._validation, name)
        _, _, by_then = self._finished.keep_figures(name, 0.0, Peak(), self._session.usage.content)
        score, spent = mean_score(rollouts), RunUsage.read(by_then)
        if said := explain_unrewarded(name, rollouts):
            self._bus.emit(Note(said))
        self._bus.emit(StageScored(name, score, spent, _figures(history)))
        return PromptStage(name, score, history.prompts, rollouts, spent)

    def answer_trainset(self, history: History) -> list[Rollout]:
        """Run the program with the prompts as they are now on the training set."""
        self._enter(f"round {history.round}, the training set", history)
        return self._run(history.prompts, self._train, f"round{history.round}")

    def find_mistakes(self, answers: Sequence[Rollout], history: History) -> list[Mistake]:
        """Describe the wrong answers to the training set for the corrector; a note says so if there are none."""
        found = self._wrong(answers)
        if not found:
            text = f"Round {history.round} found no mistakes on the training set, so the rounds end here."
            self._bus.emit(Note(text))
        return found

    def measure_impacts(self, history: History) -> list[SentenceImpact]:
        """Measure what each sentence of this round's prompt does to the score; empty without impact.

        Every round has the same part of the training set, so that what was run before is known.
        """
        way = self._recipe.impact
        if way is None:
            return []
        self._enter(f"round {history.round}, impact", history)
        rng, examples = self._rng("impact"), self._train.examples
        chosen = [examples[n] for n in subsample(len(examples), self._recipe.impact_examples, rng)]
        parts = self._sentences(history.prompts[self._place(history)])
        scores = [
            [
                None if each.reward is None else each.reward.score
                for each in self._run_with(prompt, chosen, f"impact{n}", history)
            ]
            for n, prompt in enumerate(prompts_to_run(parts, way))
        ]
        return compute_impacts(parts, scores, way, find_clusters(self._session.cluster, chosen))

    def write_candidates(
        self, mistakes: Sequence[Mistake], impacts: Sequence[SentenceImpact], history: History
    ) -> list[PromptCandidate]:
        """Have the corrector rewrite this round's prompt from its mistakes.

        Dropped is what is no prompt, repeats one of this round, or was the prompt or refused before.
        """
        number, place, recipe = history.round, self._place(history), self._recipe
        self._enter(f"round {number}, the corrector", history)
        parts = batch_mistakes(mistakes, recipe.mistake_tokens, self._rng(f"mistakes-{number}"))
        shown = [parts[n % len(parts)] for n in range(recipe.candidates)]
        said = self._corrector.write_prompts(
            history.briefs[-1],
            step=self._step(place),
            prompt=annotate(impacts) if impacts else history.prompts[place],
            shown=shown,
            number=number * 100,
            impact=bool(impacts),
        )
        known = history.impacts(place) | {each.sentence.strip(): each.impact for each in impacts}
        written = [self._shorten(each, known) for each in said]
        fresh = find_new(written, history.prompts_tried(place))
        return [
            PromptCandidate(
                text, [each.index for each in batch], dropped="" if new else "repeats another" if text else "no reply"
            )
            for text, batch, new in zip(written, shown, fresh, strict=True)
        ]

    def score_candidates(
        self, candidates: Sequence[PromptCandidate], mistakes: Sequence[Mistake], history: History
    ) -> Iterator[ScoredCandidate]:
        """Score the candidates on the mistakes, one by one; skip what was dropped, and drop one without a reward."""
        examples = [self._train.examples[each.index] for each in mistakes]
        for n, each in enumerate(candidates, start=1):
            self._enter(f"round {history.round}, candidate {n}", history)
            runs = [] if each.dropped else self._run_with(each.prompt, examples, f"candidate{n}", history)
            rewarded = any(run.reward is not None for run in runs)
            scored = {"score": mean_score(runs)} if rewarded else {"dropped": each.dropped or "no reward"}
            yield ScoredCandidate(replace(each, **scored), runs)

    def choose(
        self,
        scored: Sequence[ScoredCandidate],
        answers: Sequence[Rollout],
        mistakes: Sequence[Mistake],
        impacts: Sequence[SentenceImpact],
        history: History,
    ) -> PromptRound:
        """Choose the candidate that is best on the mistakes, and accept it as the prompt unless the training set falls.

        Two candidates are compared on the mistakes on which both have a reward; the earlier one wins a tie.
        """
        self._enter(f"round {history.round}, the best candidate on the training set", history)
        ready = [n for n, each in enumerate(scored) if each.candidate.score is not None]
        chosen = ready[select_best([scored[n].rollouts for n in ready])] if ready else None
        before, after, accepted = mean_score(answers), None, chosen is not None
        if chosen is not None and self._recipe.accept:
            runs = self._run_with(scored[chosen].candidate.prompt, self._train.examples, "train", history)
            gain, (before, after) = mean_gain(answers, runs), _average_paired(answers, runs)
            accepted = gain is not None and gain >= 0
        found = PromptRound(
            history.round,
            self._place(history),
            history.prompts[self._place(history)],
            [each.index for each in mistakes],
            impacts,
            [each.candidate for each in scored],
            chosen,
            (before, after),
            accepted,
            history.briefs[-1],
        )
        self._bus.say(f"Round {found.number} ({found.predictor}): {_describe_outcome(found)}.")
        return found

    def improve_corrector(self, history: History) -> list[str]:
        """Rewrite the corrector's brief from what the first and the best prompt both get wrong, if anything."""
        number, place = history.rounds[-1].number, history.rounds[-1].predictor
        self._enter(f"round {number}, the corrector's brief", history)
        stage = str(Stage(f"round{number}", "brief"))
        first, best = (self._wrong(self._run(each, self._train, stage)) for each in (history.first, history.prompts))
        still = {each.index for each in first}
        both = [each for each in best if each.index in still]
        if not both:
            return []
        written = self._corrector.rewrite_brief(
            self._recipe.meta_prompts.improve,
            brief=history.briefs[-1],
            first=history.first[place],
            best=history.prompts[place],
            shown=batch_mistakes(both, self._recipe.mistake_tokens, self._rng(f"brief-{number}"))[0],
            number=number * 100 + 99,
        )
        return [written] if find_new([written], history.briefs)[0] else []

    def finish(self, history: History) -> dspy.Module:
        """Return the best stage's program so far: a new one, with `detailed_results`."""
        self._save(history)
        best = history.stages[-1] if history.stages and self._recipe.choice == "last" else history.best
        selected = best.name if best else "student"
        evidence = self._evidence(selected, history)
        said = write_verdict(evidence)
        if evidence.refusals:
            self._bus.emit(Note(evidence.refusals))
        self._session.finish(selected, {stage.name: stage.score for stage in history.stages}, said)
        result = SPTResult(
            stages=tuple(history.stages),
            selected=selected,
            rounds=tuple(history.rounds),
            briefs=tuple(history.briefs),
            spent=self._session.usage,
            corrector=self._corrector.usage,
            notes=tuple(self._session.notes),
            log_dir=self._session.folder.path,
            stopped=self._session.stopped,
            store=self._settings.options.store,
            verdict=said,
        )
        return mark_compiled(with_instructions(self._student, best.prompts if best else history.first), result)

    def _evidence(self, selected: str, history: History) -> Evidence:
        """What the run found."""
        before, later = history.stages[:1], history.stages[1:]
        return replace(
            self._session.evidence(selected=selected, threshold=self._recipe.threshold),
            before=before[0].rollouts if before else (),
            stages={stage.name: stage.rollouts for stage in later},
            unaided=history.answered[0] if history.answered else (),
            tried=history.tried,
            instructions=True,
        )

    def _wrong(self, rollouts: Sequence[Rollout]) -> list[Mistake]:
        examples, threshold = self._train.examples, self._recipe.threshold
        return [make_mistake(n, examples[n], each) for n, each in enumerate(rollouts) if each.lost(threshold)]

    def _place(self, history: History) -> str:
        """The predictor whose prompt this round rewrites."""
        return self._places[(history.round - 1) % len(self._places)]

    def _run_with(self, prompt: str, examples: Examples, part: str, history: History) -> list[Rollout]:
        """Run the program with another prompt at this round's place."""
        split = Evaluator(self._session.actor, "train", examples, self._bus)
        prompts = {**history.prompts, self._place(history): prompt}
        return self._run(prompts, split, str(Stage(f"round{history.round}", part)))

    def _run(self, prompts: Mapping[str, str], split: Evaluator, stage: str) -> list[Rollout]:
        return split.for_program(with_instructions(self._student, prompts)).score_as_it_is(stage)

    def _shorten(self, text: str, impacts: Mapping[str, float]) -> str:
        """A prompt within the budget of tokens, without its sentences of the lowest impact."""
        most = self._recipe.prompt_tokens
        return text if count_tokens(text) <= most else prune_prompt(self._sentences(text), impacts, most)

    def _sentences(self, text: str) -> list[str]:
        return split_sentences(text, self._recipe.language)

    def _rng(self, purpose: str) -> random.Random:
        return random.Random(f"{self._settings.options.seed}-{purpose}")

    def _step(self, place: str) -> str:
        """What the model reads and writes at a place."""
        named = dict(self._student.named_predictors())
        signature = cast("Any", named[place]).signature
        reads, writes = (_fields(each) for each in (signature.input_fields, signature.output_fields))
        others = [name for name in named if name != place]
        within = f" It is the step {place!r} of a program; the others are {', '.join(others)}." if others else ""
        return f"From {reads} it writes {writes}.{within}"

    def _enter(self, phase: str, history: History) -> None:
        """Begin a phase; what was found before it is saved."""
        self._save(history)
        self._bus.emit(PhaseStarted(phase))

    def _save(self, history: History) -> None:
        """What a person looks for in the folder, and the next session's clock."""
        self._session.folder.write("spent.json", self._session.usage.content)
        rounds = [asdict(each) | {"diff": each.diff} for each in history.rounds]
        scores = {each.name: each.score for each in history.stages}
        self._session.folder.write("prompts.json", {"scores": scores, "rounds": rounds, "briefs": history.briefs})


def _describe_outcome(found: PromptRound) -> str:
    before, after = found.train
    if found.chosen is None:
        return "no candidate is new"
    if not found.accepted:
        return f"refused, {before:.3f} to {after:.3f} on the training set"
    return "accepted" if after is None else f"accepted, {before:.3f} to {after:.3f} on the training set"


def _figures(history: History) -> dict[str, float | None]:
    """What the last round found on the training set."""
    if not history.rounds:
        return {}
    last = history.rounds[-1]
    tried = sum(each.score is not None for each in last.candidates)
    return {"train/score": last.train[1], "train/mistakes": len(last.mistakes), "train/candidates": tried}


def _fields(fields: Mapping[str, Any]) -> str:
    """The fields of a signature: name, type, and what their author says of them."""
    said: list[str] = []
    for name, each in fields.items():
        own = each.json_schema_extra.get("desc", "")
        about = "" if own in ("", f"${{{name}}}") else f": {own}"
        said.append(f"`{name}` ({get_annotation_name(each.annotation)}{about})")
    return ", ".join(said)


def _average_paired(before: Sequence[Rollout], after: Sequence[Rollout]) -> tuple[float, float]:
    """Mean scores over the examples that have one both times; 0.0 where there are none."""
    first, second = pair_scores(before, after)
    count = max(1, len(first))
    return sum(first) / count, sum(second) / count
