"""The code that runs with a supplemented program: its public names, each imported at first use.

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
    from sgt_modules.note_chooser import NoteChooser
    from sgt_modules.predictor import SupplementedPredictor
    from sgt_modules.prompts import Template
    from sgt_modules.remote.adapter_servers import SGLangLoRA, VLLMLoRA
    from sgt_modules.remote.endpoint import Endpoint
    from sgt_modules.remote.publishing import ServedFolder
    from sgt_modules.saving.state_file import load_program, save_program
    from sgt_modules.winner_lookup import WinnerLookup
    from sgt_modules.wrapping import fitting_state, supplement, unsupplement

__all__ = [
    "KINDS",
    "Endpoint",
    "Gate",
    "GeneratorPrompt",
    "Kind",
    "LocalEngine",
    "Menu",
    "NoteChooser",
    "SGLangLoRA",
    "ServedFolder",
    "Supplement",
    "SupplementGenerator",
    "SupplementedPredictor",
    "Template",
    "VLLMLoRA",
    "WinnerLookup",
    "errors",
    "fitting_state",
    "load_program",
    "save_program",
    "supplement",
    "unsupplement",
]

_MODULES = {
    "remote.endpoint": ("Endpoint",),
    "local.engine": ("LocalEngine",),
    "gate": ("Gate",),
    "generator": ("SupplementGenerator",),
    "generator_prompt": ("GeneratorPrompt",),
    "kinds": ("KINDS", "Kind", "Supplement"),
    "menu": ("Menu",),
    "note_chooser": ("NoteChooser",),
    "predictor": ("SupplementedPredictor",),
    "prompts": ("Template",),
    "remote.adapter_servers": ("SGLangLoRA", "VLLMLoRA"),
    "remote.publishing": ("ServedFolder",),
    "saving.state_file": ("load_program", "save_program"),
    "winner_lookup": ("WinnerLookup",),
    "wrapping": ("fitting_state", "supplement", "unsupplement"),
}


def __getattr__(name: str) -> object:
    """Import the module of a public name at its first use."""
    if name == "errors":
        return import_module(f"{__name__}.errors")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
