"""The steps of SGT, each a method; `teleprompter.py` is their order, and a `History` holds what they find.

Pure modules decide (`candidates`, `training_rows`, `preference_pairs`, `gating`); this one holds the store, the folder,
the trainer and the clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Self, cast

import dspy

from optimizers.core.concurrency import in_background
from optimizers.core.cost import Pricing, explain_costs
from optimizers.core.estimate import Probe
from optimizers.core.events import LossLogged, Note, PhaseStarted, StageScored
from optimizers.core.evidence import Evidence
from optimizers.core.peak_memory import MARK, Peak
from optimizers.core.records import Checkpoint, PreferencePair, Rollout, ScoredSample, SFTExample
from optimizers.core.result import SGTResult, StageResult, selected_program
from optimizers.core.run_folder import COSTS_FILE
from optimizers.core.stages import ADAPTER_STAGE, AS_IT_CAME, SFT, STUDENT, Stage, name_rows, round_stage
from optimizers.core.usage import RunUsage
from optimizers.core.verdict import explain_unrewarded, write_verdict
from optimizers.rollouts.evaluation import Evaluator, Scored, mean_score
from optimizers.rollouts.several_actors import scores_by_actor, usage_by_actor
from optimizers.run_options import Examples, check_inputs
from optimizers.session import Session
from optimizers.sgt.by_actor import keep_actors
from optimizers.sgt.costs import token_counter
from optimizers.sgt.deferred import DeferredValidation, may_defer
from optimizers.sgt.exploration import ExplorationContext, Explorer, explorer
from optimizers.sgt.gating import fit_gate, gate_examples
from optimizers.sgt.going_on import compare_with_start, describe_start
from optimizers.sgt.history import History, ValidatedStage
from optimizers.sgt.input_notes import explain_shortened, explain_unscored
from optimizers.sgt.logged import Log, read_log
from optimizers.sgt.policy_sampling import explore_policy
from optimizers.sgt.probing import measure_probe
from optimizers.sgt.settings import SGTSettings
from optimizers.sgt.training_rows import make_policy_rows, make_round_pairs, make_sft_rows
from optimizers.training.distributed import DistributedTrainer, repeat_calls
from optimizers.training.finished_stages import FinishedStages
from optimizers.training.processes import Team
from optimizers.training.trainer import Fit, TrainingRow
from sgt_modules.gate import Gate
from sgt_modules.generator import SupplementGenerator
from sgt_modules.wrapping import list_plain_parts


class Run:
    """The resources of one compile. Made by `Run.opened`, which checks every input before the first paid call."""

    def __init__(self, settings: SGTSettings, student: dspy.Module, session: Session, *, team: Team, log: Log) -> None:
        self._settings, self._recipe, self._session, self._bus = settings, settings.recipe, session, session.bus
        self._student, self._folder = student, session.folder
        self._train, self._validation = session.train, session.validation
        self._trainer = DistributedTrainer(settings.trainer_or_default(), team)
        self._start = settings.start
        self._finished = FinishedStages(session.folder)
        self._alone = team.size == 1
        self._clock = session.clock
        self._priced = priced = Pricing(settings.recipe.cost, token_counter(settings.generator))
        self._exploration = ExplorationContext(
            settings.recipe, session.train, session.bus, self._clock, settings.options.seed, log, priced
        )
        self._explorer: Explorer = explorer("isolate", self._exploration)
        MARK.restart()

    @classmethod
    @contextmanager
    def opened(
        cls,
        student: dspy.Module,
        trainset: Examples,
        valset: Examples | None,
        settings: SGTSettings,
        *,
        team: Team,
        probe: int = 0,
    ) -> Iterator[Self]:
        """Check everything that was passed in, then take the folder. The `team` trains.

        Inside, the first Ctrl-C ends the run in good order.

        Raises:
            SetupError: something passed in cannot work, or another run works in the folder.
        """
        inputs = check_inputs(student, trainset, valset, settings, probe=probe)
        log = read_log(settings.logged, inputs.trainset, inputs.valset, menu=settings.recipe.menu)
        with Session.opened(inputs, settings, probing=bool(probe)) as session:
            for note in list_plain_parts(student):
                session.bus.emit(Note(note))
            if start := settings.start:
                session.bus.emit(Note(describe_start(start, settings.trainer_or_default())))
            yield cls(settings, student, session, team=team, log=log)

    def within_budget(self) -> AbstractContextManager[None]:
        """Where a budget is used up inside, the rest is left out; at Ctrl-C, `KeyboardInterrupt` once all is saved."""
        return self._session.within_budget(lambda: self._folder.write("spent.json", self._spent().content))

    def probe(self, examples: int) -> Probe:
        """Measure calls, tokens and seconds on a few training examples: run them, try supplements, train on rows."""
        self._bus.emit(PhaseStarted("the probe"))
        few = Evaluator(self._session.actor, "train", self._train.examples[:examples], self._bus)
        few.score_unaided()
        settings, requests = self._settings, self._exploration.warm_requests(few.queries)
        generator, trainer = settings.generator, settings.trainer_or_default()
        return measure_probe(
            few, requests, generator, self._recipe, trainer, sft_epochs=settings.epochs[0], seed=settings.options.seed
        )

    def validate_student(self) -> list[ValidatedStage]:
        """Score the program without supplements, as it came in if it reads some already, and with the generator as it
        came if that was trained before.
        """
        self._bus.emit(PhaseStarted("the first validation, of the program as it came in"))
        with self._clock.measure("acting"):
            stages = [self._enter("none", Scored(self._validation.score_unaided(), []))]
            came = self._settings.list_stages_as_they_came(self._student)
            if STUDENT in came:
                runs = self._validation.run_live(STUDENT, self._student)
                scored = Scored([run.rollout for run in runs], [run.calls for run in runs])
                stages.append(self._enter(STUDENT, scored, since=stages[-1]))
            if ADAPTER_STAGE in came:
                scored = self._validation.score(ADAPTER_STAGE, self._settings.generator)
                stages.append(self._enter(ADAPTER_STAGE, scored, self._start, since=stages[-1]))
        return stages

    def validate(self, checkpoint: Checkpoint | None, history: History) -> None:
        """Score a trained stage on the validation set; nothing without a checkpoint.

        Where that may wait for the next training, only its supplements are written now: see `answering`.
        """
        if checkpoint is None:
            return
        stage, kind = checkpoint.stage, name_rows(checkpoint.stage)
        self._bus.emit(PhaseStarted(f"the validation of {stage}"))
        figures = {"train/score": mean_score(history.explored[-1]), f"train/{kind}": len(history.rows[stage])}
        generator = self._generator_at(checkpoint)
        with self._clock.measure("acting"):
            if self._alone and may_defer(self._recipe, self._validation, self._settings.options.limits):
                answer = self._validation.write(stage, generator)
                history.deferred = DeferredValidation(checkpoint, answer, figures, self._spent(), MARK.peak())
                MARK.restart()
                return
            scored = self._validation.score(stage, generator)
        history.stages.append(self._enter(stage, scored, checkpoint, since=history.stages[-1], figures=figures))

    @contextmanager
    def answering(self, history: History) -> Iterator[None]:
        """Finish the validation that waits, if any, while the next stage trains inside."""
        deferred, history.deferred = history.deferred, None
        if deferred is None:
            yield
            return
        scored: list[Scored] = []

        def answer() -> None:
            with self._clock.measure("acting"):
                scored.append(deferred.answer())

        before, stage = self._spent(), deferred.checkpoint
        try:
            with in_background(answer):
                yield
        finally:  # what was answered counts, also where the training failed
            for found in scored:
                used = deferred.usage_after(before, self._spent())
                since, figures, memory = history.stages[-1], deferred.figures, deferred.memory
                entered = self._enter(stage.stage, found, stage, since=since, figures=figures, used=used, memory=memory)
                history.stages.append(entered)

    def answer(self, history: History) -> None:
        """Finish the validation that waits, if any, with no training going on."""
        with self.answering(history):
            pass

    def warm_start(self) -> list[Rollout]:
        """Explore with nine prompts a query: sample each, run the actor on each sample."""
        self._bus.emit(PhaseStarted("the warm start"))
        with self._clock.measure("acting"):
            self._train.score_unaided()
        generator, queries = self._settings.generator, [*self._train.queries, *self._validation.queries]
        for said in filter(None, (explain_shortened(queries, generator), explain_unscored(generator))):
            self._bus.emit(Note(said))
        self._take_in_log()
        self._explorer = explorer(self._settings.credit, self._exploration)
        return self._priced(self._explorer.warm_start(generator))

    def _take_in_log(self) -> None:
        """Put what the log knows into the store, so that nothing of it is paid for; say how much that is."""
        log, note = self._exploration.log, self._exploration.log.note
        if log.outcomes and not self._train.once_an_example:
            self._exploration = replace(self._exploration, log=Log())
            note = (
                "The logged outcomes are left out: the program asks for several supplements in a run, and a row does "
                "not say which one it is of."
            )
        self._train.actor.add_known(self._exploration.log.rollouts(self._train.queries, "warm"))
        if note:
            self._bus.emit(Note(note))

    def explore(self, round_: int, tried: Sequence[Rollout], checkpoint: Checkpoint | None) -> list[Rollout]:
        """Explore a round's pool: in round 1 of many kinds, later samples of the current model as it would write.

        Rounds of GRPO take such samples from the first one on.
        """
        self._bus.emit(PhaseStarted(f"round {round_}"))
        generator = self._settings.generator if checkpoint is None else self._generator_at(checkpoint)
        if self._recipe.algorithm == "grpo":
            return self._priced(explore_policy(self._exploration, round_, generator))
        if round_ == 1:
            return self._priced(self._explorer.first_pool(tried, generator))
        return self._priced(self._explorer.direct(round_, generator, tried))

    def select_rows(self, rollouts: Sequence[Rollout]) -> list[SFTExample]:
        """Select supplements that worked, balanced by kind; a note says so if there are none."""
        return self._noted(*make_sft_rows(self._recipe, rollouts, self._exploration.rng("selection")))

    def make_pairs(self, round_: int, rollouts: Sequence[Rollout], tried: Sequence[Rollout]) -> list[PreferencePair]:
        """Pair winners with losers of the same query; a note says so if there are none."""
        rng = self._exploration.rng(f"pairs-{round_}")
        return self._noted(*make_round_pairs(self._recipe, round_, rollouts, tried, rng))

    def make_groups(self, round_: int, rollouts: Sequence[Rollout]) -> list[ScoredSample]:
        """Make GRPO's rows of the round's samples; a note says so if no group has different rewards."""
        return self._noted(*make_policy_rows(self._recipe, round_, rollouts))

    def _noted(self, rows: list[TrainingRow], said: str) -> list[TrainingRow]:
        if said:
            self._bus.emit(Note(said))
        return rows

    def train_sft(self, rows: Sequence[SFTExample]) -> Checkpoint | None:
        """Fine-tune the generator, as it came, on supplements that worked; None without rows."""
        return self._train_stage(SFT, rows, self._start, self._trainer.sft)

    def train_preferences(
        self, round_: int, pairs: Sequence[PreferencePair], start: Checkpoint | None
    ) -> Checkpoint | None:
        """Train one round of DPO, from `start` or else from the generator as it came; None without pairs."""
        return self._train_stage(round_stage(round_), pairs, start or self._start, self._trainer.dpo)

    def train_policy(self, round_: int, rows: Sequence[ScoredSample], start: Checkpoint | None) -> Checkpoint | None:
        """Train one round of GRPO, from `start` or else from the generator as it came; None without rows."""
        return self._train_stage(round_stage(round_, "grpo"), rows, start or self._start, self._trainer.grpo)

    def _train_stage(
        self, stage: str, rows: Sequence[TrainingRow], start: Checkpoint | None, fit: Fit[TrainingRow]
    ) -> Checkpoint | None:
        """Train a stage's weights, unless the folder has them; None without rows."""
        if not rows:
            return None
        self._bus.emit(PhaseStarted(f"the training of {stage}"))
        self._finished.save_rows(stage, rows)
        checkpoint = self._finished.find_checkpoint(stage, start) or self._fit(stage, rows, start, fit)
        for note in checkpoint.notes:
            self._bus.emit(Note(f"{stage}: {note}"))
        return checkpoint

    def _fit(
        self, stage: str, rows: Sequence[TrainingRow], start: Checkpoint | None, fit: Fit[TrainingRow]
    ) -> Checkpoint:
        def step(number: int, total: int, loss: float) -> None:
            work.move_to(number, total)
            self._bus.emit(LossLogged(stage, number, total, loss))
            self._session.clock.tick()
            if self._alone:  # other processes would wait for this one's step
                self._session.budget.check()

        self._session.budget.check()
        with self._clock.measure("training"), self._bus.work(Stage(stage), 1, "training") as work:
            output, seed = self._folder.checkpoint(stage), self._settings.options.seed
            checkpoint = fit(rows, start=start, output=output, seed=seed, on_step=step)
        self._finished.keep_checkpoint(checkpoint, start)
        return checkpoint

    def gate(self, history: History) -> list[ValidatedStage]:
        """Score the best stage behind a gate, as another stage, if the recipe wants one."""
        best = history.best
        checkpoint = best.result.checkpoint
        if not self._recipe.gate or checkpoint is None:
            return []
        self._bus.emit(PhaseStarted("the gate's validation"))
        tried = history.tried
        texts = [*(each.query.prompt for each in tried), *(each.supplement.render() for each in tried)]
        familiar = Gate.of(sorted(set(texts)))
        aided = best.scored._replace(rollouts=best.result.rollouts)
        gate = fit_gate(familiar, gate_examples(familiar, aided, self._priced(self._validation.unaided)))
        with self._clock.measure("acting"):
            scored = self._validation.score("gated", self._generator_at(checkpoint), gate)
        return [self._enter("gated", scored, checkpoint, gate, since=history.stages[-1])]

    def finish(self, history: History) -> dspy.Module:
        """Return the best stage's program so far: a new one, with `detailed_results`."""
        selected = history.best.result.name if history.stages else "none"
        evidence, spent = self._evidence(selected, history), self._spent()
        self._folder.write("spent.json", spent.content)
        said = f"{self._keep_costs(selected, history)} {write_verdict(evidence)}".strip()
        came = next((each for each in history.results if each.name == ADAPTER_STAGE), None)
        if came is not None and selected not in ("none", *AS_IT_CAME):
            self._bus.emit(Note(compare_with_start(came.rollouts, history.best.result.rollouts, selected)))
        drafts = history.best.result.drafts if history.stages else None
        actors = keep_actors(self._folder, history.results, selected, usage_by_actor(self._session.actor))
        for note in filter(None, (drafts and str(drafts), evidence.refusals, actors)):
            self._bus.emit(Note(note))
        self._session.finish(selected, {stage.name: stage.score for stage in history.results}, said)
        result = SGTResult(
            stages=tuple(history.results),
            selected=selected,
            spent=spent,
            notes=tuple(self._session.notes),
            log_dir=self._folder.path,
            generator=self._settings.generator,
            stopped=self._session.stopped,
            store=self._settings.options.store,
            verdict=said,
            start=self._start,
        )
        return selected_program(result, self._student, self._session.actor.program)

    def _keep_costs(self, selected: str, history: History) -> str:
        """Write what each stage's help costs, and return it of the selected one in words, if the recipe has prices."""
        costs = {stage.name: stage.cost for stage in history.results if stage.cost is not None}
        if self._recipe.cost is not None:
            stages = {name: each.content for name, each in costs.items()}
            self._folder.write(COSTS_FILE, {"prices": self._recipe.cost.prices, "stages": stages})
        return explain_costs(costs, selected)

    def _evidence(self, selected: str, history: History) -> Evidence:
        """What the run found. Of a stage that did not end, what the store has counts."""
        found = self._session.evidence(selected=selected, threshold=self._recipe.threshold)
        explored = [each for each in found.unfinished if each.supplement and not Stage.read(each.stage).split]
        before, later = history.results[:1], history.results[1:]
        return replace(
            found,
            before=before[0].rollouts if before else (),
            stages={stage.name: stage.rollouts for stage in later},
            tried=explored or history.tried,
            rows={stage: len(rows) for stage, rows in history.rows.items()},
            kinds_asked=self._recipe.kinds_asked,
        )

    def _enter(
        self,
        name: str,
        scored: Scored,
        checkpoint: Checkpoint | None = None,
        gate: Gate | None = None,
        *,
        since: ValidatedStage | None = None,
        figures: Mapping[str, float] | None = None,
        used: RunUsage | None = None,
        memory: Peak | None = None,
    ) -> ValidatedStage:
        """Make a finished stage of what validation found: its seconds count from the end of the stage `since`.

        `used` and `memory` are the run's usage and memory at its end, by default those of now.
        """
        score, rollouts, spent = mean_score(scored.rollouts), self._priced(scored.rollouts), used or self._spent()
        took = spent.seconds.total - (since.result.spent.seconds.total if since else 0.0)
        seconds, peak, by_then = self._finished.keep_figures(name, took, memory or MARK.peak(), spent.content)
        until = RunUsage.read(by_then)
        cost = self._priced.stage(rollouts)
        drafts = scored.drafts if self._recipe.draft and checkpoint is not None else None
        by_actor = scores_by_actor(self._session.actor, scored.rollouts)
        result = StageResult(
            name, score, rollouts, checkpoint, seconds, gate, scored.gated, until, peak, cost, drafts, by_actor
        )
        if said := explain_unrewarded(name, rollouts):
            self._bus.emit(Note(said))
        if memory is None:
            MARK.restart()
        self._folder.write("spent.json", self._spent().content)
        weights = None if checkpoint is None else checkpoint.path
        self._bus.emit(StageScored(name, score, until, {"seconds": seconds, **(figures or {})}, weights))
        return ValidatedStage(result, scored)

    def _generator_at(self, checkpoint: Checkpoint) -> SupplementGenerator:
        return self._settings.generator.with_checkpoint(checkpoint.path)

    def _spent(self) -> RunUsage:
        return self._session.usage


def follow(student: dspy.Module, settings: SGTSettings, team: Team) -> dspy.Module:
    """A compile in a process that only trains, whenever the main one tells it to: it returns the same program.

    Raises what the main process fails with.
    """
    result = cast("SGTResult", repeat_calls(settings.trainer_or_default(), team))
    return selected_program(replace(result, generator=settings.generator), student, settings.wrap(student))
