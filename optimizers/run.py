"""One compile's working state: what it was given, what it has seen, and the best stage so far.

Each method is one arrow of the method (`sgt.py` is their order). Deciding is left to the pure rooms; this one holds
the store, the folder and the clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import cast

import dspy

from optimizers.evaluation import Evaluator, Scored, mean_score
from optimizers.exploration import Credit, Explorer, Setting, explorer
from optimizers.fingerprints import fingerprint, scope_of
from optimizers.folder import RunFolder
from optimizers.gating import fitted, judged
from optimizers.memory import MARK
from optimizers.pairs import preference_pairs, why_no_pairs
from optimizers.processes import Team
from optimizers.progress import Reporter
from optimizers.recipe import Recipe
from optimizers.records import Checkpoint, PreferencePair, Rollout, SFTExample
from optimizers.result import SGTResult, Spent, StageResult, selected_program
from optimizers.reward import Scorer, check_metric
from optimizers.rollouts import Actor
from optimizers.runners import Runner
from optimizers.selection import balance_kinds
from optimizers.spending import Spending
from optimizers.store import RolloutStore
from optimizers.together import Together, train_as_told
from optimizers.training import Fit, Row, Trainer
from optimizers.validation import check_program, check_splits, hold_out
from sgt_modules.engine import LocalEngine
from sgt_modules.errors import SetupError
from sgt_modules.gate import Gate
from sgt_modules.generator import SupplementGenerator
from sgt_modules.predictor import Scope
from sgt_modules.prompts import Template
from sgt_modules.wrapping import supplement, supplemented


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
    credit: Credit = "isolate"
    only: Sequence[str] | None = None
    scope: Scope | None = None
    template: Template | None = None
    max_run_seconds: float | None = None

    def wrap(self, student: dspy.Module) -> dspy.Module:
        """A copy of the student whose predictors read supplements."""
        return supplement(student, generator=self.generator, only=self.only, scope=self.scope, template=self.template)

    def trainer_or_default(self) -> Trainer:
        """The trainer; by default TRL on the generator's own base model, imported here, as it brings torch.

        Raises `SetupError` for a generator whose model is behind a server.
        """
        if self.trainer is not None:
            return self.trainer
        engine = self.generator.engine
        if not isinstance(engine, LocalEngine):
            raise SetupError(
                f"Expected a trainer for {self.generator.name}, whose weights are behind a server, got none. Pass "
                "trainer=TRLTrainer(base) with the hub id or folder of the model that is served."
            )
        from optimizers.trl_trainer import TRLTrainer

        return TRLTrainer(engine.weights.folders[0], trust_remote_code=engine.trust_remote_code)

    def check_trainable(self) -> None:
        """Raise `SetupError` unless something trains the generator, and it can be had with what was trained."""
        self.generator.check_trainable()
        if not self.generator.in_process:
            self.trainer_or_default()


class Run:
    """The state of one compile. Made by `Run.open`, which validates everything before the first paid call."""

    def __init__(
        self,
        settings: RunSettings,
        student: dspy.Module,
        folder: RunFolder,
        train: Evaluator,
        validation: Evaluator,
        *,
        team: Team,
    ) -> None:
        self._settings, self._recipe, self._folder = settings, settings.recipe, folder
        self._student, self._train, self._validation = student, train, validation
        self._actor, self._reporter = train.actor, train.reporter
        self._trainer = Together(settings.trainer_or_default(), team)
        self._stages: list[StageResult] = []
        self._scored: dict[str, Scored] = {}
        self._tried: list[Rollout] = []
        self._notes: list[str] = []
        self._spent_before = Spent.read(folder.read("spent.json") or {})
        self._spending = Spending()
        self._setting = Setting(settings.recipe, train, train.reporter, self._spending, settings.seed)
        self._explorer: Explorer = explorer("isolate", self._setting)
        self._stage_began = time.perf_counter()
        MARK.restart()

    @classmethod
    def open(
        cls,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None,
        settings: RunSettings,
        reporter: Reporter,
        runner: Runner,
        team: Team,
    ) -> Run:
        """Check everything that was passed in, make the folder, and wrap a copy of the student. The `team` trains.

        Raises:
            SetupError: something passed in cannot work.
        """
        if valset is None:
            trainset, valset = hold_out(trainset, rng=random.Random(f"{settings.seed}-validation"))
        check_splits(trainset, valset)
        check_program(student, trainset)
        runner.check(student, Scorer(settings.metric), [*trainset, *valset])
        own_forward = not type(student).__module__.startswith("dspy.")
        check_metric(settings.metric, trainset[0], output_fields(student), more_fields=own_forward)
        settings.check_trainable()
        settings.generator.check()
        wrapped = settings.wrap(student)
        folder = RunFolder.create(settings.log_dir, _recorded(settings, trainset, valset))
        actor = Actor(
            wrapped,
            Scorer(settings.metric),
            RolloutStore(folder.store),
            scope=scope_of(wrapped, settings.metric),
            num_threads=settings.num_threads,
            max_errors=settings.max_errors,
            runner=runner,
            max_run_seconds=settings.max_run_seconds,
        )
        splits = (Evaluator(actor, name, split, reporter) for name, split in (("train", trainset), ("val", valset)))
        return cls(settings, student, folder, *splits, team=team)

    def validate_student(self) -> None:
        """Score the program without supplements, and as it came in where it reads some already."""
        with self._spending.timed("acting"):
            self._enter("none", Scored(self._validation.without(), []), None)
            if supplemented(self._student):
                runs = self._validation.live("student", self._student)
                self._enter("student", Scored([run.rollout for run in runs], [run.calls for run in runs]), None)

    def validate(self, stage: str, checkpoint: Checkpoint) -> None:
        """Score a stage on the validation set."""
        with self._spending.timed("acting"):
            scored = self._validation.score(stage, self._generator_at(checkpoint))
        self._enter(stage, scored, checkpoint)

    def warm_start(self) -> list[Rollout]:
        """Nine prompts a query, the actor run on each sample."""
        with self._spending.timed("acting"):
            self._train.without()
        self._explorer = explorer(self._settings.credit, self._setting)
        self._tried = self._explorer.warm_start(self._settings.generator)
        return self._tried

    def explore(self, round_: int, checkpoint: Checkpoint) -> list[Rollout]:
        """A round's pool: in the first, of many kinds; later, samples of the current model as it would write."""
        generator = self._generator_at(checkpoint)
        if round_ == 1:
            rollouts = self._explorer.first_pool(self._tried, generator)
        else:
            rollouts = self._explorer.direct(round_, generator)
        self._tried = [*self._tried, *rollouts]
        return rollouts

    def sft_rows(self, rollouts: Sequence[Rollout]) -> list[SFTExample]:
        """What worked, balanced by kind; says so when nothing did."""
        recipe = self._recipe
        rows = balance_kinds(
            rollouts, max_per_kind=recipe.max_per_kind, threshold=recipe.threshold, rng=self._setting.rng("selection")
        )
        if not rows:
            self._note(f"SFT learned nothing. {why_no_pairs(rollouts, threshold=recipe.threshold)}")
        return rows

    def pairs(self, round_: int, rollouts: Sequence[Rollout]) -> list[PreferencePair]:
        """Winners against losers of the same query; says so when there are none."""
        recipe = self._recipe
        pairs = preference_pairs(
            rollouts,
            cap=recipe.pair_cap,
            threshold=recipe.threshold,
            margin=recipe.margin,
            length_preference=recipe.length_preference,
            tried=self._tried,
            rng=self._setting.rng(f"pairs-{round_}"),
        )
        if not pairs:
            reason = why_no_pairs(rollouts, threshold=recipe.threshold)
            self._note(f"Round {round_} learned nothing, so the rounds end here. {reason}")
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
        with self._spending.timed("training"), self._reporter.stage(f"{stage}: training", 1) as view:
            checkpoint = fit(
                rows,
                start=start,
                output=self._folder.checkpoint(stage),
                seed=self._settings.seed,
                on_step=lambda step, total, _loss: view.move_to(step, total),
            )
        for note in checkpoint.notes:
            self._note(f"{stage}: {note}")
        self.validate(stage, checkpoint)
        return checkpoint

    def _note(self, text: str) -> None:
        """Say something that a person should know, and keep it for the result."""
        self._notes.append(text)
        self._reporter.say(text)

    def stalled(self) -> bool:
        """Whether validation has not risen for `patience` rounds."""
        patience, scores = self._recipe.patience, [stage.score for stage in self._stages]
        return (
            patience is not None and len(scores) > patience + 1 and max(scores[-patience:]) <= max(scores[:-patience])
        )

    def gate(self) -> None:
        """The best stage behind a gate, as a stage of its own, where the recipe wants one."""
        best = self._best()
        if not self._recipe.gate or best.checkpoint is None:
            return
        texts = [
            *(rollout.query.prompt for rollout in self._tried),
            *(each.supplement.render() for each in self._tried),
        ]
        known = Gate.of(sorted(set(texts)))
        gate = fitted(known, judged(known, self._scored[best.name], self._validation.unaided))
        with self._spending.timed("acting"):
            scored = self._validation.score("gated", self._generator_at(best.checkpoint), gate)
        self._enter("gated", scored, best.checkpoint, gate)

    def finish(self) -> dspy.Module:
        """The best stage's program: a new one, with `detailed_results`."""
        best = self._best()
        result = SGTResult(
            stages=tuple(self._stages),
            selected=best.name,
            spent=self._spent(),
            notes=tuple(self._notes),
            log_dir=self._folder.path,
            generator=self._settings.generator,
        )
        return selected_program(result, self._student, self._actor.program)

    def _best(self) -> StageResult:
        """The stage of the highest score: the gated one where it is among them, else the earliest."""
        return max(self._stages, key=lambda stage: (stage.score, stage.gate is not None))

    def _enter(self, name: str, scored: Scored, checkpoint: Checkpoint | None, gate: Gate | None = None) -> None:
        """Note a finished stage, and what was spent until now."""
        now = time.perf_counter()
        score, rollouts, spent = mean_score(scored.rollouts), scored.rollouts, self._spent()
        seconds, gated = now - self._stage_began, scored.gated
        stage = StageResult(name, score, rollouts, checkpoint, seconds, gate, gated, spent, MARK.peak())
        self._stages.append(stage)
        self._scored[name] = scored
        self._stage_began = now
        MARK.restart()
        self._folder.write("spent.json", asdict(spent))

    def _generator_at(self, checkpoint: Checkpoint) -> SupplementGenerator:
        return self._settings.generator.with_checkpoint(checkpoint.path)

    def _spent(self) -> Spent:
        paid = self._actor.meter
        actor = Spent(actor_calls=paid.calls, actor_in=paid.tokens_in, actor_out=paid.tokens_out)
        return self._spent_before + self._spending.so_far + actor


