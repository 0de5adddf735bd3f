"""A stage of exploration whose sampling and acting overlap, compared with the longer of the two alone.

The embedded generator samples on this machine, nine prompts a query; the actor is behind HTTP and takes 200 ms a call.
*Alone* means: all samples first, then a rollout of each distinct one. Five interleaved repeats; the figure is the
median of their ratios.
"""

from __future__ import annotations

import logging
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dspy
from figures import Figure, report, round_to
from rich.console import Console
from rich.table import Table
from scripted_http_actor import actor, served

from optimizers import Recipe
from optimizers.core.events import EventBus
from optimizers.core.records import Candidate
from optimizers.core.reward import Scorer
from optimizers.core.work_clock import WorkClock
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator
from optimizers.rollouts.sampling import SAMPLED_AT_ONCE
from optimizers.sgt import candidates as sources
from optimizers.sgt.exploration import ExplorationContext, explorer
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import SupplementGenerator, supplement
from sgt_modules.embedded import HouseTermsWorld, Sizes, embedded_generator, program

BAR = 1.15
QUERIES = 24
THREADS = 16
REPEATS = 5
REPLY = "[[ ## sql ## ]]\nSELECT 1\n\n[[ ## completed ## ]]"
WORLD = HouseTermsWorld(0, sizes=Sizes(train=QUERIES, validation=4, test=4, shifted=4, terms=8, shifted_terms=4))


@contextmanager
def setting(lm: dspy.LM) -> Iterator[ExplorationContext]:
    """Return the inputs of exploration with a new store; the program has run without supplements."""
    wrapped = supplement(program(), generator="none/needed")
    wrapped.set_lm(lm)
    with tempfile.TemporaryDirectory() as folder, RolloutStore(Path(folder) / "rollouts.sqlite") as store:
        acting = RolloutEngine(wrapped, Scorer(WORLD.metric), store, "benchmark", num_threads=THREADS)
        train = Evaluator(acting, "train", WORLD.train, EventBus())
        train.score_unaided()
        yield ExplorationContext(Recipe(), train, EventBus(), WorkClock(), seed=0)


def sampled(generator: SupplementGenerator, where: ExplorationContext) -> list[Candidate]:
    """The warm start's samples, all of them."""
    requests = sources.warm_start_requests(where.train.queries, rng=random.Random(0))
    hot = [replace(request, temperature=1.0) for _, request in requests]
    samples = generator.samples(hot, at_once=SAMPLED_AT_ONCE)
    return list(sources.drop_repeats(sources.to_candidates(requests, samples)))


def measured(generator: SupplementGenerator, lm: dspy.LM) -> tuple[float, float, float]:
    """Return the seconds of sampling alone, of acting alone, and of both overlapped."""
    with setting(lm) as where:
        began = time.perf_counter()
        pool = sampled(generator, where)
        sampling = time.perf_counter() - began
        where.train.actor.run(pool, WORLD.train, "warm")
        acting = time.perf_counter() - began - sampling
    with setting(lm) as where:
        began = time.perf_counter()
        rollouts = explorer("isolate", where).warm_start(generator)
        both = time.perf_counter() - began
    if not rollouts or any(rollout.reward is None for rollout in rollouts):
        raise RuntimeError("Expected a reward for every rollout.")
    return sampling, acting, both


def main() -> None:
    """Measure, print a table, and then the figure."""
    logging.getLogger("dspy").setLevel(logging.WARNING)
    generator = embedded_generator()
    generator.sample(["Hello."], seeds=[0])
    with served(REPLY) as address:
        lm = actor(address)
        lm("Hello.")  # the first call of a process reads DSPy's list of prices
        times = [measured(generator, lm) for _ in range(REPEATS)]
    table = Table("repeat", "sampling alone, s", "acting alone, s", "overlapped, s", "over the longer", title="a stage")
    for repeat, (sampling, acting, both) in enumerate(times, start=1):
        ratio = f"{both / max(sampling, acting):.2f}"
        table.add_row(str(repeat), f"{sampling:.2f}", f"{acting:.2f}", f"{both:.2f}", ratio)
    Console().print(table)
    sampling, acting, both = (statistics.median(each) for each in zip(*times, strict=True))
    report(
        Figure(
            "seconds of a stage, sampling and acting overlapped",
            round_to(statistics.median(both / max(sampling, acting) for sampling, acting, both in times)),
            BAR,
            at_most=True,
            ours=round_to(both),
            theirs=round_to(max(sampling, acting)),
            rival="the longer of the two alone",
        )
    )


if __name__ == "__main__":
    main()
