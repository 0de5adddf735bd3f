"""The embedded world: a simulated company and small real transformers, so that everything runs without a hub."""

from sgt_modules.embedded.models import acting, embedded_actor, embedded_generator
from sgt_modules.embedded.program import AnswerInSQL, program
from sgt_modules.embedded.world import FULL, QUICK, HouseTermsWorld, Sizes, find_term

__all__ = [
    "FULL",
    "QUICK",
    "AnswerInSQL",
    "HouseTermsWorld",
    "Sizes",
    "acting",
    "embedded_actor",
    "embedded_generator",
    "find_term",
    "program",
]