def output_fields(program: dspy.Module) -> list[str]:
    """The names of every output field of the program's predictors, each once."""
    signatures = [cast("type[dspy.Signature]", predictor.signature) for predictor in program.predictors()]
    return list(dict.fromkeys(name for signature in signatures for name in signature.output_fields))


def follow(student: dspy.Module, settings: RunSettings, team: Team) -> dspy.Module:
    """A compile in a process that only trains, whenever the main one tells it to: it returns the same program.

    Raises what the main process fails with.
    """
    result = cast("SGTResult", train_as_told(settings.trainer_or_default(), team))
    return selected_program(replace(result, generator=settings.generator), student, settings.wrap(student))


def _recorded(
    settings: RunSettings, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example]
) -> dict[str, object]:
    """What `run.json` remembers of a run's settings: enough to tell whether a folder may be taken up again."""
    recipe = {each.name: getattr(settings.recipe, each.name) for each in fields(Recipe)}
    recipe["kinds"] = {name: kind.instruction for name, kind in settings.recipe.kinds.items()}
    return {
        "recipe": recipe,
        "seed": settings.seed,
        "generator": settings.generator.identity,
        "credit": settings.credit,
        "only": None if settings.only is None else sorted(settings.only),
        "scope": settings.scope,
        "template": None if settings.template is None else asdict(settings.template),
        "training": str(getattr(settings.trainer, "settings", type(settings.trainer).__qualname__)),
        "train": fingerprint(trainset),
        "val": fingerprint(valset),
    }
