"""What runs when a user compiles: teleprompters, and what they are made of. A name is loaded at its first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimizers.live.snapshot import Snapshot
    from optimizers.logged import LoggedOutcome
    from optimizers.recipe import Recipe
    from optimizers.records import Checkpoint, PreferencePair, Query, Reward, Rollout, SFTExample
    from optimizers.sgt import SGTTeleprompter
    from optimizers.spt import SupervisoryPromptTeleprompter
    from optimizers.spt_recipe import SPTRecipe
    from optimizers.training import LoRASettings, Trainer, TrainingSettings

__all__ = [
    "Checkpoint",
    "LoRASettings",
    "LoggedOutcome",
    "PreferencePair",
    "Query",
    "Recipe",
    "Reward",
    "Rollout",
    "SFTExample",
    "SGTTeleprompter",
    "SPTRecipe",
    "Snapshot",
    "SupervisoryPromptTeleprompter",
    "Trainer",
    "TrainingSettings",
]

_ROOMS = {
    "live.snapshot": ("Snapshot",),
    "logged": ("LoggedOutcome",),
    "recipe": ("Recipe",),
    "records": ("Checkpoint", "PreferencePair", "Query", "Reward", "Rollout", "SFTExample"),
    "sgt": ("SGTTeleprompter",),
    "spt": ("SupervisoryPromptTeleprompter",),
    "spt_recipe": ("SPTRecipe",),
    "training": ("LoRASettings", "Trainer", "TrainingSettings"),
}


def __getattr__(name: str) -> object:
    """A public name, from its room."""
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
