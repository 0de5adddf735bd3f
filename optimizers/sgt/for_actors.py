"""What a run of several actors cannot do, checked before anything is paid, and what it says of each actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dspy

from optimizers.core.run_folder import ACTORS_FILE, RunFolder
from optimizers.core.usage import Usage
from optimizers.rollouts.judging import ThreadRunner
from sgt_modules.errors import SetupError
from sgt_modules.wrapping import supplemented_predictors

if TYPE_CHECKING:
    from optimizers.core.result import StageResult
    from optimizers.sgt.settings import SGTSettings


def check_for_actors(settings: SGTSettings, student: dspy.Module, wrapped: dspy.Module) -> None:
    """Raise `SetupError` for a program or an option that does not go with `actors`."""
    for name, predictor in student.named_predictors():
        if predictor.lm is not None:
            raise SetupError(
                f"Expected predictors without an LM of their own with actors=[...], got {name!r} with "
                f"{getattr(predictor.lm, 'model', predictor.lm)!r}. Call program.set_lm(None) before compile, and set "
                "the LM on the compiled program again; or leave actors out."
            )
    if (places := len(supplemented_predictors(wrapped))) != 1:
        raise SetupError(
            f"Expected a program of one predictor that reads supplements with actors=[...], got {places}: what the "
            "later ones are asked depends on what the actor answered before. Name the first with only=[...], or train "
            "for one actor."
        )
    runner = settings.options.runner
    if runner != "threads" and not isinstance(runner, ThreadRunner):
        raise SetupError(f"Expected runner='threads' with actors=[...], got {runner!r}. Leave runner or actors out.")
    if settings.recipe.draft:
        raise SetupError(
            "Expected a recipe without drafts with actors=[...], got draft=True: each actor writes its own draft, so "
            "there is no one note for all. Leave draft or actors out."
        )
    if settings.logged:
        raise SetupError("Expected no logged outcomes with actors=[...], as a log is of one actor. Leave one out.")


def keep_actors(folder: RunFolder, stages: Sequence[StageResult], selected: str, usage: Mapping[str, Usage]) -> str:
    """Write what each of several actors cost and how it scored, and return it in a sentence; empty for one actor."""
    if not usage:
        return ""
    folder.write(ACTORS_FILE, actors_content(stages, usage))
    return describe_by_actor(stages, selected, usage)


def describe_by_actor(stages: Sequence[StageResult], selected: str, usage: Mapping[str, Usage]) -> str:
    """Each actor's validation scores without a supplement and in the selected stage, and its calls, in one sentence.

    Empty where no stage is scored.
    """
    found = {stage.name: stage.by_actor for stage in stages if stage.by_actor}
    if selected not in found:
        return ""
    before, now = found.get("none", {}), found[selected]
    parts = [
        f"{name} {before[name]:.3f} -> {score:.3f} ({usage[name].calls:,} calls)"
        if selected != "none" and name in before
        else f"{name} {score:.3f} ({usage[name].calls:,} calls)"
        for name, score in now.items()
    ]
    stage = "no supplement" if selected == "none" else f"no supplement -> {selected}"
    return f"By actor, validation scores of {stage}: {'; '.join(parts)}."


def actors_content(stages: Sequence[StageResult], usage: Mapping[str, Usage]) -> dict[str, object]:
    """What `actors.json` holds: by actor, its usage and the validation score of each stage."""
    return {
        name: {
            "calls": used.calls,
            "tokens_in": used.tokens_in,
            "tokens_out": used.tokens_out,
            "cost": used.cost,
            "scores": {stage.name: stage.by_actor[name] for stage in stages if name in stage.by_actor},
        }
        for name, used in usage.items()
    }
