"""Text to SQL as a task of the package: the generator explains a company's own words to the frozen model.

The example uses a simulated company and the package's small models. With `task("spider")` it uses Spider's databases;
`splits` then needs a folder with them: see docs/tasks.md.

    python examples/text_to_sql.py
"""

from __future__ import annotations

import dspy
from small import small

from optimizers import SGTTeleprompter
from optimizers.tasks import Sizes, Task
from sgt_modules.embedded import HouseTermsWorld, acting, program
from sgt_modules.embedded.world import Sizes as WorldSizes

WORLD = HouseTermsWorld(seed=0, sizes=WorldSizes(train=32, validation=16, test=32, shifted=4, terms=4, shifted_terms=4))
TASK = Task(  # yours: task("spider"), of optimizers.tasks
    name="desk",
    description="Questions in a simulated company's own words, answered in SQL.",
    program=program,
    metric=WORLD.metric,
    loader=lambda _: {"train": WORLD.train, "val": WORLD.val, "test": WORLD.test},
    sizes=Sizes(train=32, val=16, test=32),
)
ACTOR = acting  # yours: lambda: dspy.context(lm=dspy.LM("openai/gpt-4.1-mini"))
TRAINED = small  # yours: lambda: {"generator": "Qwen/Qwen3-1.7B"}

SHOWN = 3
"""The number of questions to print."""


def score_queries(program: dspy.Module, examples: list[dspy.Example]) -> list[tuple[str, bool]]:
    """Return each question's query, and whether its rows are the expected ones."""
    queries = [program(**example.inputs()).sql for example in examples]
    return [
        (sql, TASK.metric(each, dspy.Prediction(sql=sql)).score == 1)
        for each, sql in zip(examples, queries, strict=True)
    ]


def main() -> None:
    """Train, and print questions whose query became right."""
    splits = TASK.splits()
    sgt = SGTTeleprompter(TASK.metric, **TRAINED(), num_threads=64)
    with ACTOR():
        better = sgt.compile(TASK.new_program(), trainset=splits.train, valset=splits.val)
        before, after = score_queries(TASK.new_program(), splits.test), score_queries(better, splits.test)
        print("validation:", {stage.name: round(stage.score, 2) for stage in better.detailed_results.stages})
        print(f"test: {sum(right for _, right in before)} of {len(before)} before, {sum(r for _, r in after)} after")
        turned = [place for place, (old, new) in enumerate(zip(before, after, strict=True)) if new[1] > old[1]]
        for place in turned[:SHOWN]:
            with dspy.context(trace=[]):
                better(**splits.test[place].inputs())
                advice = dspy.settings.trace[0][1]["supplement"]
            print(f"\n{splits.test[place].question}")
            print(f"  before: {before[place][0]}\n  advice: {advice}\n  after:  {after[place][0]}")


if __name__ == "__main__":
    main()
