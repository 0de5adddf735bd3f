"""The comparison on house rules, the embedded world of prompts: no change, and SPT with and without its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizers.comparison.comparing import compare_problems
from optimizers.comparison.contenders import ContenderLike
from optimizers.comparison.result import Comparison
from optimizers.comparison.setup import Means, Problem
from optimizers.demos.house_rules import SPT_FULL, SPT_QUICK, THREADS
from sgt_modules.embedded import acting
from sgt_modules.embedded.rules import HouseRulesWorld, RulesCorrector, list_program

CONTENDERS = ("none", "spt_p", "spt_pc", "spt_p_without_impact", "spt_pc_without_impact")
"""Who can be compared here: the simulated corrector writes for SPT alone."""

BUDGET, QUICK_BUDGET = 2_000, 800
"""Actor calls a contender."""


def compare_rules(
    contenders: Sequence[ContenderLike] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    quick: bool = False,
    budget: int | None = None,
    log_dir: str | Path | None = None,
    display_progress: bool | None = None,
) -> Comparison:
    """As `compare`, with a world of its own for each seed, so that all seeds' test questions count.

    The corrector, and so each contender's `reflection_lm`, is the simulated one.
    """
    sizes = (SPT_QUICK if quick else SPT_FULL).sizes
    problems: dict[int, Problem] = {}
    for seed in seeds:
        world = HouseRulesWorld(seed, sizes=sizes)
        problems[seed] = Problem(list_program(world.instructions), world.metric, world.train, world.val, world.test)
    with acting("rule-follower"):
        return compare_problems(
            problems,
            CONTENDERS if contenders is None else contenders,
            budget=budget or (QUICK_BUDGET if quick else BUDGET),
            means=Means(reflection_lm=RulesCorrector(), num_threads=THREADS),
            log_dir=log_dir,
            task=f"house rules{', quick' if quick else ''}",
            display_progress=display_progress,
        )
