"""The contender `lookup`: SGT's exploration with the untrained generator, then the nearest winner; nothing is trained.

Nearest winner: the supplement that won for the most similar training queries; the baseline every trained generator must
beat.
"""

from __future__ import annotations

import dspy

from optimizers.comparison.compiled_run import CompiledRun
from optimizers.comparison.contender_arguments import ContenderArguments
from optimizers.comparison.nearest_winners import NEIGHBOURS, choose_lookup
from optimizers.core.events import EventBus
from optimizers.core.result import mark_compiled, result_of
from optimizers.sgt.history import History
from optimizers.sgt.run import Run
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.training.processes import join_team
from sgt_modules.wrapping import with_generator


def count_choices(inputs: ContenderArguments) -> int:
    """Return how many numbers of neighbours the budget can compare on validation, with at most half of it; 1 or more.

    A single one needs no comparison, and costs nothing.
    """
    if inputs.runs is None:
        return len(NEIGHBOURS)
    return max(1, min(len(NEIGHBOURS), inputs.runs // 2 // max(1, len(inputs.valset))))


def reserve_calls(inputs: ContenderArguments) -> int | None:
    """Return the actor calls that are left for exploration; None for no limit."""
    choices = count_choices(inputs)
    if inputs.calls is None or choices < 2:
        return inputs.calls
    return inputs.calls - choices * len(inputs.valset) * max(1, len(inputs.program.predictors()))


def compile_lookup(inputs: ContenderArguments, teleprompter: SGTTeleprompter) -> dspy.Module:
    """Explore as `teleprompter` does before it trains, then choose the number of neighbours on validation.

    Return the program with a generator that looks supplements up. With the same seed, the warm start is SGT's own;
    round 1 asks the untrained generator, where SGT asks the one after SFT.
    """
    explored = _explore(inputs, teleprompter)
    result, neighbours = result_of(explored), NEIGHBOURS[: count_choices(inputs)]
    with (
        CompiledRun.open(
            explored, inputs.program, inputs.metric, num_threads=inputs.num_threads, bus=EventBus([])
        ) as run,
        run.open_split("val", inputs.valset if len(neighbours) > 1 else []) as validation,
    ):
        lookup = choose_lookup(
            run.explored(validation),
            result.generator,
            validation,
            threshold=run.threshold,
            seed=inputs.seed,
            neighbours=neighbours,
        )
        return mark_compiled(with_generator(run.wrapped, lookup.generator), result)


def _explore(inputs: ContenderArguments, teleprompter: SGTTeleprompter) -> dspy.Module:
    """Run the warm start and round 1 with the untrained generator, within the budget."""
    history = History()
    with Run.opened(inputs.program, inputs.trainset, inputs.valset, teleprompter.settings, team=join_team()) as run:
        with run.within_budget():
            history.stages += run.validate_student()
            history.explored.append(run.warm_start())
            history.explored.append(run.explore(1, history.tried, None))
        return run.finish(history)
