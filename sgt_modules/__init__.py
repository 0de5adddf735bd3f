"""What runs when a supplemented program runs: the public names.

>>> sorted(KINDS)[:3]
['answer', 'background', 'cot']
"""

from sgt_modules import errors
from sgt_modules.endpoint import Endpoint
from sgt_modules.engine import LocalEngine
from sgt_modules.gate import Gate
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import KINDS, Kind, Supplement
from sgt_modules.predictor import SupplementedPredictor
from sgt_modules.prompts import Template
from sgt_modules.publishing import ServedFolder, VLLMLoRA
from sgt_modules.wrapping import fitting_state, supplement, unsupplement

__all__ = [
    "KINDS",
    "Endpoint",
    "Gate",
    "Kind",
    "LocalEngine",
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
