"""A compile in seconds: the smallest world of house terms, a scripted actor, and what a compile needs besides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dspy
from scripted import ScriptedEngine, ScriptedGenerator, reply

from optimizers import Recipe, SGTTeleprompter, TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded import HouseTermsWorld, Sizes, embedded_generator, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.kinds import Supplement

WORLD = HouseTermsWorld(0, sizes=Sizes(train=4, validation=4, test=4, shifted=4, terms=4, shifted_terms=4))
SMALL = Recipe(rounds=1, warm_samples=1, pool_samples=1, ood_kinds=1, concat=1, max_per_kind=4, pair_cap=2)


def teleprompter(log_dir: Path, metric: Callable[..., object] = WORLD.metric, **changes: object) -> SGTTeleprompter:
    settings = {
        "generator": embedded_generator(),
        "recipe": SMALL,
        "trainer": TRLTrainer(embedded_folder("generator"), TrainingSettings(sft_epochs=1, batch_size=8)),
        "num_threads": 8,
        "log_dir": log_dir,
        "display_progress": False,
    }
    return SGTTeleprompter(metric, **(settings | changes))


def gold(text: str) -> str:
    """Answer like an actor that needs no help."""
    asked = next(each for split in WORLD.splits.values() for each in split if each.question in text)
    return reply(sql=WORLD.gold_sql(asked))


def helped(text: str) -> str:
    """Answer like an actor that is right exactly when its supplement speaks of definitions."""
    return gold(text) if "[background]" in text else reply(sql="SELECT 1")


def compiled(script: Callable[[str], str], log_dir: Path, **changes: object) -> tuple[dspy.Module, ScriptedEngine]:
    engine = ScriptedEngine(script)
    with dspy.context(lm=engine.lm()):
        better = teleprompter(log_dir, **changes).compile(program(), trainset=WORLD.train, valset=WORLD.val)
    return better, engine


def named(prompt: str, otherwise: str) -> Supplement:
    """A supplement of the kind that a prompt asks for; where it names none, of another."""
    kind = prompt.rpartition("\nKind: ")[2].partition(".")[0] if "\nKind: " in prompt else otherwise
    return Supplement("rule" if kind.startswith("a new one") else kind, "Look it up.")


def writer(trained: str = "background") -> ScriptedGenerator:
    """A generator that learns to write one kind."""
    return ScriptedGenerator(
        lambda prompt: named(prompt, "cot"), trained=ScriptedGenerator(lambda prompt: named(prompt, trained))
    )
