"""The nearest winner as a DSPy teleprompter: what worked for the most similar training queries, and nothing trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import dspy
from dspy.teleprompt import Teleprompter

from optimizers.run_options import RunOptions, sizes
from optimizers.sgt.nearest.settings import NEIGHBOURS, NearestSettings, without_model
from optimizers.sgt.recipe import AUTO, Auto, Recipe
from optimizers.sgt.settings import Credit, check_credit
from sgt_modules.errors import SetupError
from sgt_modules.generator import GeneratorLike, SupplementGenerator
from sgt_modules.predictor import Scope, check_scope
from sgt_modules.prompts import Template, check_template

if TYPE_CHECKING:
    from optimizers.core.estimate import Estimate
    from optimizers.sgt.logged import LoggedOutcome


@dataclass(eq=False, repr=False, kw_only=True)
class NearestWinner(RunOptions, Teleprompter):
    """Explore supplements as SGT does, train nothing, and read the one that won for the most similar training queries.

    It needs no GPU: its program has a table of training prompts and supplements in place of a generator. What is
    explored comes from a `generator` (any model, also one behind a server that is never trained), from the given texts
    of a closed `recipe`, or from `logged` outcomes alone. What a trained generator gains over it is what training is
    worth.

    Args:
        metric: Any DSPy metric. This and every option that is not below is one of
            [`RunOptions`][optimizers.run_options.RunOptions]. Of `max_actor_calls`, at most half are kept for
            validation, and exploration may spend the others.
        generator: The model that writes supplements to try: a hub id, a folder, a `dspy.LM`, or a
            `SupplementGenerator`. It is not needed for a closed recipe or for a log, nor by the compiled program.
        auto: The size of exploration: `light`, `medium` or `heavy`; `recipe` sets it option by option.
        recipe: What is explored: the warm start and, unless `rounds` is 0, the pool of round 1, both with the same
            generator. `threshold` says what counts as won. What the recipe says of training is not used.
        neighbours: The numbers of most similar training queries among which validation chooses, from the smallest on.
        credit: As in `SGTTeleprompter`.
        scope: As in `SGTTeleprompter`.
        template: As in `SGTTeleprompter`.

    >>> from sgt_modules.embedded import embedded_generator, HouseTermsWorld
    >>> nearest = NearestWinner(HouseTermsWorld(seed=0).metric, embedded_generator(), neighbours=(1, 4))
    >>> nearest.recipe.warm_samples, list(nearest.neighbours)
    (2, [1, 4])
    """

    generator: GeneratorLike | None = field(default=None, kw_only=False)
    auto: Auto = AUTO
    recipe: Recipe | None = None
    neighbours: Sequence[int] = NEIGHBOURS
    credit: Credit = "isolate"
    scope: Scope | None = None
    template: Template | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.recipe = recipe = self.recipe or Recipe.auto(self.auto)
        given = None if self.generator is None else SupplementGenerator.of(self.generator)
        self.settings = NearestSettings(
            options=self,
            generator=without_model(given) if given is None or recipe.closed else given,
            recipe=recipe,
            trainer=None,
            credit=check_credit(self.credit),
            scope=None if self.scope is None else check_scope(self.scope),
            template=None if self.template is None else check_template(self.template),
            neighbours=_check_neighbours(self.neighbours),
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
        """Explore supplements for `student`, and return a new program that reads the nearest winner.

        `student` is untouched. The better one of `none` and `nearest` on `valset` is returned, `none` on a tie: never
        worse on validation than the program that came in. Without a `valset`, a seeded 30 % of the training set is held
        out. `teacher` is accepted as by every teleprompter and not used; `logged` as in `SGTTeleprompter.compile`. The
        first Ctrl-C ends the run in good order, and raises `KeyboardInterrupt`.

        Raises:
            SetupError: something passed in cannot work, or there is neither a generator, a text nor a logged outcome;
                nothing has been paid for.
        """
        from optimizers.sgt.history import History
        from optimizers.sgt.nearest.run import NearestRun
        from optimizers.training.processes import Team

        settings, history = replace(self.settings, logged=tuple(logged)), History()
        if not (settings.explores or logged):
            raise SetupError(
                "Expected supplements to try, got neither a generator, a closed recipe nor logged outcomes. Pass "
                "NearestWinner(metric, generator), recipe=Recipe(kinds=..., closed=True), or compile(..., logged=...)."
            )
        with NearestRun.opened(student, trainset, valset, settings, team=Team()) as run:
            with run.within_budget():
                history.stages += run.validate_student()
                with run.keeping_validation():
                    history.explored.append(run.explore_all())
                history.stages += run.look_up()
            return run.finish(history)

    def estimate(
        self,
        program: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
    ) -> Estimate:
        """What `compile` on the same would take, stage by stage, in calls and samples. Nothing is paid.

        Every supplement counts as new, and a program's run as one call.

        >>> from sgt_modules.embedded import embedded_generator, HouseTermsWorld, program
        >>> world = HouseTermsWorld(seed=0)
        >>> nearest = NearestWinner(world.metric, embedded_generator())
        >>> [stage.name for stage in nearest.estimate(program(), world.train, world.val).stages]
        ['none', 'warm', 'round 1', 'nearest']
        """
        return self.settings.estimate(program, *sizes(trainset, valset, self.seed))


def _check_neighbours(numbers: Sequence[int]) -> tuple[int, ...]:
    if not numbers or any(type(number) is not int or number < 1 for number in numbers):
        raise SetupError(
            f"Expected neighbours of whole numbers from 1 on, got {numbers!r}. Write neighbours=(1, 4, 16)."
        )
    return tuple(sorted(set(numbers)))
