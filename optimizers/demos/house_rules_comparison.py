"""The comparison on house rules, the embedded world of prompts: no change, and SPT with and without its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizers.comparison.comparing import compare_problems
from optimizers.comparison.contenders import ContenderLike
from optimizers.comparison.result import Comparison
from optimizers.comparison.setup import Problem, Resources
from optimizers.demos.house_rules import RULES_THREADS, SPT_FULL, SPT_QUICK
from sgt_modules.embedded import acting
from sgt_modules.embedded.rules import HouseRulesWorld, RulesCorrector, list_program

RULES_CONTENDERS = ("none", "spt_p", "spt_pc", "spt_p_without_impact", "spt_pc_without_impact")
"""The possible contenders: the simulated corrector only writes for SPT."""

RULES_BUDGET, QUICK_RULES_BUDGET = 2_000, 800
"""Actor calls per contender."""


def compare_rules(
    contenders: Sequence[ContenderLike] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    quick: bool = False,
    budget: int | None = None,
    log_dir: str | Path | None = None,
    display_progress: bool | None = None,
) -> Comparison:
    """Run `compare` with a separate world for each seed, so that all seeds' test questions count.

    The corrector, and so each contender's `reflection_lm`, is the simulated one.
    """
    sizes = (SPT_QUICK if quick else SPT_FULL).sizes
    problems: dict[int, Problem] = {}
    for seed in seeds:
        world = HouseRulesWorld(seed, sizes=sizes)
        splits = (world.train, world.val, world.test)
        problems[seed] = Problem(list_program(world.instructions), world.metric, *splits, cluster=world.find_kind)
    with acting("rule-follower"):
        return compare_problems(
            problems,
            RULES_CONTENDERS if contenders is None else contenders,
            budget=budget or (QUICK_RULES_BUDGET if quick else RULES_BUDGET),
            resources=Resources(reflection_lm=RulesCorrector(), num_threads=RULES_THREADS),
            log_dir=log_dir,
            task=f"house rules{', quick' if quick else ''}",
            display_progress=display_progress,
        )
