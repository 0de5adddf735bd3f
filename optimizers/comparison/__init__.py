"""One fair comparison of SGT with DSPy's own optimizers, the papers' baselines and the controls."""

from optimizers.comparison.ablations import ABLATIONS
from optimizers.comparison.comparing import Budget, Problem, compare, compare_problems
from optimizers.comparison.contenders import CONTENDERS, Bench, Contender
from optimizers.comparison.result import Comparison
from optimizers.comparison.standing import Row

__all__ = [
    "ABLATIONS",
    "CONTENDERS",
    "Bench",
    "Budget",
    "Comparison",
    "Contender",
    "Problem",
    "Row",
    "compare",
    "compare_problems",
]
