"""What a run of several actors cannot do, checked before anything is paid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dspy

from optimizers.rollouts.judging import ThreadRunner
from sgt_modules.errors import SetupError
from sgt_modules.wrapping import supplemented_predictors

if TYPE_CHECKING:
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
    if settings.credit != "isolate":
        raise SetupError("Expected credit='isolate' with actors=[...], got 'joint'. Leave credit out.")
    if settings.logged:
        raise SetupError("Expected no logged outcomes with actors=[...], as a log is of one actor. Leave one out.")
