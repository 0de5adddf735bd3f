"""A script as a user would write one: it compiles a program on a tiny house-terms world, in however many processes.

    python FILE OUTPUT [refuse|stop|kill]

Each process writes what it got to `OUTPUT/<rank>.json`; with the word, the main process fails while the actor runs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import dspy

from optimizers import Recipe, SGTTeleprompter, TrainingSettings
from optimizers.demo import acting
from optimizers.result import result_of
from optimizers.trl_trainer import TRLTrainer
from sgt_modules.embedded import HouseTermsWorld, Sizes, embedded_generator, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import SetupError

RANK = int(os.environ.get("RANK", "0"))
RECIPE = Recipe(rounds=1, warm_samples=2, pool_samples=1, ood_kinds=1, concat=1, max_per_kind=20, pair_cap=4)
SETTINGS = TrainingSettings(
    sft_epochs=8, sft_learning_rate=3e-3, dpo_learning_rate=2e-3, batch_size=8, gradient_accumulation=2, max_length=512,
    gradient_checkpointing=False,
)  # fmt: skip
WORLD = HouseTermsWorld(0, sizes=Sizes(train=16, validation=8, test=4, shifted=4, terms=4, shifted_terms=4))


def failing(how: str) -> None:
    """What a metric may meet."""
    if how == "refuse":
        raise SetupError("this metric refuses")
    if how == "stop":
        raise KeyboardInterrupt
    os.kill(os.getpid(), signal.SIGKILL)


def main(output: Path, how: str = "") -> None:
    judged: list[str] = []

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> dspy.Prediction:
        if how and len(judged) > 20:
            failing(how)
        judged.append(str(prediction.get("sql")))
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
    with acting():
        better = teleprompter.compile(program(), trainset=WORLD.train, valset=WORLD.val)
    result = result_of(better)
    if RANK == 0:
        better.save(output / "program.json")
    told = {
        "selected": result.selected,
        "scores": {stage.name: stage.score for stage in result.stages},
        "losses": {stage.name: stage.checkpoint.metrics["loss"] for stage in result.stages if stage.checkpoint},
        "actor_calls": result.spent.actor_calls,
        "judged": len(judged),
        "state": str(better.dump_state()),
    }
    (output / f"{RANK}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
