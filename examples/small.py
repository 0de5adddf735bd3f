"""The embedded generator, of 1 M parameters, with suitable settings; use the defaults for a real generator."""

from __future__ import annotations

from typing import TypedDict

from optimizers import Recipe
from optimizers.training.embedded import embedded_trainer
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import SupplementGenerator
from sgt_modules.embedded import embedded_generator


class Trained(TypedDict):
    """The generator, the size of the run, and the trainer."""

    generator: SupplementGenerator
    recipe: Recipe
    trainer: TRLTrainer


def small() -> Trained:
    """Return arguments for `SGTTeleprompter` and `compare`: one round, sampled in half a minute."""
    recipe = Recipe(rounds=1, warm_samples=2, pool_samples=1, concat=1, max_per_kind=10, pair_cap=8)
    return Trained(generator=embedded_generator(), recipe=recipe, trainer=embedded_trainer())
