"""The steps of a run of the nearest winner: SGT's exploration, then the choice of the number of neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import dspy

from optimizers.core.events import Note, PhaseStarted
from optimizers.core.records import Rollout
from optimizers.core.result import mark_compiled, result_of
from optimizers.rollouts.queries import with_own_prompts
from optimizers.sgt.history import History, ValidatedStage
from optimizers.sgt.nearest.settings import NEAREST, NearestSettings
from optimizers.sgt.nearest.winners import Lookup, choose_lookup, is_exploration
from optimizers.sgt.run import Run
from sgt_modules.wrapping import with_generator


class NearestRun(Run):
    """A run of SGT that ends where SGT begins to train. Made by `NearestRun.opened`."""

    _settings: NearestSettings
    _lookup: Lookup | None = None

    @contextmanager
    def keeping_validation(self) -> Iterator[None]:
        """Leave enough actor calls to score each number of neighbours on validation; inside, the rest may be spent."""
        with self._session.budget.holding_back(len(self._numbers) * self._calls_of_validation):
            yield

    def explore_all(self) -> list[Rollout]:
        """Explore as SGT's warm start does and, where the recipe has rounds, as its round 1 with the same generator."""
        if not self._settings.explores:
            with self._clock.measure("acting"):
                self._train.score_unaided()
            self._take_in_log()
            return self._exploration.log.rollouts(self._train.queries, "warm")
        warm = self.warm_start()
        if not self._recipe.rounds or self._recipe.closed:  # round 1 tries each given text again
            return warm
        return [*warm, *self.explore(1, warm, None)]

    def look_up(self) -> list[ValidatedStage]:
        """Choose the number of neighbours on validation, and score the lookup as a stage; none without outcomes."""
        explored = self._explored()
        if not explored:
            self._bus.emit(Note("There is nothing to look up: no training query has an outcome."))
            return []
        self._bus.emit(PhaseStarted("the choice of neighbours"))
        with self._clock.measure("acting"):
            self._lookup = choose_lookup(
                explored,
                self._settings.generator,
                self._validation,
                threshold=self._recipe.threshold,
                seed=self._settings.options.seed,
                neighbours=self._numbers,
                stage=NEAREST,
            )
        self._bus.emit(Note(f"The lookup reads the winners of the {self._lookup.words}."))
        return [self._enter(NEAREST, self._lookup.scored)]

    def finish(self, history: History) -> dspy.Module:
        """Return the better one of the student and the lookup, with `detailed_results`."""
        program = super().finish(history)
        if self._lookup is None:
            return program
        generator = self._lookup.generator
        result = replace(result_of(program), generator=generator)
        if result.selected == NEAREST:
            program = with_generator(self._session.actor.program, generator)
        return mark_compiled(program, result)

    def _explored(self) -> list[Rollout]:
        """All outcomes of training queries in the store, in a run that a budget ended too."""
        actor = self._train.actor
        known = with_own_prompts([*self._train.unaided, *actor.store.iter_rollouts(actor.scope)])
        return [each for each in known if is_exploration(each)]

    @property
    def _calls_of_validation(self) -> int:
        """Actor calls of the validation set, if each predictor makes one call in a run."""
        return len(self._validation.examples) * max(1, len(self._session.actor.program.predictors()))

    @property
    def _numbers(self) -> list[int]:
        """The numbers of neighbours that half of the actor calls can compare; one at least."""
        numbers, calls = list(self._settings.neighbours), self._settings.options.max_actor_calls
        if calls is None:
            return numbers
        return numbers[: max(1, calls // 2 // max(1, self._calls_of_validation))]
