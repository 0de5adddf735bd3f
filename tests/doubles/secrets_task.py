"""A task whose answers hang on a word that only the supplement can tell, and a generator that learns to tell it.

Each question has a secret. The actor is right exactly when the secret of its own question stands in the supplement.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dspy
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply

from optimizers import Recipe, SGTTeleprompter
from optimizers.comparison import Problem
from optimizers.core.reward import Metric
from sgt_modules.kinds import Supplement

RECIPE = Recipe(rounds=1, warm_samples=1, pool_samples=1, ood_kinds=1, concat=1, max_per_kind=4, pair_cap=2)


def asked(number: int) -> dspy.Example:
    """Question n, whose answer is `answer-n`; its secret is `secret-n`."""
    return dspy.Example(question=f"What is thing-{number}?", answer=f"answer-{number}").with_inputs("question")


TRAIN, VAL, TEST, SHIFTED = ([asked(n) for n in range(start, start + 6)] for start in (10, 20, 30, 40))


def number_in(text: str) -> str:
    """Which question a prompt asks."""
    return text.rpartition("thing-")[2].partition("?")[0]


def advice_in(text: str) -> str:
    """The supplement in a prompt of the actor; empty where there is none."""
    return text.partition("[[ ## supplement ## ]]")[2].partition("Respond with")[0]


def needs_secret(text: str) -> str:
    """Answer like an actor that is right exactly when its question's secret is given."""
    number = number_in(text)
    return reply(answer=f"answer-{number}" if f"secret-{number}" in advice_in(text) else "no idea")


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def problem(program: dspy.Module | None = None, metric: Metric = exact) -> Problem:
    return Problem(program or dspy.Predict("question -> answer"), metric, TRAIN, VAL, TEST)


def write_supplement(prompt: str, usual: str) -> Supplement:
    """The secret where background is asked for, an empty phrase for every other kind."""
    kind = prompt.rpartition("\nKind: ")[2].partition(".")[0] if "\nKind: " in prompt else usual
    kind = "rule" if kind.startswith("a new one") else kind
    return Supplement(kind, f"It is secret-{number_in(prompt)} here." if kind == "background" else "Think first.")


def writer(
    learned: Callable[[str], Supplement] = lambda prompt: write_supplement(prompt, "background"), **changes: object
) -> ScriptedGenerator:
    """A generator that writes `cot` before it is trained, and as `learned` says after."""
    trained = ScriptedGenerator(learned)
    return ScriptedGenerator(lambda prompt: write_supplement(prompt, "cot"), **({"trained": trained} | changes))


def compiled(
    log_dir: Path, engine: ScriptedEngine, of: Problem | None = None, *, recipe: Recipe = RECIPE, **changes: object
) -> dspy.Module:
    """A compile in which nothing is trained but the script."""
    of, settings = of or problem(), {"generator": writer(), "trainer": ScriptedTrainer(), **changes}
    sgt = SGTTeleprompter(of.metric, recipe=recipe, num_threads=8, log_dir=log_dir, display_progress=False, **settings)
    with dspy.context(lm=engine.lm()):
        return sgt.compile(of.program, trainset=of.trainset, valset=of.valset)
