"""What runs when a user compiles: teleprompters, and what they are made of. A name is loaded at its first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimizers.core.cost import Cost
    from optimizers.core.records import Checkpoint, PreferencePair, Query, Reward, Rollout, ScoredSample, SFTExample
    from optimizers.observe.live.snapshot import Snapshot
    from optimizers.sgt.chooser_fit import fit_chooser
    from optimizers.sgt.log_reading import examples_of
    from optimizers.sgt.logged import LoggedOutcome
    from optimizers.sgt.nearest.teleprompter import NearestWinner
    from optimizers.sgt.recipe import Recipe
    from optimizers.sgt.teleprompter import SGTTeleprompter
    from optimizers.spt.recipe import SPTRecipe
    from optimizers.spt.teleprompter import SupervisoryPromptTeleprompter
    from optimizers.training.trainer import LoRASettings, Trainer, TrainingSettings

__all__ = [
    "Checkpoint",
    "Cost",
    "LoRASettings",
    "LoggedOutcome",
    "NearestWinner",
    "PreferencePair",
    "Query",
    "Recipe",
    "Reward",
    "Rollout",
    "SFTExample",
    "SGTTeleprompter",
    "SPTRecipe",
    "ScoredSample",
    "Snapshot",
    "SupervisoryPromptTeleprompter",
    "Trainer",
    "TrainingSettings",
    "examples_of",
    "fit_chooser",
]

_MODULES = {
    "observe.live.snapshot": ("Snapshot",),
    "sgt.nearest.teleprompter": ("NearestWinner",),
    "sgt.chooser_fit": ("fit_chooser",),
    "sgt.log_reading": ("examples_of",),
    "sgt.logged": ("LoggedOutcome",),
    "sgt.recipe": ("Recipe",),
    "core.cost": ("Cost",),
    "core.records": ("Checkpoint", "PreferencePair", "Query", "Reward", "Rollout", "ScoredSample", "SFTExample"),
    "sgt.teleprompter": ("SGTTeleprompter",),
    "spt.teleprompter": ("SupervisoryPromptTeleprompter",),
    "spt.recipe": ("SPTRecipe",),
    "training.trainer": ("LoRASettings", "Trainer", "TrainingSettings"),
}


def __getattr__(name: str) -> object:
    """Return a public name, from its module."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
