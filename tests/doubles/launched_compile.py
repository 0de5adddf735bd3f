"""A script as a user would write one, for however many processes: it compiles a program on a tiny house-terms world.

    python FILE OUTPUT

First it makes a mistake, which the main process refuses. Each process writes what it got to `OUTPUT/<rank>.json`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import dspy

from optimizers import Recipe, SGTTeleprompter, TrainingSettings
from optimizers.core.result import result_of
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded import HouseTermsWorld, Sizes, acting, embedded_generator, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import OverlappingSplitsError

RECIPE = Recipe(rounds=1, warm_samples=1, pool_samples=1, ood_kinds=1, concat=1, max_per_kind=20, pair_cap=4, gate=True)
SETTINGS = TrainingSettings(
    sft_epochs=10,
    sft_learning_rate=3e-3,
    dpo_learning_rate=2e-3,
    batch_size=8,
    gradient_accumulation=2,
    max_length=512,
    gradient_checkpointing=False,
)
WORLD = HouseTermsWorld(0, sizes=Sizes(train=16, validation=8, test=4, shifted=4, terms=4, shifted_terms=4))


def main(output: Path) -> None:
    """Compile, and write a report."""
    judged: list[str] = []
    rank = int(os.environ.get("RANK", "0"))

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> dspy.Prediction:
        judged.append(example.question)
        return WORLD.metric(example, prediction, trace)

    teleprompter = SGTTeleprompter(
        metric,
        embedded_generator(),
        recipe=RECIPE,
        trainer=TRLTrainer(embedded_folder("generator"), SETTINGS),
        num_threads=16,
        log_dir=output / "run",
        display_progress=False,
    )
    refused = ""
    with acting():
        try:
            teleprompter.compile(program(), trainset=WORLD.train, valset=WORLD.train)
        except OverlappingSplitsError as error:
            refused = str(error)
        better = teleprompter.compile(program(), trainset=WORLD.train, valset=WORLD.val)
    result = result_of(better)
    report = {
        "refused": refused,
        "selected": result.selected,
        "scores": {stage.name: stage.score for stage in result.stages},
        "losses": {stage.name: stage.checkpoint.metrics["loss"] for stage in result.stages if stage.checkpoint},
        "actor_calls": result.spent.actor_calls,
        "judged": len(judged),
        "program": better.dump_state(),
    }
    (output / f"{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
