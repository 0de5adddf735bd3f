"""Calls a second of a wrapped program: 64 threads at once, compared with 64 coroutines at once over padded batches.

The embedded models in double precision on both sides. The rival (`async_rival.py`) first tries several ways to collect
its batches, and one call at a time; the fastest then runs interleaved with ours, five times each. Every answer must be
the same on both sides. The figure is the median of the repeats' ratios.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import dspy
import torch
from async_rival import Batching, answer_all
from figures import Figure, report, round_to
from padded_batch import PaddedBatches
from rich.console import Console
from rich.table import Table

from sgt_modules import supplement
from sgt_modules.embedded import HouseTermsWorld, embedded_actor, embedded_generator, program
from sgt_modules.embedded.models import MAX_NEW_TOKENS, embedded_folder

BAR = 1.5
THREADS = 64
CALLS, TRIED = 4 * THREADS, 2 * THREADS
REPEATS = 5
BATCHINGS = [Batching(size, 0.005, one_core) for size in (8, 16, 32, 64) for one_core in (False, True)]

Answer = Callable[[Sequence[dspy.Example]], list[dspy.Prediction]]


def threads(at_once: int) -> Answer:
    """Return our side, with that many threads."""
    wrapped, actor = supplement(program(), generator=embedded_generator()), embedded_actor()

    def ask(example: dspy.Example) -> dspy.Prediction:
        with dspy.context(lm=actor, disable_history=True):
            return wrapped(**example.inputs())

    def run(examples: Sequence[dspy.Example]) -> list[dspy.Prediction]:
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(ask, examples))

    return run


def coroutines(generator: PaddedBatches, actor: PaddedBatches, batching: Batching) -> Answer:
    """Return the other side, with 64 coroutines."""
    return lambda examples: asyncio.run(answer_all(program(), examples, generator, actor, batching, THREADS))


def measure(run: Answer, examples: Sequence[dspy.Example]) -> tuple[float, list[str]]:
    """Return the calls a second, and the answers."""
    began = time.perf_counter()
    answers = run(examples)
    return len(examples) / (time.perf_counter() - began), [answer.sql for answer in answers]


def main() -> None:
    """Measure, print a table, and then the figure."""
    test = HouseTermsWorld(seed=0).test
    examples = [test[index % len(test)] for index in range(CALLS)]
    ours = threads(THREADS)
    models = [PaddedBatches(embedded_folder(name), torch.float64, MAX_NEW_TOKENS) for name in ("generator", "actor")]
    rivals = {str(batching): coroutines(*models, batching) for batching in BATCHINGS}
    measure(ours, examples[:THREADS])
    measure(next(iter(rivals.values())), examples[:THREADS])
    tried = {name: measure(run, examples[:TRIED])[0] for name, run in rivals.items()}
    single = measure(threads(1), examples[:16])[0]
    best = max(tried, key=tried.__getitem__)
    table = Table("", "64 threads, calls/s", "64 coroutines, calls/s", title="A wrapped program's calls")
    table.add_row("one call at a time", f"{single:.1f}", "")
    for name, rate in tried.items():
        table.add_row(f"tried: {name}", "", f"{rate:.1f}")
    rates: list[tuple[float, float]] = []
    differ = 0
    for repeat in range(REPEATS):
        (fast, mine), (slow, others) = measure(ours, examples), measure(rivals[best], examples)
        rates.append((fast, slow))
        differ = max(differ, sum(one != other for one, other in zip(mine, others, strict=True)))
        table.add_row(f"repeat {repeat + 1}", f"{fast:.1f}", f"{slow:.1f}")
    Console().print(table)
    report(
        Figure(
            "wrapped calls a second, 64 threads",
            round_to(statistics.median(fast / slow for fast, slow in rates)),
            BAR,
            ours=round_to(statistics.median(fast for fast, _ in rates)),
            theirs=round_to(statistics.median(slow for _, slow in rates)),
            rival=f"64 coroutines, {best}",
            fault=f"{differ} of {CALLS} answers differ" if differ else "",
        )
    )


if __name__ == "__main__":
    main()
