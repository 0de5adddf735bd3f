"""Choosing among samples against the greedy note, at equal actor calls, on the embedded world's validation questions.

    python benchmarks/choosing.py                # seeds 60 and 61: two quick compiles, then the table
    python benchmarks/choosing.py --folder runs  # reuses finished runs: runs/choose-60, ...

The chooser is fitted on the run's training rollouts alone. `greedy` is a trained stage as it is, `chooser` takes
one of its eight notes or none, `greedy or none` is the chooser with the greedy note alone; each costs one actor call a
question. `oracle` asks the actor about every distinct note and about none, and counts the best: no way to choose can be
better. Prints the chooser's calibration, then the table, with paired gains over greedy.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dspy

from optimizers.core.result import SGTResult, result_of
from optimizers.core.statistics import gain_interval
from optimizers.demos.house_terms import QUICK_SCALE, Scale
from optimizers.demos.house_terms_controls import TERMS_THREADS, use_actor
from optimizers.sgt.chooser_fit import FittedChooser, fit_chooser
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.training.embedded import embedded_trainer
from sgt_modules import SupplementGenerator, supplement
from sgt_modules.choosing import Choice
from sgt_modules.embedded import HouseTermsWorld, embedded_generator, program
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.note_chooser import NoteChooser, propose
from sgt_modules.samples import Sample
from sgt_modules.wrapping import supplemented_predictors


@dataclass(frozen=True, slots=True)
class Question:
    """A validation question: its drawn notes with the greedy one first, and the actor's score on each and on none."""

    prompt: str
    samples: Sequence[Sample]
    scores: Mapping[Supplement, float]

    def score(self, sample: Sample) -> float:
        """Return the actor's score on a sample's note."""
        return self.scores[sample.supplement if sample.supplement else SILENCE]


def compile_world(world: HouseTermsWorld, scale: Scale, folder: Path) -> SGTResult:
    """Compile the world, or read the finished run in the folder; that costs no call."""
    teleprompter = SGTTeleprompter(
        metric=world.metric,
        generator=embedded_generator(),
        recipe=scale.recipe,
        trainer=embedded_trainer(),
        num_threads=TERMS_THREADS,
        seed=world.seed,
        log_dir=folder,
        display_progress=False,
    )
    return result_of(teleprompter.compile(program(), trainset=world.train, valset=world.val))


def ask_all(
    world: HouseTermsWorld, generator: SupplementGenerator, examples: Sequence[dspy.Example], choice: Choice
) -> list[Question]:
    """Draw the notes of each question, and run the actor on every distinct one and on none."""
    wrapped = supplement(program(), generator=generator)
    name, predictor = supplemented_predictors(wrapped)[0]
    found: list[Question] = []
    for example in examples:
        prompt = generator.prompt_for(
            cast("type[dspy.Signature]", predictor.signature), dict(example.inputs()), role=name
        )
        samples = list(generator.samples(choice.requests(generator, prompt)))
        scores = {
            note: float(world.metric(example, wrapped(**example.inputs(), supplement=note)))
            for note in {each.sample.supplement or SILENCE for each in propose(samples)}
        }
        found.append(Question(prompt, samples, scores))
    return found


def score_ways(questions: Sequence[Question], chooser: NoteChooser) -> dict[str, list[float]]:
    """Return each way's score for each question."""
    silent = Sample("", kind=SILENCE.kind)
    return {
        "none": [each.score(silent) for each in questions],
        "greedy": [each.score(each.samples[0]) for each in questions],
        "greedy or none": [each.score(chooser.choose(each.prompt, each.samples[:1])) for each in questions],
        "chooser": [each.score(chooser.choose(each.prompt, each.samples)) for each in questions],
        "oracle": [max(each.scores.values()) for each in questions],
    }


def count_calls(questions: Sequence[Question]) -> float:
    """Return the oracle's mean actor calls a question."""
    return sum(len(each.scores) for each in questions) / len(questions)


def print_rows(title: str, ways: Mapping[str, Sequence[float]], oracle_calls: float) -> None:
    """Print a row for each way, with its paired gain over greedy."""
    for name, scores in ways.items():
        gain = (sum(scores) - sum(ways["greedy"])) / len(scores)
        low, high = gain_interval(ways["greedy"], scores)
        calls = oracle_calls if name == "oracle" else 1.0
        interval = f"{low:+.3f} to {high:+.3f}"
        print(f"| {title} | {name} | {sum(scores) / len(scores):.3f} | {gain:+.3f} | {interval} | {calls:.1f} |")


def main() -> None:
    """Compile what is missing, fit a chooser for each seed, and print its calibration and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[60, 61])
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    parser.add_argument("--samples", type=int, default=8)
    options = parser.parse_args()
    tables: list[tuple[str, dict[str, list[float]], float]] = []
    for seed in options.seeds:
        world, folder = HouseTermsWorld(seed, sizes=QUICK_SCALE.sizes), options.folder / f"choose-{seed}"
        with use_actor(None):
            result = compile_world(world, QUICK_SCALE, folder)
            fitted: FittedChooser = fit_chooser(result)
            print(f"seed {seed}, selected {result.selected}: {fitted.calibration}\n")
            for stage in result.stages:
                generator = result.generator_of(stage.name)
                if stage.checkpoint is None or generator is None or stage.gate is not None:
                    continue
                questions = ask_all(world, generator, world.val, Choice(options.samples, fitted.chooser))
                title = f"{seed}, {stage.name}"
                tables.append((title, score_ways(questions, fitted.chooser), count_calls(questions)))
    print("| seed, stage | way | validation | over greedy | 95 % interval | actor calls |\n|---|---|---|---|---|---|")
    for table in tables:
        print_rows(*table)


if __name__ == "__main__":
    main()
