"""One compile's working state: what it was given, what it has seen, and the best stage so far.

Each method is one arrow of the method (`sgt.py` is their order). Deciding is left to the pure rooms; this one holds
the store, the folder and the clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, cast

import dspy

from optimizers import sources
from optimizers.evaluation import Evaluator, mean_score
from optimizers.fingerprints import fingerprint, scope_of
from optimizers.folder import RunFolder
from optimizers.pairs import preference_pairs, why_no_pairs
from optimizers.progress import Reporter
from optimizers.recipe import Recipe
from optimizers.records import Candidate, Checkpoint, PreferencePair, Query, Rollout, SFTExample
from optimizers.result import SGTResult, Spent, StageResult, compiled
from optimizers.reward import Scorer, check_metric
from optimizers.rollouts import Actor
from optimizers.selection import balance_kinds
from optimizers.store import RolloutStore
from optimizers.training import Fit, Row, Trainer
from optimizers.validation import check_program, check_splits, hold_out
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import Kind
from sgt_modules.prompts import exploring
from sgt_modules.wrapping import supplement, with_generator

SAMPLED_AT_ONCE = 1024
"""Prompts handed to the generator together: enough to fill its batches, few enough to show progress."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run is given by its teleprompter; see `SGTTeleprompter`."""

    metric: Callable[..., object]
    generator: SupplementGenerator
    recipe: Recipe
    trainer: Trainer | None
    num_threads: int | None
    max_errors: int
    seed: int
    log_dir: Path | None


