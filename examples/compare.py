"""Compare optimizers: each compiles one program on the same data and budget, and is scored on the same test set.

The example runs on a simulated company with the package's small models: no key, no GPU, no hub.

    python examples/compare.py
"""

from __future__ import annotations

from small import small

from optimizers.comparison import Comparison, compare
from sgt_modules.embedded import HouseTermsWorld, Sizes, acting, find_term, program

ACTOR = acting  # yours: lambda: dspy.context(lm=dspy.LM("openai/gpt-4.1-mini"))
TRAINED = small  # yours: lambda: {"generator": "Qwen/Qwen3-1.7B"}

CONTENDERS = ["none", "cot", "bootstrap_fewshot", "sgt"]
BUDGET = 1_200
"""Actor calls that each contender may make while it compiles."""


def main() -> Comparison:
    """Compare, and print the table."""
    sizes = Sizes(train=32, validation=16, test=44, shifted=4, terms=4, shifted_terms=4)
    world = HouseTermsWorld(seed=0, sizes=sizes)  # yours: lists of dspy.Example, and a metric
    with ACTOR():
        found = compare(
            program(),  # yours: any dspy.Module
            world.train,
            world.val,
            world.test,
            world.metric,
            CONTENDERS,
            seeds=[0],
            budget=BUDGET,
            **TRAINED(),
            num_threads=64,
            cluster=find_term,  # yours: what a question shares with others, if anything
        )
    print(found)
    print(f"The page: {found.log_dir / 'report.html'}")
    return found


if __name__ == "__main__":
    main()
