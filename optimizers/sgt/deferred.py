"""A stage's validation during the training of the next stage, where the actor runs on another machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from optimizers.core.budget import Limits
from optimizers.core.peak_memory import Peak
from optimizers.core.records import Checkpoint
from optimizers.core.usage import RunUsage
from optimizers.rollouts.evaluation import Evaluator, Scored
from optimizers.sgt.recipe import Recipe


@dataclass(frozen=True)
class DeferredValidation:
    """A trained stage whose supplements for the validation set are written: `answer` runs the actor on them.

    `usage` and `memory` are those of the moment at which validation would have begun.
    """

    checkpoint: Checkpoint
    answer: Callable[[], Scored]
    figures: Mapping[str, float]
    usage: RunUsage
    memory: Peak

    def usage_after(self, before: RunUsage, after: RunUsage) -> RunUsage:
        """The run's usage at the stage's end, had nothing gone on during its validation.

        `before` and `after` are the run's at begin and end of `answer`, in which nothing else calls the actor.
        """
        return replace(self.usage, actor=self.usage.actor + (after.actor - before.actor))


def may_defer(recipe: Recipe, validation: Evaluator, limits: Limits) -> bool:
    """Whether a stage's validation may wait for the next training without a change of the run's stages.

    Not where the actor runs on this machine, which trains; where validation ends the rounds (`patience`) or a limit may
    end the run between a stage and its validation; or where the generator writes while the program runs.
    """
    return (
        recipe.patience is None
        and limits == Limits()
        and not validation.actor.in_process
        and validation.once_an_example
    )
