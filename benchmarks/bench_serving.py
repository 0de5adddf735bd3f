"""Calls a second of a wrapped program: 64 threads at once, compared with one call at a time, on the embedded models.

Five interleaved repeats of each; the figure is the ratio of the medians, and the last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import dspy
from rich.console import Console
from rich.table import Table

from sgt_modules import supplement
from sgt_modules.embedded import HouseTermsWorld, embedded_actor, embedded_generator, program

BAR = 8.0
THREADS = 64
REPEATS = 5


def calls_a_second(calls: int, run: Callable[[int], None]) -> float:
    """Return how many of `calls` were answered each second."""
    began = time.perf_counter()
    run(calls)
    return calls / (time.perf_counter() - began)


def main() -> None:
    """Measure, print a table, and then the figure."""
    world = HouseTermsWorld(seed=0)
    wrapped = supplement(program(), generator=embedded_generator())
    actor = embedded_actor()

    def ask(index: int) -> None:
        with dspy.context(lm=actor, disable_history=True):
            wrapped(**world.test[index % len(world.test)].inputs())

    def together(calls: int) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(ask, range(calls)))

    def one_by_one(calls: int) -> None:
        for index in range(calls):
            ask(index)

    one_by_one(2)
    together(THREADS)
    ours, theirs = [], []
    for _ in range(REPEATS):
        ours.append(calls_a_second(4 * THREADS, together))
        theirs.append(calls_a_second(16, one_by_one))
    table = Table("repeat", "64 threads, calls/s", "one at a time, calls/s", title="A wrapped program's calls")
    for repeat, (many, single) in enumerate(zip(ours, theirs, strict=True), start=1):
        table.add_row(str(repeat), f"{many:.1f}", f"{single:.1f}")
    Console().print(table)
    fast, slow = statistics.median(ours), statistics.median(theirs)
    figure = {"figure": "wrapped calls a second, 64 threads", "ours": round(fast, 1), "theirs": round(slow, 1)}
    print(json.dumps({**figure, "ratio": round(fast / slow, 2), "bar": BAR, "holds": fast / slow >= BAR}))


if __name__ == "__main__":
    main()
