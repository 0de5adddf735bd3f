"""What runs when a user compiles: teleprompters, and what they are made of."""

from optimizers.recipe import Recipe
from optimizers.records import Checkpoint, PreferencePair, Query, Reward, Rollout, SFTExample
from optimizers.sgt import SGTTeleprompter
from optimizers.spt import SupervisoryPromptTeleprompter
from optimizers.spt_recipe import SPTRecipe
from optimizers.training import LoRASettings, Trainer, TrainingSettings

__all__ = [
    "Checkpoint",
    "LoRASettings",
    "PreferencePair",
    "Query",
    "Recipe",
    "Reward",
    "Rollout",
    "SFTExample",
    "SGTTeleprompter",
    "SPTRecipe",
    "SupervisoryPromptTeleprompter",
    "Trainer",
    "TrainingSettings",
]
