"""Supplement Generation Training on your own program, in ten lines.

The example runs with the package's models and its simulated world: no key, no GPU, no hub. Replace the lines marked as
yours.

    python examples/quickstart.py
"""

from __future__ import annotations

import dspy

from optimizers import Recipe, SGTTeleprompter
from optimizers.training.embedded import SETTINGS
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded import HouseTermsWorld, Sizes, embedded_actor, embedded_generator, program

SIZES = Sizes(train=32, validation=16, test=32, shifted=4, terms=4, shifted_terms=4)


def main() -> dspy.Module:
    """Compile a program and print the stage that won; the student itself does not change."""
    world = HouseTermsWorld(seed=0, sizes=SIZES)  # yours: lists of dspy.Example, and a metric
    student = program()  # yours: any dspy.Module
    actor = embedded_actor()  # yours: dspy.LM("openai/gpt-4.1-mini")
    generator = embedded_generator()  # yours: "Qwen/Qwen3-1.7B"
    # Yours: auto="light" instead of the recipe, which samples little.
    recipe = Recipe(rounds=1, warm_samples=2, pool_samples=1, concat=1, max_per_kind=10, pair_cap=8)
    trainer = TRLTrainer(generator.engine.model, SETTINGS)  # yours: nothing, the defaults suit 1.7 B parameters
    sgt = SGTTeleprompter(world.metric, generator, recipe=recipe, trainer=trainer)
    with dspy.context(lm=actor):  # yours: dspy.configure(lm=...), once
        better = sgt.compile(student, trainset=world.train, valset=world.val)
    print({stage.name: round(stage.score, 3) for stage in better.detailed_results.stages})
    print("selected:", better.detailed_results.selected)
    return better


if __name__ == "__main__":
    main()
