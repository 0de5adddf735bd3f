"""Text to SQL on one of the package's tasks: what the generator tells the frozen model about a company's own words.

As it stands it runs on *house terms*, a simulated company, with the small models that come with the package. With
`task("spider")` it asks Spider's databases, which `splits` then needs a folder of: see docs/tasks.md.

    python examples/text_to_sql.py
"""

from __future__ import annotations

import dspy

from optimizers import Recipe, SGTTeleprompter
from optimizers.demo import TRAINING
from optimizers.tasks import task
from optimizers.trl_trainer import TRLTrainer
from sgt_modules.embedded import acting, embedded_generator

TASK = task("house_terms")  # yours: task("spider")
ACTOR = acting  # yours: lambda: dspy.context(lm=dspy.LM("openai/gpt-4.1-mini"))
GENERATOR = embedded_generator  # yours: lambda: "Qwen/Qwen3-1.7B"

LIMIT = 40
SHOWN = 3


def answered(program: dspy.Module, examples: list[dspy.Example]) -> list[tuple[str, bool]]:
    """Each question's query, and whether its rows are the expected ones."""
    queries = [program(**example.inputs()).sql for example in examples]
    return [
        (sql, TASK.metric(each, dspy.Prediction(sql=sql)).score == 1)
        for each, sql in zip(examples, queries, strict=True)
    ]


def main() -> None:
    """Train, and show the questions whose query became right."""
    splits = TASK.splits(limit=LIMIT)
    generator = GENERATOR()
    trainer = TRLTrainer(generator.engine.model, TRAINING)  # yours: nothing, the defaults suit 1.7 B parameters
    recipe = Recipe(
        rounds=1, warm_samples=2, pool_samples=1, concat=1, max_per_kind=10, pair_cap=8
    )  # yours: auto="light"
    sgt = SGTTeleprompter(TASK.metric, generator, recipe=recipe, trainer=trainer, num_threads=64)
    with ACTOR():
        better = sgt.compile(TASK.new_program(), trainset=splits.train, valset=splits.val)
        before, after = answered(TASK.new_program(), splits.test), answered(better, splits.test)
        print("validation:", {stage.name: round(stage.score, 2) for stage in better.detailed_results.stages})
        print(f"test: {sum(right for _, right in before)} of {len(before)} before, {sum(r for _, r in after)} after")
        turned = [place for place, (old, new) in enumerate(zip(before, after, strict=True)) if new[1] > old[1]]
        for place in turned[:SHOWN]:
            with dspy.context(trace=[]):
                better(**splits.test[place].inputs())
                told = dspy.settings.trace[0][1]["supplement"]
            print(f"\n{splits.test[place].question}")
            print(f"  before: {before[place][0]}\n  told:   {told}\n  after:  {after[place][0]}")


if __name__ == "__main__":
    main()
