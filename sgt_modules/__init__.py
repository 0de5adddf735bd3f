"""What runs when a supplemented program runs: the public names, each loaded at its first use.

>>> from sgt_modules import KINDS
>>> sorted(KINDS)[:3]
['answer', 'background', 'cot']
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgt_modules import errors
    from sgt_modules.gate import Gate
    from sgt_modules.generator import SupplementGenerator
    from sgt_modules.generator_prompt import GeneratorPrompt
    from sgt_modules.kinds import KINDS, Kind, Supplement
    from sgt_modules.local.engine import LocalEngine
    from sgt_modules.menu import Menu
    from sgt_modules.predictor import SupplementedPredictor
    from sgt_modules.prompts import Template
    from sgt_modules.remote.endpoint import Endpoint
    from sgt_modules.remote.publishing import ServedFolder, VLLMLoRA
    from sgt_modules.wrapping import fitting_state, supplement, unsupplement

__all__ = [
    "KINDS",
    "Endpoint",
    "Gate",
    "GeneratorPrompt",
    "Kind",
    "LocalEngine",
    "Menu",
    "ServedFolder",
    "Supplement",
    "SupplementGenerator",
    "SupplementedPredictor",
    "Template",
    "VLLMLoRA",
    "errors",
    "fitting_state",
    "supplement",
    "unsupplement",
]

_ROOMS = {
    "remote.endpoint": ("Endpoint",),
    "local.engine": ("LocalEngine",),
    "gate": ("Gate",),
    "generator": ("SupplementGenerator",),
    "generator_prompt": ("GeneratorPrompt",),
    "kinds": ("KINDS", "Kind", "Supplement"),
    "menu": ("Menu",),
    "predictor": ("SupplementedPredictor",),
    "prompts": ("Template",),
    "remote.publishing": ("ServedFolder", "VLLMLoRA"),
    "wrapping": ("fitting_state", "supplement", "unsupplement"),
}


def __getattr__(name: str) -> object:
    """A public name, from its room."""
    if name == "errors":
        return import_module(f"{__name__}.errors")
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
