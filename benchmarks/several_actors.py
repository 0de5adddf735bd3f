"""One generator for two actors, compared with one for each of them; also with a third that trained none.

    python benchmarks/several_actors.py --third MODEL --third-dtype int8    # seeds 80 81 82: half an hour or more
    python benchmarks/several_actors.py --seeds 80 --folder runs/several-actors

The quick world of house terms. A is the embedded actor, B the second actor, which has another size and seed. `A + B`
trains on the mean of both; `A` and `B` train with one of them, in up to six rounds and with no more calls than
`A + B`. MODEL is a third actor, named as in `sgt demo --actor`: a folder, `local:HUB_ID` or a name of LiteLLM's.
Prints the gain in the test score, a row for each generator of each seed, the means, and which generator is best on the
third actor.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import dspy

from optimizers.core.events import EventBus
from optimizers.core.fingerprints import scope_of
from optimizers.core.result import SGTResult, result_of
from optimizers.core.reward import Scorer
from optimizers.demos.house_terms import QUICK_SCALE
from optimizers.demos.house_terms_controls import TERMS_THREADS
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator, mean_score
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.store.rollout_store import RolloutStore
from optimizers.training.embedded import embedded_trainer
from sgt_modules import supplement
from sgt_modules.embedded import HouseTermsWorld, embedded_actor, embedded_generator, program
from sgt_modules.lms import lm_named

RECIPE = replace(QUICK_SCALE.recipe, gate=False)
ROUNDS = 6
"""The most rounds of a run with one actor: its budget ends it."""

Gains = Mapping[str, float]
"""The gain in the test score by actor."""


@dataclass(frozen=True)
class Trained:
    """A generator: for which actors it was trained, its gain with each actor, and the actor calls that it took."""

    name: str
    gains: Gains
    calls: int


def train(world: HouseTermsWorld, actors: Sequence[dspy.LM], folder: Path, most: int | None = None) -> SGTResult:
    """Run SGT once, or read what its folder has of it."""
    sgt = SGTTeleprompter(
        world.metric,
        embedded_generator(),
        recipe=RECIPE if most is None else RECIPE.with_rounds(ROUNDS),
        trainer=embedded_trainer(),
        num_threads=TERMS_THREADS,
        seed=world.seed,
        log_dir=folder,
        max_actor_calls=most,
        display_progress=False,
        actors=actors,
    )
    return result_of(sgt.compile(program(), trainset=world.train, valset=world.val))


def find_gains(world: HouseTermsWorld, result: SGTResult, actors: Mapping[str, dspy.LM]) -> Gains:
    """The test score of the selected stage minus that without a supplement, with each actor."""
    generator, found = result.generator_of(result.selected), dict[str, float]()
    for name, lm in actors.items():
        with dspy.context(lm=lm), TemporaryDirectory() as folder, RolloutStore(Path(folder) / "test.sqlite") as store:
            wrapped = supplement(program(), generator=result.generator)
            scope = scope_of(wrapped, world.metric)
            engine = RolloutEngine(wrapped, Scorer(world.metric), store, scope, num_threads=TERMS_THREADS)
            evaluator = Evaluator(engine, "test", world.test, EventBus())
            before = mean_score(evaluator.score_unaided())
            after = before if generator is None else mean_score(evaluator.score("trained", generator).rollouts)
            found[name] = after - before
    return found


def compare(seed: int, folder: Path, actors: Mapping[str, dspy.LM]) -> list[Trained]:
    """Train the three generators of a seed."""
    world = HouseTermsWorld(seed, sizes=QUICK_SCALE.sizes)
    both = train(world, [actors["A"], actors["B"]], folder / f"both-{seed}")
    calls = both.spent.actor_calls
    alone = {name: train(world, [actors[name]], folder / f"{name.lower()}-{seed}", calls) for name in ("A", "B")}
    return [
        Trained(name, find_gains(world, result, actors), result.spent.actor_calls)
        for name, result in {**alone, "A + B": both}.items()
    ]


def conclude(rows: Mapping[str, Sequence[Trained]], actor: str) -> str:
    """A sentence on whether the generator of both gains as much with an actor as the better one of a single actor."""
    gains = {name: mean(each.gains[actor] for each in found) for name, found in rows.items()}
    best = max(("A", "B"), key=lambda name: gains[name])
    kept = "at least" if gains["A + B"] >= gains[best] else "less than"
    return (
        f"With {actor}, A + B gains {gains['A + B']:+.3f}: {kept} the {gains[best]:+.3f} of {best}, the better "
        "generator of a single actor."
    )


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[80, 81, 82])
    parser.add_argument("--third", default="")
    parser.add_argument("--third-dtype", default="auto", help="int8 quantises a model on this machine")
    parser.add_argument("--folder", type=Path, default=Path("runs/several-actors"))
    options = parser.parse_args()
    actors = {"A": embedded_actor(), "B": embedded_actor("second-actor")}
    if options.third:
        actors["third"] = lm_named(options.third, dtype=options.third_dtype)
    rows: dict[str, list[Trained]] = {"A": [], "B": [], "A + B": []}
    print(f"| seed | trained for | {' | '.join(f'gain with {name}' for name in actors)} | calls |")
    print(f"|---|---|{'---|' * len(actors)}---|", flush=True)
    for seed in options.seeds:
        for each in compare(seed, options.folder, actors):
            rows[each.name].append(each)
            gains = " | ".join(f"{each.gains[name]:+.3f}" for name in actors)
            print(f"| {seed} | {each.name} | {gains} | {each.calls:,} |", flush=True)
    for name, found in rows.items():
        gains = " | ".join(f"{mean(each.gains[actor] for each in found):+.3f}" for actor in actors)
        print(f"| mean | {name} | {gains} | {mean(each.calls for each in found):,.0f} |")
    print("\n" + "\n".join(conclude(rows, actor) for actor in actors))


if __name__ == "__main__":
    main()
