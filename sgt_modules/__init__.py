"""What runs when a supplemented program runs: the public names.

>>> sorted(KINDS)[:3]
['answer', 'background', 'cot']
"""

from sgt_modules import errors
from sgt_modules.engine import LocalEngine
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import KINDS, Kind, Supplement
from sgt_modules.predictor import SupplementedPredictor
from sgt_modules.wrapping import supplement, unsupplement

__all__ = [
    "KINDS",
    "Kind",
    "LocalEngine",
    "Supplement",
    "SupplementGenerator",
    "SupplementedPredictor",
    "errors",
    "supplement",
    "unsupplement",
]
