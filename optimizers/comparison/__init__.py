"""Compares SGT fairly with DSPy's optimizers and the papers' baselines; also controls and analyses of a run."""

from optimizers.comparison.ablations import ABLATIONS
from optimizers.comparison.analyses import (
    calls_curve,
    flips,
    kinds_by_stage,
    learning_curve,
    success_by_kind,
    validated,
)
from optimizers.comparison.comparing import compare, compare_problems
from optimizers.comparison.contenders import CONTENDERS, Contender, ContenderArguments
from optimizers.comparison.control_rows import ControlRow, Controls, pooled
from optimizers.comparison.controls import CONTROLS, controls
from optimizers.comparison.leaderboard import Row
from optimizers.comparison.result import Comparison
from optimizers.comparison.setup import Budget, Problem
from optimizers.comparison.variants import VARIANTS

__all__ = [
    "ABLATIONS",
    "CONTENDERS",
    "CONTROLS",
    "VARIANTS",
    "Budget",
    "Comparison",
    "Contender",
    "ContenderArguments",
    "ControlRow",
    "Controls",
    "Problem",
    "Row",
    "calls_curve",
    "compare",
    "compare_problems",
    "controls",
    "flips",
    "kinds_by_stage",
    "learning_curve",
    "pooled",
    "success_by_kind",
    "validated",
]
