"""Time and memory of the loop: 1,000, 10,000 and 100,000 rollouts of an instant scripted actor.

Each size is `RolloutEngine.run` on a real store on disk, in its own process, so no size reuses another's results. The
program is a real `dspy.Predict` over a real `dspy.LM` without DSPy's cache (which keeps every answer in memory); only
the network is missing. Memory is the process's largest resident set during the run minus the one before; it includes
the rollouts that `run` returns, because callers hold them. Sizes that take less than a minute run five times, in turn;
their medians count. The figures are seconds a rollout at 100,000 divided by seconds a rollout at 1,000, and memory.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import dspy
import psutil
from dspy.lm15 import Message, Request, Response, Usage
from figures import Figure, report, round_to
from rich.console import Console
from rich.table import Table

from optimizers.core.records import Candidate, Rollout
from optimizers.core.reward import Scorer
from optimizers.rollouts.engine import RolloutEngine
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.embedded import embedded_generator
from sgt_modules.kinds import Supplement
from sgt_modules.wrapping import supplement

SIZES = (1_000, 10_000, 100_000)
REPEATS = 5
THREADS = 8
EXAMPLES = 500
BAR = 1.2
BAR_MB = 200
WATCHED = 100
"""Memory is measured after each such number of rollouts."""


class Growth(NamedTuple):
    """One size's figures: wall and processor seconds a rollout, and the rise of memory in MB."""

    seconds: float
    processor: float
    megabytes: float


class InstantEngine:
    """Answers at once with the length of its prompt; counts usage in words."""

    def complete(self, request: Request) -> Response:
        text = request.messages[-1].text or ""
        answer = f"[[ ## answer ## ]]\n{len(text) % 2}\n\n[[ ## completed ## ]]"
        read, wrote = len(text.split()), len(answer.split())
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(answer),
            finish_reason="stop",
            usage=Usage(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote),
        )


def is_even(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    """The metric: half of the answers are right."""
    return prediction.answer == example.answer


def measured(rollouts: int) -> Growth:
    """Measure one size in this process."""
    examples = [
        dspy.Example(question=f"What comes after {n}?", answer="0").with_inputs("question") for n in range(EXAMPLES)
    ]
    program = supplement(dspy.Predict("question -> answer"), generator=embedded_generator())
    program.set_lm(dspy.LM("scripted/instant", engine=InstantEngine(), cache=False, num_retries=0))
    process = psutil.Process()
    with TemporaryDirectory() as folder, RolloutStore(Path(folder) / "rollouts.sqlite") as store:
        actor = RolloutEngine(program, Scorer(is_even), store, "growth", num_threads=THREADS)
        queries = actor.probe(examples).queries
        candidates = [
            Candidate(queries[n % EXAMPLES], Supplement("cot", f"Think of it in step {n // EXAMPLES}."), "free")
            for n in range(rollouts)
        ]
        gc.collect()
        before = highest = process.memory_info().rss
        done = 0

        def watch(_: Rollout) -> None:
            nonlocal done, highest
            done += 1
            if done % WATCHED == 0:
                highest = max(highest, process.memory_info().rss)

        began, busy = time.perf_counter(), time.process_time()
        finished = actor.run(candidates, examples, "growth", on_done=watch)
        seconds, processor = time.perf_counter() - began, time.process_time() - busy
        if len(finished) != rollouts or store.count() != rollouts + EXAMPLES:
            raise RuntimeError(f"Expected {rollouts} rollouts, returned and stored; got {len(finished)}.")
    return Growth(seconds / rollouts, processor / rollouts, (highest - before) / 2**20)


def apart(rollouts: int) -> Growth:
    """Measure one size in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        return alone.submit(measured, rollouts).result()


def main() -> None:
    """Measure, print a table, and then the figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    sizes = parser.parse_args().sizes
    small, *_, large = sizes
    took: dict[int, list[Growth]] = {size: [] for size in sizes}
    for repeat in range(REPEATS):
        for size in sizes:
            if repeat == 0 or took[size][0].seconds * size < 60:
                took[size].append(apart(size))
    table = Table("rollouts", "runs", "ms a rollout", "of processor", "memory, MB", title=f"{THREADS} threads")
    middle: dict[int, Growth] = {}
    for size, runs in took.items():
        middle[size] = Growth(*(statistics.median(each) for each in zip(*runs, strict=True)))
        seconds, processor, megabytes = middle[size]
        spread = f"{seconds * 1e3:.2f} ({min(runs)[0] * 1e3:.2f} to {max(runs)[0] * 1e3:.2f})"
        table.add_row(f"{size:,}", str(len(runs)), spread, f"{processor * 1e3:.2f}", f"{megabytes:.0f}")
    Console().print(table)
    ours, theirs, memory = middle[large].seconds, middle[small].seconds, middle[large].megabytes
    report(
        Figure(
            f"milliseconds a rollout, {large:,} against {small:,} rollouts",
            round_to(ours / theirs),
            BAR,
            at_most=True,
            ours=round_to(ours * 1e3),
            theirs=round_to(theirs * 1e3),
        ),
        Figure(f"MB that memory rises by in {large:,} rollouts", round(memory), BAR_MB, at_most=True),
    )


if __name__ == "__main__":
    main()
