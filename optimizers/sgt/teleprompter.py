"""Supplement Generation Training as a DSPy teleprompter: the method on one screen.

Source: SGT (arXiv 2604.20727); `docs/method.md` maps each step to its place here and lists what is our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import dspy
from dspy.teleprompt import Teleprompter

from optimizers.core.budget import Limits
from optimizers.observe.tracking.report_to import ReportTo, check_report_to
from optimizers.rollouts.runners import Runner, RunnerName, check_runner, check_seconds, open_runner
from optimizers.sgt.recipe import AUTO, Auto, Recipe
from optimizers.sgt.settings import Credit, SGTSettings, check_credit
from sgt_modules.errors import SetupError
from sgt_modules.generator import GeneratorLike, SupplementGenerator
from sgt_modules.predictor import Scope
from sgt_modules.prompts import Template, check_template

if TYPE_CHECKING:
    from optimizers.core.estimate import Estimate, Probe
    from optimizers.observe.progress import Display
    from optimizers.sgt.logged import LoggedOutcome
    from optimizers.training.trainer import Trainer

# What a run needs (the store, live views, the trainer) is imported by `compile` and `estimate`: that takes longer than
# importing all of DSPy.


class SGTTeleprompter(Teleprompter):
    """Train a small generator to write supplements that make a frozen program score higher.

    Every predictor of the program gets a generated supplement in its prompt; only the generator's weights are trained,
    by supervised fine-tuning on supplements that worked and rounds of DPO between ones that worked and ones that did
    not. The program's own LMs, demos and instructions stay as they are.

    Args:
        metric: Any DSPy metric of 2, 3 or 5 arguments that returns a bool, a number in [0, 1], or
            `Prediction(score=, feedback=)`.
        generator: A hub id, a local folder, or a `SupplementGenerator`; 1.7 B parameters or less is the idea. Behind a
            server, `Endpoint(dspy.LM(...), publish=...)`, and then a `trainer` with the base model that is served.
        auto: The size of the run: `light` (the default, up to 38 runs of the program for each training example and
            predictor), `medium` or `heavy`, which has the paper's sizes; see `Recipe.auto` for how it differs from
            `Recipe.paper()`. `recipe` sets every option by itself.
        rounds: Rounds of DPO, where not the recipe's.
        recipe: All options of the method; see `Recipe`.
        trainer: How weights are trained; TRL with LoRA by default. See `TRLTrainer`.
        credit: In a program of several predictors (or of one that is called several times), `isolate` varies one
            place's supplement while the others stay fixed, so that a pair differs in one place; `joint` varies all at
            once and gives the program's outcome to each.
        only: The names of the predictors that read supplements; all by default.
        scope: Whether each call gets a supplement (`turn`) or each run of the program (`episode`); by default as the
            student has it, else `turn`. See `supplement`.
        template: How the actor is shown a supplement; by default as the student has it.
        runner: Where program runs are worked: `threads` here, `ray` on a cluster (needs `dspy-sgt[ray]`), or an object
            such as `RayRunner(workers=64)`.
        num_threads: Program runs at once, wherever they are worked; `dspy.settings.num_threads` by default.
        max_errors: Runs in a row without a reward (see [Faults](faults.md)) after which everything stops.
        max_actor_calls: The most calls of the program's LMs; asked before each run of the program.
        max_cost_usd: The most dollars for them.
        max_seconds: The most seconds at work. Where one of the three is reached, the run ends in good order with the
            best program so far; each counts all sessions in `log_dir`, so a later call with more goes on from there.
        max_run_seconds: How long one run of the program may take before it is given up, without a reward; no limit by
            default. A `timeout` of the LM should be shorter, as DSPy tries such a call again.
        seed: Seeds every choice: the same seed, data and models give the same adapter.
        log_dir: The run's folder; a fresh one under `runs/` by default. A folder with a run of the same settings is
            gone on with: what was paid, sampled or trained there is not paid, sampled or trained again.
        store: Where rollouts are kept, if not in `log_dir`: a file, or a database's URL such as
            `postgresql+psycopg://user@host/database` (needs `dspy-sgt[postgresql]`). Runs that share one pay no rollout
            of the same program, actor and metric twice.
        report_to: Trackers and observers of the run, none by default: `mlflow`, `wandb`, `tensorboard` (they need
            `dspy-sgt[trackers]`; see [Tracking](tracking.md)), an `Observer` of your own (see [Events](events.md)), or
            several.
        display_progress: False is silence; by default a live view on a terminal or in a notebook, and plain lines
            elsewhere. A function is called with a `Snapshot` of the run at most four times a second, an `Observer` with
            every event; see [Live view](live.md).
        version: A word of yours for the state of code that cannot be read: a metric written in C, or an object without
            code that the metric or the program uses; a note names them. Another word has answers judged again and,
            where the program holds such an object, paid for again. See
            [Scaling](scaling.md#what-makes-two-rewards-the-same).

    Source: SGT (arXiv 2604.20727).

    >>> from sgt_modules.embedded import embedded_actor, embedded_generator, HouseTermsWorld, program
    >>> world = HouseTermsWorld(seed=0)
    >>> sgt = SGTTeleprompter(metric=world.metric, generator=embedded_generator(), rounds=1, display_progress=False)
    >>> sgt.recipe.rounds
    1
    """

    def __init__(
        self,
        metric: Callable[..., object],
        generator: GeneratorLike,
        *,
        auto: Auto = AUTO,
        rounds: int | None = None,
        recipe: Recipe | None = None,
        trainer: Trainer | None = None,
        credit: Credit = "isolate",
        only: Sequence[str] | None = None,
        scope: Scope | None = None,
        template: Template | None = None,
        runner: RunnerName | Runner = "threads",
        num_threads: int | None = None,
        max_errors: int = 10,
        max_actor_calls: int | None = None,
        max_cost_usd: float | None = None,
        max_seconds: float | None = None,
        max_run_seconds: float | None = None,
        seed: int = 0,
        log_dir: str | Path | None = None,
        store: str | Path | None = None,
        report_to: ReportTo = None,
        display_progress: Display = None,
        version: str = "",
    ) -> None:
        super().__init__()
        self.metric = metric
        self.recipe = (recipe or Recipe.auto(auto)).with_rounds(rounds)
        writer = SupplementGenerator.of(generator)
        if writer.menu and not self.recipe.closed:
            raise SetupError(
                f"Expected a recipe of given texts for {writer.name}, which chooses among {len(writer.menu.choices)}, "
                "got one that has it write. Pass recipe=Recipe(kinds=..., closed=True), or "
                "generator.choosing(Menu()) to let it write."
            )
        self.settings = SGTSettings(
            metric=metric,
            generator=writer.choosing(self.recipe.menu),
            recipe=self.recipe,
            trainer=trainer,
            num_threads=num_threads,
            max_errors=max_errors,
            seed=seed,
            log_dir=Path(log_dir) if log_dir else None,
            credit=check_credit(credit),
            only=only,
            scope=scope,
            template=None if template is None else check_template(template),
            store=store,
            limits=Limits(max_actor_calls, max_cost_usd, max_seconds),
            max_run_seconds=check_seconds(max_run_seconds),
            version=version,
        )
        self.runner: RunnerName | Runner = check_runner(runner)
        self.display_progress: Display = display_progress
        self.report_to = check_report_to(report_to)

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  (no **kwargs: a misspelt argument is an error)
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
        logged: Sequence[LoggedOutcome] = (),
    ) -> dspy.Module:
        """Train a generator for `student` and return a new, wrapped program; `student` is untouched.

        The stage returned is the best on `valset` among no supplement, SFT and each round, the earlier on a tie: never
        worse on validation than the program that came in. A student that reads supplements already is a stage too, as
        `student`. Without a `valset`, a seeded 30 % of the training set is
        held out. `teacher` is accepted as by every teleprompter and not used. The result's `detailed_results` tells
        each stage's score. The first Ctrl-C ends the run in good order, the second at once; both raise
        `KeyboardInterrupt`, and what was paid is saved.

        `logged` are outcomes of your own log, for a program of one predictor that asks for one supplement a run: those
        whose inputs are a training example's join the warm start and round 1, and cost no call (`LoggedOutcome`).

        Where several processes were launched, each of them calls this: the main one samples, asks the actor and writes,
        all of them train, and every one gets the same program.

        Raises:
            SetupError: something passed in cannot work; nothing has been paid for.
            MainProcessError: in the other processes, the main one stopped with an error that is none of ours.
        """
        from optimizers.core.result import result_of
        from optimizers.core.stages import SFT, dpo_stage
        from optimizers.observe.progress import build_observers
        from optimizers.sgt.history import History
        from optimizers.sgt.run import Run, follow
        from optimizers.training.processes import join_team

        team = join_team()
        if not team.is_main:
            return follow(student, self.settings, team)
        observers = build_observers(self.display_progress, self.report_to)
        settings, recipe, history = replace(self.settings, logged=tuple(logged)), self.recipe, History()
        with (
            team.send_failure(),
            open_runner(self.runner) as runner,
            Run.opened(
                student,
                trainset=trainset,
                valset=valset,
                settings=settings,
                observers=observers,
                runner=runner,
                team=team,
            ) as run,
        ):
            with run.within_budget():
                history.stages += run.validate_student()
                history.explored.append(warm := run.warm_start())
                checkpoint = None
                if recipe.sft:
                    rows = history.rows[SFT] = run.select_rows(warm)
                    checkpoint = run.train_sft(rows)
                    history.stages += run.validate(checkpoint, history)
                for round_ in range(1, recipe.rounds + 1):
                    if history.has_stalled(recipe.patience):
                        break
                    rollouts = run.explore(round_, history.tried, checkpoint)
                    history.explored.append(rollouts)
                    pairs = history.rows[dpo_stage(round_)] = run.make_pairs(round_, rollouts, history.tried)
                    checkpoint = run.train_preferences(round_, pairs, start=checkpoint)
                    history.stages += run.validate(checkpoint, history)
                history.stages += run.gate(history)
            program = run.finish(history)
            team.send(result_of(program))
            return program

    def estimate(
        self,
        program: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        *,
        probe: int = 0,
    ) -> Estimate:
        """What `compile` on the same would take, stage by stage: calls, samples and, with a `probe`, tokens, dollars
        and seconds. It prints as a table.

        `probe` is how many training examples the program is run on and supplements are tried for, which is paid for;
        with the same `log_dir` or `store`, `compile` does not pay for it again. Without one nothing is paid, and calls
        are counted as though every supplement were new and the program made one call a run.

        Raises:
            SetupError: something passed in cannot work; nothing has been paid for.

        >>> from sgt_modules.embedded import embedded_actor, embedded_generator, HouseTermsWorld, program
        >>> world = HouseTermsWorld(seed=0)
        >>> sgt = SGTTeleprompter(world.metric, embedded_generator(), rounds=1, display_progress=False)
        >>> round(sgt.estimate(program(), world.train, world.val).total.actor_calls)
        3292
        """
        from optimizers.observe.progress import build_views
        from optimizers.session import sizes
        from optimizers.sgt.estimate import estimate_sgt
        from optimizers.sgt.run import Run
        from optimizers.training.processes import join_team

        settings = self.settings
        train, validation = sizes(trainset, valset)
        found: Probe | None = None
        if probe:
            with (
                open_runner(self.runner) as runner,
                Run.opened(
                    program,
                    trainset=trainset,
                    valset=valset,
                    settings=settings,
                    observers=build_views(self.display_progress),
                    runner=runner,
                    team=join_team(),
                ) as run,
            ):
                found = run.probe(min(probe, train))
        return estimate_sgt(self.recipe, train=train, validation=validation, epochs=settings.epochs, probe=found)
