"""The steps of SPT, each a method; `teleprompter.py` is their order.

Pure modules decide (`impact`, `sentences`, `corrector`); this one holds the prompts so far and their scores.
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
from optimizers.core.estimate import Probe
from optimizers.core.events import Note, Observer, PhaseStarted, StageScored
from optimizers.core.evidence import Evidence
from optimizers.core.peak_memory import Peak
from optimizers.core.records import Rollout
from optimizers.core.result import mark_compiled
from optimizers.core.run_settings import Examples
from optimizers.core.stages import Stage
from optimizers.core.usage import RunUsage
from optimizers.core.verdict import explain_unrewarded, write_verdict
from optimizers.rollouts.evaluation import Evaluator, mean_score
from optimizers.rollouts.runners import Runner
from optimizers.session import Session, checked
from optimizers.spt.corrector import Corrector, Mistake, batch_mistakes, find_new, make_mistake
from optimizers.spt.estimate import summarize_probe
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
    """The state of one compile. Made by `PromptRun.opened`, which validates everything before the first paid call."""

    def __init__(
        self, settings: SPTSettings, student: dspy.Module, session: Session, corrector: Corrector, places: Sequence[str]
    ) -> None:
        self._settings, self._recipe, self._session, self._bus = settings, settings.recipe, session, session.bus
        self._student, self._corrector, self._places = student, corrector, places
        self._first = self._prompts = instructions_of(student)
        self._tried = {name: [text] for name, text in self._first.items()}
        self._impact_of: dict[str, dict[str, float]] = {name: {} for name in self._first}
        self._briefs = [self._recipe.meta_prompts.correct]
        self._finished = FinishedStages(session.folder)
        self._stages: list[PromptStage] = []
        self._rounds: list[PromptRound] = []
        self._number, self._place = 0, places[0]
        self._before: list[Rollout] = []
        self._unaided: list[Rollout] = []
        self._rewritten: list[Rollout] = []
        self._on_mistakes: dict[int, list[Rollout]] = {}

    @classmethod
    @contextmanager
    def opened(
        cls,
        student: dspy.Module,
        *,
        trainset: Examples,
        valset: Examples | None,
        settings: SPTSettings,
        observers: Sequence[Observer],
        runner: Runner,
    ) -> Iterator[PromptRun]:
        """Check everything that was passed in and take the folder. Inside, the first Ctrl-C ends the run in good order.

        Raises:
            SetupError: something passed in cannot work, or another run works in the folder.
        """
        splits = checked(student, trainset, valset, settings=settings, runner=runner)
        places = settings.places(student)
        settings.check_priced()
        with (
            Session.opened(student, student, splits, settings=settings, observers=observers, runner=runner) as session,
            RolloutStore(settings.store or session.folder.store, run=f"{session.id} corrector") as replies,
        ):
            corrector = Corrector(
                settings.corrector,
                replies,
                session.budget,
                seed=settings.seed,
                temperature=settings.recipe.temperature,
                num_threads=settings.num_threads,
                max_errors=settings.max_errors,
            )
            replies.on_write = session.clock.tick
            yield cls(settings, student, session, corrector, places)

    def within_budget(self) -> AbstractContextManager[None]:
        """Where a budget is used up inside, the rest is left out; at Ctrl-C, `KeyboardInterrupt` once all is saved."""
        return self._session.within_budget(self._save)

    def probe(self, examples: int) -> Probe:
        """What so many of the training examples take; a run in this folder need not pay for them again."""
        self._bus.emit(PhaseStarted("the probe"))
        train, before, began = self._session.train, self._session.budget.usage, time.perf_counter()
        few = Evaluator(train.actor, "train", train.examples[:examples], self._bus)
        rollouts = self._run(self._prompts, few, "probe")
        paid, seconds = self._session.budget.usage, time.perf_counter() - began
        return summarize_probe(rollouts, replace(paid - before, seconds=seconds), self._recipe.threshold)

    def validate(self) -> None:
        """Score the prompts as they are now on the validation set."""
        name = self._rounds[-1].name if self._rounds else "student"
        self._bus.emit(PhaseStarted(f"the validation of {name}"))
        rollouts = self._run(self._prompts, self._session.validation, name)
        _, _, by_then = self._finished.keep_figures(name, 0.0, Peak(), self._spent().content)
        score, spent = mean_score(rollouts), RunUsage.read(by_then)
        self._stages.append(PromptStage(name, score, dict(self._prompts), rollouts, spent))
        if said := explain_unrewarded(name, rollouts):
            self._bus.emit(Note(said))
        self._bus.emit(StageScored(name, score, spent, self._learned()))
        self._save()

    def mistakes(self, number: int) -> list[Mistake]:
        """The training examples that the prompt of this round gets wrong. Empty where there are none."""
        self._number, self._place = number, self._places[(number - 1) % len(self._places)]
        self._enter("the training set")
        self._before = self._run(self._prompts, self._session.train, f"round{number}")
        self._unaided = self._unaided or self._before
        found = self._wrong(self._before)
        if not found:
            self._bus.emit(Note(f"Round {number} found no mistakes on the training set, so the rounds end here."))
        return found

    def sentence_impacts(self) -> list[SentenceImpact]:
        """What each sentence of the prompt does to the score; empty without impact.

        Every round has the same part of the training set, so that what was run before is known.
        """
        if self._recipe.impact is None:
            return []
        self._enter("impact")
        rng, examples = random.Random(f"{self._settings.seed}-impact"), self._session.train.examples
        chosen = [examples[n] for n in subsample(len(examples), self._recipe.impact_examples, rng)]
        parts, way = self._sentences(self._prompts[self._place]), self._recipe.impact
        scores = [
            [None if each.reward is None else each.reward.score for each in self._runs_of(prompt, chosen, f"impact{n}")]
            for n, prompt in enumerate(prompts_to_run(parts, way))
        ]
        found = compute_impacts(parts, scores, way)
        self._impact_of[self._place].update({each.sentence.strip(): each.impact for each in found})
        return found

    def corrected(self, mistakes: Sequence[Mistake], measured: Sequence[SentenceImpact]) -> list[PromptCandidate]:
        """What the corrector makes of the prompt and its mistakes.

        Dropped is what is no prompt, repeats one of this round, or was the prompt or refused before.
        """
        self._enter("the corrector")
        recipe, prompt = self._recipe, self._prompts[self._place]
        parts = batch_mistakes(mistakes, recipe.mistake_tokens, self._rng("mistakes"))
        shown = [parts[n % len(parts)] for n in range(recipe.candidates)]
        said = self._corrector.write_prompts(
            self._briefs[-1],
            step=self._step(),
            prompt=annotate(measured) if measured else prompt,
            shown=shown,
            number=self._number * 100,
            impact=bool(measured),
        )
        written = [self._fitting(each) for each in said]
        fresh = find_new(written, self._tried[self._place])
        return [
            PromptCandidate(
                text, [each.index for each in batch], dropped="" if new else "repeats another" if text else "no reply"
            )
            for text, batch, new in zip(written, shown, fresh, strict=True)
        ]

    def scored(self, candidates: Sequence[PromptCandidate], mistakes: Sequence[Mistake]) -> list[PromptCandidate]:
        """The candidates with their mean score on the mistakes."""
        examples = [self._session.train.examples[each.index] for each in mistakes]
        found: list[PromptCandidate] = []
        self._on_mistakes.clear()
        for n, each in enumerate(candidates):
            self._enter(f"candidate {n + 1}")
            runs = [] if each.dropped else self._runs_of(each.prompt, examples, f"candidate{n + 1}")
            self._rewritten += runs
            if any(run.reward is not None for run in runs):
                self._on_mistakes[n] = runs
                found.append(replace(each, score=mean_score(runs)))
            else:
                found.append(replace(each, dropped=each.dropped or "no reward"))
        return found

    def accept(
        self, mistakes: Sequence[Mistake], measured: Sequence[SentenceImpact], candidates: Sequence[PromptCandidate]
    ) -> bool:
        """Whether the candidate that is best on the mistakes becomes the prompt; the earlier one on a tie.

        Two candidates are compared on the mistakes on which both have a reward.
        """
        self._enter("the best candidate on the training set")
        tried = list(self._on_mistakes)
        chosen = tried[select_best(list(self._on_mistakes.values()))] if tried else None
        before, after, accepted = mean_score(self._before), None, chosen is not None
        self._tried[self._place] += [] if chosen is None else [candidates[chosen].prompt]
        if chosen is not None and self._recipe.accept:
            examples = self._session.train.examples
            runs = self._runs_of(candidates[chosen].prompt, examples, "train")
            gain, (before, after) = mean_gain(self._before, runs), _paired(self._before, runs)
            accepted = gain is not None and gain >= 0
        self._rounds.append(
            PromptRound(
                self._number,
                self._place,
                self._prompts[self._place],
                [each.index for each in mistakes],
                measured,
                candidates,
                chosen,
                (before, after),
                accepted,
                self._briefs[-1],
            )
        )
        self._say(self._rounds[-1])
        self._prompts = {**self._prompts, self._place: self._rounds[-1].after}
        self._save()
        return accepted

    def improve_corrector(self) -> None:
        """The corrector's brief, rewritten from what the first and the best prompt both get wrong, if anything."""
        self._enter("the corrector's brief")
        name, train = str(Stage(f"round{self._number}", "brief")), self._session.train
        first, best = (self._wrong(self._run(prompts, train, name)) for prompts in (self._first, self._prompts))
        still = {each.index for each in first}
        both = [each for each in best if each.index in still]
        if not both:
            return
        written = self._corrector.rewrite_brief(
            self._recipe.meta_prompts.improve,
            brief=self._briefs[-1],
            first=self._first[self._place],
            best=self._prompts[self._place],
            shown=batch_mistakes(both, self._recipe.mistake_tokens, self._rng("brief"))[0],
            number=self._number * 100 + 99,
        )
        if find_new([written], self._briefs)[0]:
            self._briefs.append(written)
        self._save()

    def finish(self) -> dspy.Module:
        """The best stage's program so far: a new one, with `detailed_results`."""
        best = self._stages[-1] if self._stages and self._recipe.choice == "last" else self._best()
        selected = best.name if best else "student"
        evidence = self._evidence(selected)
        said = write_verdict(evidence)
        if evidence.refusals:
            self._bus.emit(Note(evidence.refusals))
        self._session.finish(selected, {stage.name: stage.score for stage in self._stages}, said)
        result = SPTResult(
            stages=tuple(self._stages),
            selected=selected,
            rounds=tuple(self._rounds),
            briefs=tuple(self._briefs),
            spent=self._spent(),
            corrector=self._corrector.usage,
            notes=tuple(self._session.notes),
            log_dir=self._session.folder.path,
            stopped=self._session.stopped,
            store=self._settings.store,
            verdict=said,
        )
        return mark_compiled(with_instructions(self._student, best.prompts if best else self._first), result)

    def _evidence(self, selected: str) -> Evidence:
        """What the run found."""
        before, later = self._stages[:1], self._stages[1:]
        return replace(
            self._session.evidence(selected=selected, threshold=self._recipe.threshold),
            before=before[0].rollouts if before else (),
            stages={stage.name: stage.rollouts for stage in later},
            unaided=self._unaided,
            tried=self._rewritten,
            instructions=True,
        )

    def _best(self) -> PromptStage | None:
        return self._stages[select_best([stage.rollouts for stage in self._stages])] if self._stages else None

    def _wrong(self, rollouts: Sequence[Rollout]) -> list[Mistake]:
        examples, threshold = self._session.train.examples, self._recipe.threshold
        return [make_mistake(n, examples[n], each) for n, each in enumerate(rollouts) if each.lost(threshold)]

    def _runs_of(self, prompt: str, examples: Examples, stage: str) -> list[Rollout]:
        """Runs of the program with another prompt at this round's place."""
        split = Evaluator(self._session.actor, "train", examples, self._bus)
        return self._run({**self._prompts, self._place: prompt}, split, str(Stage(f"round{self._number}", stage)))

    def _run(self, prompts: Mapping[str, str], split: Evaluator, stage: str) -> list[Rollout]:
        return split.for_program(with_instructions(self._student, prompts)).score_as_it_is(stage)

    def _fitting(self, text: str) -> str:
        """A prompt within the budget of tokens."""
        most, known = self._recipe.prompt_tokens, self._impact_of[self._place]
        return text if count_tokens(text) <= most else prune_prompt(self._sentences(text), known, most)

    def _sentences(self, text: str) -> list[str]:
        return split_sentences(text, self._recipe.language)

    def _step(self) -> str:
        """What the model reads and writes at this round's place."""
        signature = cast("Any", dict(self._student.named_predictors())[self._place]).signature
        reads, writes = (_fields(each) for each in (signature.input_fields, signature.output_fields))
        others = [name for name in self._first if name != self._place]
        within = f" It is the step {self._place!r} of a program; the others are {', '.join(others)}." if others else ""
        return f"From {reads} it writes {writes}.{within}"

    def _rng(self, what: str) -> random.Random:
        return random.Random(f"{self._settings.seed}-{what}-{self._number}")

    def _enter(self, what: str) -> None:
        self._bus.emit(PhaseStarted(f"round {self._number}, {what}"))

    def _say(self, found: PromptRound) -> None:
        before, after = found.train
        if found.chosen is None:
            text = "no candidate is new"
        elif found.accepted:
            text = "accepted" if after is None else f"accepted, {before:.3f} to {after:.3f} on the training set"
        else:
            text = f"refused, {before:.3f} to {after:.3f} on the training set"
        self._bus.say(f"Round {found.number} ({found.predictor}): {text}.")

    def _learned(self) -> dict[str, float | None]:
        """What the last round found on the training set."""
        if not self._rounds:
            return {}
        last = self._rounds[-1]
        tried = sum(each.score is not None for each in last.candidates)
        return {"train/score": last.train[1], "train/mistakes": len(last.mistakes), "train/candidates": tried}

    def _spent(self) -> RunUsage:
        return self._session.usage

    def _save(self) -> None:
        """What a person looks for in the folder, and the next session's clock."""
        self._session.folder.write("spent.json", self._spent().content)
        rounds = [asdict(each) | {"diff": each.diff} for each in self._rounds]
        scores = {each.name: each.score for each in self._stages}
        self._session.folder.write("prompts.json", {"scores": scores, "rounds": rounds, "briefs": self._briefs})


def _fields(fields: Mapping[str, Any]) -> str:
    """The fields of a signature: name, type, and what their author says of them."""
    said: list[str] = []
    for name, each in fields.items():
        own = each.json_schema_extra.get("desc", "")
        about = "" if own in ("", f"${{{name}}}") else f": {own}"
        said.append(f"`{name}` ({get_annotation_name(each.annotation)}{about})")
    return ", ".join(said)


def _paired(before: Sequence[Rollout], after: Sequence[Rollout]) -> tuple[float, float]:
    """Mean scores over the examples that have one both times."""
    both = [(a, b) for a, b in zip(before, after, strict=True) if a.reward is not None and b.reward is not None]
    return mean_score([a for a, _ in both]), mean_score([b for _, b in both])