class Run:
    """The state of one compile. Made by `Run.open`, which validates everything before the first paid call."""

    def __init__(
        self, settings: RunSettings, student: dspy.Module, folder: RunFolder, train: Evaluator, validation: Evaluator
    ) -> None:
        self._settings, self._recipe, self._folder = settings, settings.recipe, folder
        self._student, self._train, self._validation = student, train, validation
        self._actor, self._reporter = train.actor, train.reporter
        self._trainer = settings.trainer or default_trainer(settings.generator)
        self._stages: list[StageResult] = []
        self._warm: list[Rollout] = []
        self._notes: list[str] = []
        self._spent_before = Spent.read(folder.read("spent.json") or {})
        self._spent_now = Spent()
        self._stage_began = time.perf_counter()

    @classmethod
    def open(
        cls,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None,
        settings: RunSettings,
        reporter: Reporter,
    ) -> Run:
        """Check everything that was passed in, make the folder, and wrap a copy of the student.

        Raises:
            SetupError: something passed in cannot work.
        """
        if valset is None:
            trainset, valset = hold_out(trainset, rng=random.Random(f"{settings.seed}-validation"))
        check_splits(trainset, valset)
        check_program(student, trainset)
        check_metric(settings.metric, trainset[0], output_fields(student))
        settings.generator.check()
        wrapped = supplement(student, generator=settings.generator)
        folder = RunFolder.create(settings.log_dir, _recorded(settings, trainset, valset))
        actor = Actor(
            wrapped,
            Scorer(settings.metric),
            RolloutStore(folder.store),
            scope=scope_of(wrapped, settings.metric),
            num_threads=settings.num_threads,
            max_errors=settings.max_errors,
        )
        splits = (Evaluator(actor, name, split, reporter) for name, split in (("train", trainset), ("val", valset)))
        return cls(settings, student, folder, *splits)

    def rng(self, purpose: str) -> random.Random:
        """The run's own randomness for one purpose; never the global one."""
        return random.Random(f"{self._settings.seed}-{purpose}")

    def validate(self, stage: str, checkpoint: Checkpoint | None) -> None:
        """Score a stage on the validation set; without a checkpoint, the program as it came in."""
        with self._timed("acting"):
            if checkpoint is None:
                rollouts = self._validation.without()
            else:
                rollouts = self._validation.score(stage, self._settings.generator.with_checkpoint(checkpoint.path))
        now = time.perf_counter()
        self._stages.append(StageResult(stage, mean_score(rollouts), rollouts, checkpoint, now - self._stage_began))
        self._stage_began = now
        self._folder.write("spent.json", asdict(self._spent()))

    def warm_start(self) -> list[Rollout]:
        """Nine prompts a query, the actor run on each sample."""
        with self._timed("acting"):
            self._train.without()
        wishes = sources.warm_start(
            self._train.queries,
            prompt_for=_prompt_for,
            rng=self.rng("warm"),
            kinds=self._recipe.kinds,
            samples=self._recipe.warm_samples,
        )
        self._warm = self._explore("warm", wishes, self._settings.generator)
        return self._warm

    def first_pool(self, checkpoint: Checkpoint) -> list[Rollout]:
        """Round 1: predefined kinds, the generator's own new kinds, and concatenations of two winners."""
        recipe, queries = self._recipe, self._train.queries
        names = sources.ood_names(self._warm, kinds=recipe.kinds, count=recipe.ood_kinds)
        rng = self.rng("round-1")
        samples = recipe.pool_samples
        wishes = [
            *sources.predefined(queries, prompt_for=_prompt_for, rng=rng, kinds=recipe.kinds, samples=samples),
            *sources.ood(queries, names, prompt_for=_prompt_for, rng=rng, samples=samples),
        ]
        joins = sources.concat(self._warm, rng=rng, per_query=recipe.concat, threshold=recipe.threshold)
        return self._explore("round 1", wishes, self._generator_at(checkpoint), joins)

    def direct(self, round_: int, checkpoint: Checkpoint) -> list[Rollout]:
        """Rounds 2 and later: samples of the current model for the prompt that names no kind."""
        wishes = sources.direct(
            self._train.queries, rng=self.rng(f"round-{round_}"), samples=self._recipe.direct_samples
        )
        return self._explore(f"round {round_}", wishes, self._generator_at(checkpoint))

    def sft_rows(self, rollouts: Sequence[Rollout]) -> list[SFTExample]:
        """What worked, balanced by kind; says so when nothing did."""
        recipe = self._recipe
        rows = balance_kinds(
            rollouts, max_per_kind=recipe.max_per_kind, threshold=recipe.threshold, rng=self.rng("selection")
        )
        if not rows:
            self._notes.append(f"SFT learned nothing. {why_no_pairs(rollouts, threshold=recipe.threshold)}")
        return rows

    def pairs(self, round_: int, rollouts: Sequence[Rollout]) -> list[PreferencePair]:
        """Winners against losers of the same query; says so when there are none."""
        recipe = self._recipe
        pairs = preference_pairs(
            rollouts,
            cap=recipe.pair_cap,
            threshold=recipe.threshold,
            margin=recipe.margin,
            rng=self.rng(f"pairs-{round_}"),
        )
        if not pairs:
            reason = why_no_pairs(rollouts, threshold=recipe.threshold)
            self._notes.append(f"Round {round_} learned nothing, so the rounds end here. {reason}")
        return pairs

    def sft(self, rows: Sequence[SFTExample]) -> Checkpoint | None:
        """Supervised fine-tuning, scored on validation; without rows there is no stage."""
        return self._trained("sft", rows, None, self._trainer.sft)

    def dpo(self, round_: int, pairs: Sequence[PreferencePair], start: Checkpoint) -> Checkpoint | None:
        """One round of DPO, scored on validation; without pairs there is no stage."""
        return self._trained(f"dpo{round_}", pairs, start, self._trainer.dpo)

    def _trained(self, stage: str, rows: Sequence[Row], start: Checkpoint | None, fit: Fit[Row]) -> Checkpoint | None:
        if not rows:
            return None
        with self._timed("training"), self._reporter.stage(f"{stage}: training", 1) as view:
            checkpoint = fit(
                rows,
                start=start,
                output=self._folder.checkpoint(stage),
                seed=self._settings.seed,
                on_step=lambda step, total, _loss: view.move_to(step, total),
            )
        self.validate(stage, checkpoint)
        return checkpoint

    def stalled(self) -> bool:
        """Whether validation has not risen for `patience` rounds."""
        patience, scores = self._recipe.patience, [stage.score for stage in self._stages]
        return (
            patience is not None and len(scores) > patience + 1 and max(scores[-patience:]) <= max(scores[:-patience])
        )

    def finish(self) -> dspy.Module:
        """The best stage's program, the earlier on a tie: a new one, with `detailed_results`."""
        best = max(self._stages, key=lambda stage: stage.score)
        result = SGTResult(
            stages=tuple(self._stages),
            selected=best.name,
            spent=self._spent(),
            notes=tuple(self._notes),
            log_dir=self._folder.path,
            generator=self._settings.generator,
        )
        for note in self._notes:
            self._reporter.say(note)
        if best.checkpoint is None:
            program = self._student.deepcopy()
        else:
            program = with_generator(self._actor.program, self._generator_at(best.checkpoint))
        return compiled(program, result)

    def _explore(
        self,
        stage: str,
        wishes: Sequence[sources.Wish],
        generator: SupplementGenerator,
        joins: Sequence[Candidate] = (),
    ) -> list[Rollout]:
        """Sample the wishes, then run the actor on each distinct supplement."""
        with self._timed("sampling"), self._reporter.stage(f"{stage}: sampling", len(wishes)) as view:
            replies = []
            for start in range(0, len(wishes), SAMPLED_AT_ONCE):
                asked = wishes[start : start + SAMPLED_AT_ONCE]
                replies += generator.sample(
                    [wish.prompt for wish in asked],
                    seeds=[wish.seed for wish in asked],
                    temperature=self._recipe.temperature,
                )
                view.move_to(len(replies), len(wishes))
        self._spent_now += Spent(
            generator_calls=len(replies),
            generator_in=sum(reply.prompt_tokens for reply in replies),
            generator_out=sum(reply.tokens for reply in replies),
        )
        pool = sources.distinct([*sources.candidates(wishes, replies), *joins])
        with self._timed("acting"), self._reporter.stage(f"{stage}: acting", len(pool)) as view:
            return self._actor.run(pool, self._train.examples, stage=stage, on_done=view.advance)

    def _generator_at(self, checkpoint: Checkpoint) -> SupplementGenerator:
        return self._settings.generator.with_checkpoint(checkpoint.path)

    def _spent(self) -> Spent:
        paid = self._actor.meter
        actor = Spent(actor_calls=paid.calls, actor_in=paid.tokens_in, actor_out=paid.tokens_out)
        return self._spent_before + self._spent_now + actor

    @contextmanager
    def _timed(self, what: Literal["sampling", "acting", "training"]) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent_now = replace(
                self._spent_now, **{what: getattr(self._spent_now, what) + time.perf_counter() - began}
            )


