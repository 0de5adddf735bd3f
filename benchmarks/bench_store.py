"""A store of 1,000,000 rollouts: seconds to open and to scan it, and the memory.

The benchmark first writes the store, which takes a minute or two and 2 GB of disk. Rollouts have a prompt of 600
characters, a supplement of 300 and an answer of 100. Each repeat is a new process that opens the store, scans it (reads
every row and compares it with its checksum), sums the cost, looks up 1,000 rollouts, and reads 10,000 of a stage.
Memory is the process's largest resident set, with imports. Five repeats; medians count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import statistics
import string
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from figures import Figure, report, round_to
from rich.console import Console
from rich.table import Table

from optimizers.core.records import Query, Reward, Rollout
from optimizers.core.usage import Usage
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.kinds import Supplement

ROLLOUTS = 1_000_000
QUERIES = 7_000
REPEATS = 5
BATCH = 5_000
LOOKED_UP = 1_000
READ = 10_000
BAR_OPEN, BAR_SCAN, BAR_MB = 1.0, 10.0, 500


class Work(NamedTuple):
    """Seconds by operation, the largest memory, and the number of rollouts found."""

    opening: float
    scanning: float
    summing: float
    looking_up: float
    reading: float
    megabytes: float
    found: int


def text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(string.ascii_lowercase + " ", k=length))


def rollouts(count: int) -> Iterator[Rollout]:
    """Yield rollouts like a run of six stages; one in fifty failed."""
    rng = random.Random(0)
    prompts = [text(rng, 600) for _ in range(QUERIES)]
    texts = [text(rng, 300) for _ in range(QUERIES)]
    for number in range(count):
        index = number % QUERIES
        yield Rollout(
            query=Query(f"{index:032x}", index, "predict", prompts[index]),
            stage=f"round {6 * number // count}",
            source="direct",
            supplement=supplement(number, texts[number * 31 % QUERIES]),
            reward=None if number % 50 == 0 else Reward(float(number % 2)),
            output={"answer": texts[number * 17 % QUERIES][:100]},
            tokens_in=300,
            tokens_out=50,
            seconds=0.5,
            cost=0.001,
        )


def supplement(number: int, said: str) -> Supplement:
    return Supplement("background", f"{number} {said}")


def build(path: Path, count: int) -> None:
    """Write the store, some thousand rollouts in each transaction."""
    with RolloutStore(path) as store:
        coming = rollouts(count)
        while batch := list(islice(coming, BATCH)):
            store.add_all(batch, "scope", paid=Usage(runs=len(batch), calls=len(batch), seconds=1.0))


def worked(path: Path, known: Sequence[Rollout]) -> Work:
    """Do the first steps of a resumed run in this process."""
    times = [time.perf_counter()]

    def lap() -> None:
        times.append(time.perf_counter())

    with RolloutStore(path) as store:
        lap()
        scan = store.scan()
        lap()
        paid = store.spent()
        lap()
        found = sum(store.get("scope", each.query.id, each.supplement) is not None for each in known)
        lap()
        read = sum(1 for _ in islice(store.iter_rollouts("scope", "round 5"), READ))
        lap()
    if scan.unreadable or paid.calls != scan.rollouts or found < len(known) or read == 0:
        raise RuntimeError(f"Expected a whole store, got {scan}, {paid}, {found} found, {read} read.")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Work(*(after - before for before, after in pairwise(times)), peak, scan.rollouts)


def main() -> None:
    """Build, measure, print a table, and then the figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollouts", type=int, default=ROLLOUTS)
    count = parser.parse_args().rollouts
    known = [each for each in islice(rollouts(count), LOOKED_UP) if each.reward is not None]
    spawn = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rollouts.sqlite"
        began = time.perf_counter()
        build(path, count)
        building, size = time.perf_counter() - began, path.stat().st_size / 2**20
        works: list[Work] = []
        for _ in range(REPEATS):
            with ProcessPoolExecutor(1, mp_context=spawn) as alone:
                works.append(alone.submit(worked, path, known).result())
    middle = Work(*(statistics.median(each) for each in zip(*works, strict=True)))
    table = Table(
        "what", "median", "from", "to", title=f"{count:,} rollouts, {size:,.0f} MB, built in {building:.0f} s"
    )
    for name, unit, column in (
        ("open", "s", [work.opening for work in works]),
        ("scan", "s", [work.scanning for work in works]),
        ("what was spent", "s", [work.summing for work in works]),
        ("look one up", "ms", [work.looking_up / len(known) * 1e3 for work in works]),
        (f"{READ:,} of a stage", "s", [work.reading for work in works]),
        ("memory", "MB", [work.megabytes for work in works]),
    ):
        shown = (f"{each:.3g}" for each in (statistics.median(column), min(column), max(column)))
        table.add_row(f"{name}, {unit}", *shown)
    Console().print(table)
    name = f"a store of {count:,} rollouts"
    report(
        Figure(f"seconds to scan {name}", round_to(middle.scanning), BAR_SCAN, at_most=True),
        Figure(f"seconds to open {name}", round_to(middle.opening), BAR_OPEN, at_most=True),
        Figure(f"MB of memory to scan {name}", round(middle.megabytes), BAR_MB, at_most=True),
    )


if __name__ == "__main__":
    main()
