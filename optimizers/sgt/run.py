"""One compile's working state: what it was given, what it has seen, and the best stage so far.

Each method is one arrow of the method (`sgt.py` is their order). Deciding is left to the pure rooms; this one holds
the store, the folder and the clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import cast

import dspy

from optimizers.core.best_stage import mean_gain, select_best
from optimizers.core.estimate import Probe
from optimizers.core.events import Reporter
from optimizers.core.evidence import Evidence
from optimizers.core.memory import MARK
from optimizers.core.records import Checkpoint, PreferencePair, Rollout, SFTExample
from optimizers.core.result import SGTResult, StageResult, selected_program
from optimizers.core.stages import Stage
from optimizers.core.usage import RunUsage
from optimizers.core.verdict import explain_unrewarded, write_verdict
from optimizers.rollouts.evaluation import Evaluator, Scored, mean_score
from optimizers.rollouts.runners import Runner
from optimizers.session import Session, checked
from optimizers.sgt.exploration import Explorer, Setting, explorer
from optimizers.sgt.gating import fit_gate, gate_examples
from optimizers.sgt.logged import Log, read_log
from optimizers.sgt.preference_pairs import explain_no_pairs, preference_pairs
from optimizers.sgt.probing import measure_probe
from optimizers.sgt.settings import RunSettings
from optimizers.sgt.sft_data import balance_kinds
from optimizers.training.distributed import DistributedTrainer, repeat_calls
from optimizers.training.finished_stages import FinishedStages
from optimizers.training.processes import Team
from optimizers.training.trainer import Fit, TrainingRow
from sgt_modules.errors import SetupError
from sgt_modules.gate import Gate
from sgt_modules.generator import SupplementGenerator
from sgt_modules.generator_prompt import SHORTENED
from sgt_modules.wrapping import left_plain, supplemented


class Run:
    """The state of one compile. Made by `Run.opened`, which validates everything before the first paid call."""

    def __init__(self, settings: RunSettings, student: dspy.Module, session: Session, *, team: Team, log: Log) -> None:
        self._settings, self._recipe, self._session = settings, settings.recipe, session
        self._student, self._folder = student, session.folder
        self._train, self._validation = session.train, session.validation
        self._trainer = DistributedTrainer(settings.trainer_or_default(), team)
        self._stages: list[StageResult] = []
        self._scored: dict[str, Scored] = {}
        self._tried: list[Rollout] = []
        self._learned: dict[str, float | None] = {}
        self._rows: dict[str, int] = {}
        self._finished = FinishedStages(session.folder)
        self._exhausted = False
        self._alone = team.size == 1
        self._clock = session.clock
        self._setting = Setting(
            settings.recipe, session.train, session.reporter, self._clock, settings.seed, session.note, log
        )
        self._explorer: Explorer = explorer("isolate", self._setting)
        MARK.restart()

    @classmethod
    @contextmanager
    def opened(
        cls,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None,
        settings: RunSettings,
        reporter: Reporter,
        runner: Runner,
        team: Team,
    ) -> Iterator[Run]:
        """Check everything that was passed in, take the folder, and wrap a copy of the student. The `team` trains.

        Inside, the first Ctrl-C ends the run in good order.

        Raises:
            SetupError: something passed in cannot work, or another run works in the folder.
        """
        splits = checked(student, trainset, valset, settings=settings, runner=runner)
        settings.check_trainable()
        settings.generator.check()
        settings.check_lengths(student, splits[0])
        wrapped = settings.wrap(student)
        log = read_log(settings.logged, *splits, menu=settings.recipe.menu)
        if log.outcomes and (places := len(supplemented(wrapped))) != 1:
            raise SetupError(
                f"Expected logged outcomes for a program of one predictor that reads supplements, got {places}. Name "
                "the one that the log is of with only=[...], or leave logged out."
            )
        with Session.opened(student, wrapped, splits, settings=settings, reporter=reporter, runner=runner) as session:
            for note in left_plain(student):
                session.note(note)
            yield cls(settings, student, session, team=team, log=log)

    def within_budget(self) -> AbstractContextManager[None]:
        """Where a budget is used up inside, the rest is left out; at Ctrl-C, `KeyboardInterrupt` once all is saved."""
        return self._session.within_budget(lambda: self._folder.write("spent.json", self._spent().content))

    def probe(self, examples: int) -> Probe:
        """What so many of the training examples take: they are run, supplements for them tried, and rows trained on."""
        self._session.doing = "the probe"
        few = Evaluator(self._session.actor, "train", self._train.examples[:examples], self._session.reporter)
        few.without()
        settings, requests = self._settings, self._setting.warm_requests(few.queries)
        generator, trainer = settings.generator, settings.trainer_or_default()
        return measure_probe(
            few, requests, generator, self._recipe, trainer, sft_epochs=settings.epochs[0], seed=settings.seed
        )

    def validate_student(self) -> None:
        """Score the program without supplements, and as it came in where it reads some already."""
        self._session.doing = "the first validation, of the program as it came in"
        with self._clock.measure("acting"):
            self._enter("none", Scored(self._validation.without(), []), None)
            if supplemented(self._student):
                runs = self._validation.live("student", self._student)
                self._enter("student", Scored([run.rollout for run in runs], [run.calls for run in runs]), None)

    def validate(self, stage: str, checkpoint: Checkpoint) -> None:
        """Score a stage on the validation set."""
        self._session.doing = f"the validation of {stage}"
        with self._clock.measure("acting"):
            scored = self._validation.score(stage, self._generator_at(checkpoint))
        self._enter(stage, scored, checkpoint)

    def warm_start(self) -> list[Rollout]:
        """Nine prompts a query, the actor run on each sample."""
        self._session.doing = "the warm start"
        with self._clock.measure("acting"):
            self._train.without()
        self._note_shortened()
        self._note_unscored()
        self._take_in_log()
        self._explorer = explorer(self._settings.credit, self._setting)
        self._tried = self._explorer.warm_start(self._settings.generator)
        self._learned = {"train/score": mean_score(self._tried)}
        return self._tried

    def _note_shortened(self) -> None:
        """Say how many inputs were too long for the generator, which reads them without their middle."""
        queries = [*self._train.queries, *self._validation.queries]
        if short := sum(SHORTENED in query.prompt for query in queries):
            generator = self._settings.generator
            self._session.note(
                f"{short} of {len(queries)} inputs were too long for {generator.name} and are read without the middle "
                "of their longest field, in training as at inference. Give a generator with a longer context, or raise "
                "max_prompt_tokens, to read them whole."
            )

    def _take_in_log(self) -> None:
        """Put what the log knows into the store, so that nothing of it is paid for; say how much that is."""
        log, note = self._setting.log, self._setting.log.note
        if log.outcomes and not self._train.once_an_example:
            self._setting = replace(self._setting, log=Log())
            note = (
                "The logged outcomes are left out: the program asks for several supplements in a run, and a row does "
                "not say which one it is of."
            )
        self._train.actor.add_known(self._setting.log.rollouts(self._train.queries, "warm"))
        if note:
            self._session.note(note)

    def _note_unscored(self) -> None:
        """Say where a server writes the choice, which is no choice unless it is one of the texts."""
        generator = self._settings.generator
        if generator.menu and not generator.in_process:
            self._session.note(
                f"{generator.name} is behind a server, which does not say how likely each given text is. A reply that "
                "is one of them word for word counts as that, and any other as no supplement. Use a local generator "
                "to have the likeliest text always."
            )

    def explore(self, round_: int, checkpoint: Checkpoint | None) -> list[Rollout]:
        """A round's pool: in the first, of many kinds; later, samples of the current model as it would write."""
        self._session.doing = f"round {round_}"
        generator = self._settings.generator if checkpoint is None else self._generator_at(checkpoint)
        if round_ == 1:
            rollouts = self._explorer.first_pool(self._tried, generator)
        else:
            rollouts = self._explorer.direct(round_, generator)
        self._tried = [*self._tried, *rollouts]
        self._learned = {"train/score": mean_score(rollouts)}
        return rollouts

    def sft_rows(self, rollouts: Sequence[Rollout]) -> list[SFTExample]:
        """What worked, balanced by kind; says so when nothing did."""
        recipe = self._recipe
        rows = balance_kinds(
            rollouts, max_per_kind=recipe.max_per_kind, threshold=recipe.threshold, rng=self._setting.rng("selection")
        )
        if not rows:
            self._session.note(f"SFT learned nothing. {explain_no_pairs(rollouts, threshold=recipe.threshold)}")
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
            categories=recipe.pair_categories,
            tried=self._tried,
            rng=self._setting.rng(f"pairs-{round_}"),
        )
        if not pairs:
            reason = explain_no_pairs(rollouts, threshold=recipe.threshold, categories=recipe.pair_categories)
            self._session.note(f"Round {round_} learned nothing, so the rounds end here. {reason}")
        return pairs

    def sft(self, rows: Sequence[SFTExample]) -> Checkpoint | None:
        """Supervised fine-tuning, scored on validation; without rows there is no stage."""
        return self._trained("sft", rows, None, self._trainer.sft)

    def dpo(self, round_: int, pairs: Sequence[PreferencePair], start: Checkpoint | None) -> Checkpoint | None:
        """One round of DPO, scored on validation; without pairs there is no stage.

        It goes on from `start`, or from the generator as it came.
        """
        return self._trained(f"dpo{round_}", pairs, start, self._trainer.dpo)

    def _trained(
        self, stage: str, rows: Sequence[TrainingRow], start: Checkpoint | None, fit: Fit[TrainingRow]
    ) -> Checkpoint | None:
        """The stage's weights, trained now unless they were before; None without rows."""
        self._exhausted, self._rows[stage] = not rows, len(rows)
        if not rows:
            return None
        self._learned["train/rows" if stage == "sft" else "train/pairs"] = len(rows)
        self._session.doing = f"the training of {stage}"
        self._finished.save_rows(stage, rows)
        checkpoint = self._finished.find_checkpoint(stage, start) or self._fit(stage, rows, start, fit)
        for note in checkpoint.notes:
            self._session.note(f"{stage}: {note}")
        self.validate(stage, checkpoint)
        return checkpoint

    def _fit(
        self, stage: str, rows: Sequence[TrainingRow], start: Checkpoint | None, fit: Fit[TrainingRow]
    ) -> Checkpoint:
        def step(number: int, total: int, loss: float) -> None:
            view.move_to(number, total)
            self._session.tracking.loss(stage, number, loss)
            self._session.clock.tick()
            if self._alone:  # other processes would wait for this one's step
                self._session.budget.check()

        self._session.budget.check()
        with self._clock.measure("training"), self._session.reporter.stage(f"{stage}: training", 1) as view:
            output, seed = self._folder.checkpoint(stage), self._settings.seed
            checkpoint = fit(rows, start=start, output=output, seed=seed, on_step=step)
        self._finished.keep_checkpoint(checkpoint, start)
        return checkpoint

    def stalled(self) -> bool:
        """Whether the last stage had nothing to learn from, or validation has not risen for `patience` rounds."""
        patience, known = self._recipe.patience, len(self._stages)
        return self._exhausted or (
            patience is not None and known > patience + 1 and self._stages.index(self._best()) < known - patience
        )

    def gate(self) -> None:
        """The best stage behind a gate, as a stage of its own, where the recipe wants one."""
        best = self._best()
        if not self._recipe.gate or best.checkpoint is None:
            return
        self._session.doing = "the gate's validation"
        texts = [
            *(rollout.query.prompt for rollout in self._tried),
            *(each.supplement.render() for each in self._tried),
        ]
        known = Gate.of(sorted(set(texts)))
        gate = fit_gate(known, gate_examples(known, self._scored[best.name], self._validation.unaided))
        with self._clock.measure("acting"):
            scored = self._validation.score("gated", self._generator_at(best.checkpoint), gate)
        self._enter("gated", scored, best.checkpoint, gate)

    def finish(self) -> dspy.Module:
        """The best stage's program so far: a new one, with `detailed_results`."""
        selected = self._best().name if self._stages else "none"
        evidence, spent = self._evidence(selected), self._spent()
        self._folder.write("spent.json", spent.content)
        said = write_verdict(evidence)
        if evidence.refusals:
            self._session.note(evidence.refusals)
        self._session.finish(selected, {stage.name: stage.score for stage in self._stages}, said)
        result = SGTResult(
            stages=tuple(self._stages),
            selected=selected,
            spent=spent,
            notes=tuple(self._session.notes),
            log_dir=self._folder.path,
            generator=self._settings.generator,
            stopped=self._session.stopped,
            store=self._settings.store,
            verdict=said,
        )
        return selected_program(result, self._student, self._session.actor.program)

    def _evidence(self, selected: str) -> Evidence:
        """What the run found. Of a stage that did not end, what the store has counts."""
        found = self._session.evidence(selected=selected, threshold=self._recipe.threshold)
        explored = [each for each in found.unfinished if each.supplement and not Stage.read(each.stage).split]
        before, later = self._stages[:1], self._stages[1:]
        return replace(
            found,
            before=before[0].rollouts if before else (),
            stages={stage.name: stage.rollouts for stage in later},
            tried=explored or self._tried,
            rows=self._rows,
            kinds_asked=self._recipe.kinds_asked,
        )

    def _best(self) -> StageResult:
        """The stage that is best on the examples it shares with the others: the earliest on a tie, or the gated one."""
        stages = [stage for stage in self._stages if stage.gate is None]
        came_in = next((n for n, stage in enumerate(stages) if stage.name == "student"), 0)
        best = stages[select_best([stage.rollouts for stage in stages], came_in)]
        for gated in self._stages[len(stages) :]:
            gains = [mean_gain(each.rollouts, gated.rollouts) for each in (best, stages[came_in])]
            if all(gain is not None and gain >= 0 for gain in gains):
                return gated
        return best

    def _enter(self, name: str, scored: Scored, checkpoint: Checkpoint | None, gate: Gate | None = None) -> None:
        """Note a finished stage, and what was spent until now."""
        score, rollouts, spent = mean_score(scored.rollouts), scored.rollouts, self._spent()
        took = spent.seconds.total - (self._stages[-1].spent.seconds.total if self._stages else 0.0)
        seconds, memory, by_then = self._finished.keep_figures(name, took, MARK.peak(), spent.content)
        until = RunUsage.read(by_then)
        stage = StageResult(name, score, rollouts, checkpoint, seconds, gate, scored.gated, until, memory)
        self._stages.append(stage)
        self._scored[name] = scored
        if said := explain_unrewarded(name, rollouts):
            self._session.note(said)
        MARK.restart()
        self._folder.write("spent.json", spent.content)
        told = {"val/score": score, "seconds": seconds, **self._learned}
        self._learned = {}
        weights = None if checkpoint is None else checkpoint.path
        self._session.tracking.stage(name, told, until, weights=weights)

    def _generator_at(self, checkpoint: Checkpoint) -> SupplementGenerator:
        return self._settings.generator.with_checkpoint(checkpoint.path)

    def _spent(self) -> RunUsage:
        return self._session.usage


def follow(student: dspy.Module, settings: RunSettings, team: Team) -> dspy.Module:
    """A compile in a process that only trains, whenever the main one tells it to: it returns the same program.

    Raises what the main process fails with.
    """
    result = cast("SGTResult", repeat_calls(settings.trainer_or_default(), team))
    return selected_program(replace(result, generator=settings.generator), student, settings.wrap(student))
