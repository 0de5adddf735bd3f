"""SGT without one of its parts, each as a contender: shows how much each part contributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import dspy

from optimizers.comparison.contenders import Contender, ContenderArguments, compile_sgt, make_teleprompter
from optimizers.sgt.recipe import Recipe
from sgt_modules.errors import SetupError

RecipeChange = Callable[[Recipe], Recipe]
"""Returns a recipe without one of its parts."""


def merge_rounds(recipe: Recipe) -> Recipe:
    """Returns a recipe of one round, with the samples, concatenations and pairs of all rounds (five by default).

    >>> once = merge_rounds(Recipe())
    >>> once.rounds, once.pool_samples, once.concat, once.pair_cap
    (1, 10, 15, 100)
    """
    times = recipe.rounds
    return replace(
        recipe,
        rounds=1,
        pool_samples=times * recipe.pool_samples,
        concat=times * recipe.concat,
        pair_cap=times * recipe.pair_cap,
    )


_CHANGES: Mapping[str, RecipeChange] = {
    "sgt_without_sft": lambda recipe: replace(recipe, sft=False),
    "sgt_without_concat": lambda recipe: replace(recipe, concat=0),
    "sgt_without_ood": lambda recipe: replace(recipe, ood_kinds=0),
    "sgt_without_inter": lambda recipe: replace(recipe, pair_categories=("intra",)),
    "sgt_without_intra": lambda recipe: replace(recipe, pair_categories=("inter",)),
}


def compile_with_change(change: RecipeChange) -> Callable[[ContenderArguments], dspy.Module]:
    """Returns a compile function: SGT with a change to the inputs' recipe, or to the default recipe."""
    return lambda inputs: compile_sgt(replace(inputs, recipe=change(inputs.recipe or Recipe())))


def _compile_without_nll(inputs: ContenderArguments) -> dspy.Module:
    """Runs SGT with alpha 0: preference rounds without the likelihood loss on the chosen supplement."""
    from optimizers.training.trl_trainer import TRLTrainer

    trainer = make_teleprompter(inputs).settings.trainer_or_default()
    if not isinstance(trainer, TRLTrainer):
        raise SetupError(f"Expected a TRLTrainer, whose alpha can be set, got {trainer!r}. Leave this ablation out.")
    settings = replace(trainer.settings, alpha=0.0)
    changed = TRLTrainer(trainer.model, settings, trust_remote_code=trainer.trust_remote_code)
    return compile_sgt(replace(inputs, trainer=changed))


_COMPILE_FUNCTIONS: Mapping[str, Callable[[ContenderArguments], dspy.Module]] = {
    **{name: compile_with_change(change) for name, change in _CHANGES.items()},
    "sgt_alpha_0": _compile_without_nll,
    "sgt_one_round": compile_with_change(merge_rounds),
}

ABLATIONS: Mapping[str, Contender] = {
    name: Contender(name, function, needs=("generator",)) for name, function in _COMPILE_FUNCTIONS.items()
}
"""Every ablation by name, for `compare(..., contenders=["none", "sgt", *ABLATIONS])`."""
