"""SGT without one of its parts, each as a contender of its own: what is each part worth?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import dspy

from optimizers.comparison.contenders import Bench, Contender, sgt, teleprompter
from optimizers.sgt.recipe import Recipe
from sgt_modules.errors import SetupError

Change = Callable[[Recipe], Recipe]
"""A recipe without one of its parts."""


def one_round(recipe: Recipe) -> Recipe:
    """One round with as many times the samples, joins and pairs a query as the recipe has rounds: five by default.

    >>> once = one_round(Recipe())
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


_CHANGES: Mapping[str, Change] = {
    "sgt_without_sft": lambda recipe: replace(recipe, sft=False),
    "sgt_without_concat": lambda recipe: replace(recipe, concat=0),
    "sgt_without_ood": lambda recipe: replace(recipe, ood_kinds=0),
    "sgt_without_inter": lambda recipe: replace(recipe, pair_categories=("intra",)),
    "sgt_without_intra": lambda recipe: replace(recipe, pair_categories=("inter",)),
}


def _changed(change: Change) -> Callable[[Bench], dspy.Module]:
    """SGT by the bench's own recipe, or the default one, with the change."""
    return lambda bench: sgt(replace(bench, recipe=change(bench.recipe or Recipe())))


def _without_nll(bench: Bench) -> dspy.Module:
    """The preference rounds without the chosen supplement's own likelihood: alpha 0."""
    from optimizers.training.trl_trainer import TRLTrainer

    trainer = teleprompter(bench).settings.trainer_or_default()
    if not isinstance(trainer, TRLTrainer):
        raise SetupError(f"Expected a TRLTrainer to set alpha of, got {trainer!r}. Leave this ablation out.")
    settings = replace(trainer.settings, alpha=0.0)
    without = TRLTrainer(trainer.model, settings, trust_remote_code=trainer.trust_remote_code)
    return sgt(replace(bench, trainer=without))


_COMPILED: Mapping[str, Callable[[Bench], dspy.Module]] = {
    **{name: _changed(change) for name, change in _CHANGES.items()},
    "sgt_alpha_0": _without_nll,
    "sgt_one_round": _changed(one_round),
}

ABLATIONS: Mapping[str, Contender] = {
    name: Contender(name, compiled, needs=("generator",)) for name, compiled in _COMPILED.items()
}
"""Every ablation by name, for `compare(..., contenders=["none", "sgt", *ABLATIONS])`; `sgt_one_round` is one round with
five times the samples."""
