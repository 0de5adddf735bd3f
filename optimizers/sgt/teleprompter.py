"""Supplement Generation Training as a DSPy teleprompter: the method on one screen.

Source: SGT (arXiv 2604.20727); `docs/method.md` maps each step to its place here and lists what is our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import dspy
from dspy.teleprompt import Teleprompter

from optimizers.core.actors import name_actors
from optimizers.run_options import RunOptions, sizes
from optimizers.sgt.recipe import AUTO, Auto, Recipe
from optimizers.sgt.settings import Credit, SGTSettings, adapt_generator, check_credit
from sgt_modules.generator import GeneratorLike
from sgt_modules.predictor import Scope, check_scope
from sgt_modules.prompts import Template, check_template

if TYPE_CHECKING:
    from optimizers.core.estimate import Estimate
    from optimizers.sgt.logged import LoggedOutcome
    from optimizers.training.trainer import Trainer

# What a run needs (the store, live views, the trainer) is imported by `compile` and `estimate`: that takes longer than
# importing all of DSPy.


@dataclass(eq=False, repr=False, kw_only=True)
class SGTTeleprompter(RunOptions, Teleprompter):
    """Train a small generator to write supplements that make a frozen program score higher.

    Every predictor of the program gets a generated supplement in its prompt; only the generator's weights are trained,
    by supervised fine-tuning on supplements that worked and rounds of DPO between ones that worked and ones that did
    not. The program's own LMs, demos and instructions stay as they are.

    Args:
        metric: Any DSPy metric. This and every option that is not below is one of
            [`RunOptions`][optimizers.run_options.RunOptions]: threads, limits, seed, folder, trackers, and more.
        generator: A hub id, a local folder, or a `SupplementGenerator`; 1.7 B parameters or less is the idea. Behind a
            server, `Endpoint(dspy.LM(...), publish=...)`, and then a `trainer` with the base model that is served. With
            an `adapter`, training goes on from it.
        auto: The size of the run: `light` (the default, up to 38 runs of the program for each training example and
            predictor), `medium` or `heavy`, which has the paper's sizes; see `Recipe.auto` for how it differs from
            `Recipe.paper()`. `recipe` sets every option by itself.
        rounds: Rounds of DPO, where not the recipe's.
        recipe: All options of the method; see `Recipe`.
        trainer: How weights are trained; TRL with LoRA by default. See `TRLTrainer`.
        credit: In a program of several predictors (or of one that is called several times), `isolate` varies one
            place's supplement while the others stay fixed, so that a pair differs in one place; `joint` varies all at
            once and gives the program's outcome to each.
        scope: Whether each call gets a supplement (`turn`) or each run of the program (`episode`); by default as the
            student has it, else `turn`. See `supplement`.
        template: How the actor is shown a supplement; by default as the student has it.
        actors: Several frozen LMs for one generator: each of them, in place of `dspy.settings.lm`, runs the program on
            each supplement, and the reward is the mean. For a program that asks for one supplement in a run and whose
            predictors have no LM of their own; see [Several actors](beyond.md#several-actors).

    Source: SGT (arXiv 2604.20727).

    >>> from sgt_modules.embedded import embedded_actor, embedded_generator, HouseTermsWorld, program
    >>> world = HouseTermsWorld(seed=0)
    >>> sgt = SGTTeleprompter(metric=world.metric, generator=embedded_generator(), rounds=1, display_progress=False)
    >>> sgt.recipe.rounds
    1
    """

    generator: GeneratorLike = field(kw_only=False)
    auto: Auto = AUTO
    rounds: int | None = None
    recipe: Recipe | None = None
    trainer: Trainer | None = None
    credit: Credit = "isolate"
    scope: Scope | None = None
    template: Template | None = None
    actors: Sequence[dspy.BaseLM] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.recipe = recipe = (self.recipe or Recipe.auto(self.auto)).with_rounds(self.rounds)
        self.settings = SGTSettings(
            options=self,
            generator=adapt_generator(self.generator, recipe),
            recipe=recipe,
            trainer=self.trainer,
            credit=check_credit(self.credit),
            scope=None if self.scope is None else check_scope(self.scope),
            template=None if self.template is None else check_template(self.template),
            actors={} if self.actors is None else name_actors(self.actors),
        )

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
        `student`. Training starts from the adapter that the generator comes with, if any, which is then the stage
        `adapter`. Without a `valset`, a seeded 30 % of the training set is held out. `teacher` is accepted as by every
        teleprompter and not used. The result's `detailed_results` tells each stage's score. The first Ctrl-C ends the
        run in good order, the second at once; both raise `KeyboardInterrupt`, and what was paid is saved.

        `logged` are outcomes of your own log, for a program of one predictor that asks for one supplement a run: those
        whose inputs are a training example's join the warm start and round 1, and cost no call (`LoggedOutcome`).

        Where several processes were launched, each of them calls this: the main one samples, asks the actor and writes,
        all of them train, and every one gets the same program.

        Raises:
            SetupError: something passed in cannot work; nothing has been paid for.
            MainProcessError: in the other processes, the main one stopped with an error that is none of ours.
        """
        from optimizers.core.result import result_of
        from optimizers.core.stages import SFT, round_stage
        from optimizers.sgt.history import History
        from optimizers.sgt.run import Run, follow
        from optimizers.training.processes import join_team

        team = join_team()
        if not team.is_main:
            return follow(student, self.settings, team)
        settings, recipe, history = replace(self.settings, logged=tuple(logged)), self.settings.recipe, History()
        with team.send_failure(), Run.opened(student, trainset, valset, settings, team=team) as run:
            with run.within_budget():
                history.stages += run.validate_student()
                history.explored.append(warm := run.warm_start())
                checkpoint = None
                if recipe.sft:
                    rows = history.rows[SFT] = run.select_rows(warm)
                    checkpoint = run.train_sft(rows)
                    run.validate(checkpoint, history)
                for round_ in range(1, recipe.rounds + 1):
                    if history.has_stalled(recipe.patience, partial=recipe.queries_per_round is not None):
                        break
                    rollouts = run.explore(round_, history.tried, checkpoint)
                    history.explored.append(rollouts)
                    stage = round_stage(round_, recipe.algorithm)
                    if recipe.algorithm == "grpo":
                        samples = history.rows[stage] = run.make_groups(round_, rollouts)
                        with run.answering(history):
                            trained = run.train_policy(round_, samples, start=checkpoint)
                    else:
                        pairs = history.rows[stage] = run.make_pairs(round_, rollouts, history.tried)
                        with run.answering(history):
                            trained = run.train_preferences(round_, pairs, start=checkpoint)
                    run.validate(trained, history)
                    checkpoint = trained or checkpoint
                run.answer(history)
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
        from optimizers.sgt.estimate import estimate_sgt
        from optimizers.sgt.run import Run
        from optimizers.training.processes import join_team

        settings, found = self.settings, None
        train, validation = sizes(trainset, valset, self.seed)
        if probe:
            with Run.opened(program, trainset, valset, settings, team=join_team(), probe=probe) as run:
                found = run.probe(probe)
        return estimate_sgt(
            settings.recipe,
            train=train,
            validation=validation,
            epochs=settings.epochs,
            probe=found,
            as_it_came=settings.list_stages_as_they_came(program),
            actors=len(settings.actors) or 1,
        )