def output_fields(program: dspy.Module) -> list[str]:
    """The names of every output field of the program's predictors, each once."""
    signatures = [cast("type[dspy.Signature]", predictor.signature) for predictor in program.predictors()]
    return list(dict.fromkeys(name for signature in signatures for name in signature.output_fields))


def default_trainer(generator: SupplementGenerator) -> Trainer:
    """TRL on the generator's own base model; imported here, as it brings torch."""
    from optimizers.trl_trainer import TRLTrainer

    return TRLTrainer(generator.engine.model)


def _prompt_for(query: Query, kind: Kind | str | None) -> str:
    return query.prompt if kind is None else exploring(query.prompt, kind)


def _recorded(
    settings: RunSettings, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example]
) -> dict[str, object]:
    """What `run.json` remembers of a run's settings: enough to tell whether a folder may be taken up again."""
    recipe = {each.name: getattr(settings.recipe, each.name) for each in fields(Recipe)}
    recipe["kinds"] = {name: kind.instruction for name, kind in settings.recipe.kinds.items()}
    return {
        "recipe": recipe,
        "seed": settings.seed,
        "generator": settings.generator.name,
        "training": str(getattr(settings.trainer, "settings", type(settings.trainer).__qualname__)),
        "train": fingerprint(trainset),
        "val": fingerprint(valset),
    }
