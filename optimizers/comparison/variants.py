"""SGT with one option that the paper does not have, each as a contender: shows what the option gains or costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optimizers.comparison.ablations import compile_with_change
from optimizers.comparison.contenders import Contender
from optimizers.core.cost import Cost
from optimizers.sgt.recipe import Recipe

PRICE = Cost(supplement_tokens=0.002)
"""The price of `sgt_cost`: fifty tokens of a supplement weigh as much as a tenth of a right answer."""


def _run_grpo(recipe: Recipe) -> Recipe:
    """Rounds of GRPO in place of DPO's; options that GRPO refuses are left out.

    Without `adaptive` the whole warm start is run. It is a quarter, and a group has at most eight samples, so that a
    budget that is enough for SGT is not used up before the first round.
    """
    warm, group = max(1, recipe.warm_samples // 4), max(2, min(8, recipe.direct_samples))
    return replace(recipe, algorithm="grpo", adaptive=False, warm_samples=warm, direct_samples=group)


VARIANTS: Mapping[str, Contender] = {
    name: Contender(name, compile_with_change(change), needs=("generator",))
    for name, change in {
        "sgt_draft": lambda recipe: replace(recipe, draft=True, silence=True),
        "sgt_feedback": lambda recipe: replace(recipe, feedback=True),
        "sgt_grpo": _run_grpo,
        "sgt_cost": lambda recipe: replace(recipe, cost=PRICE),
        "sgt_adaptive": lambda recipe: replace(recipe, adaptive=True),
    }.items()
}
"""Every variant by name, for `compare(..., contenders=["none", "sgt", *VARIANTS])`."""
