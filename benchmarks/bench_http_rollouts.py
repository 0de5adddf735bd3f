"""Rollouts with an actor behind HTTP that takes 200 ms: 2,000 calls, 64 at once, compared with calls x latency / 64.

This is the least time, if only the actor took time. The table also has DSPy's `Evaluate`, with as many calls of the
plain program and without a store. Five interleaved repeats; the figure is the ratio of the medians, and the last line
is JSON.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

import dspy
from rich.console import Console
from rich.table import Table
from scripted_http_actor import LATENCY, actor, served

from optimizers.core.records import Candidate, Query
from optimizers.core.reward import Scorer
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.queries import query_id
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import supplement
from sgt_modules.kinds import Supplement

BAR = 1.10
CALLS = 2000
THREADS = 64
REPEATS = 5
REPLY = "[[ ## answer ## ]]\n4\n\n[[ ## completed ## ]]"

EXAMPLES = [dspy.Example(question=f"{n} + {n}?", answer="4").with_inputs("question") for n in range(CALLS // 10)]
CANDIDATES = [
    Candidate(Query(query_id(example, "self"), index, "self", f"{index}"), Supplement("cot", f"Think {n}."), "direct")
    for index, example in enumerate(EXAMPLES)
    for n in range(10)
]


def exact(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    """Whether the answer is the expected one."""
    return example.answer == prediction.answer


def ours(lm: dspy.LM) -> float:
    """Return the seconds for a rollout of each candidate; each is in the store before its thread continues."""
    program = supplement(dspy.Predict("question -> answer"), generator="none/needed")
    program.set_lm(lm)
    with tempfile.TemporaryDirectory() as folder, RolloutStore(Path(folder) / "rollouts.sqlite") as store:
        acting = RolloutEngine(program, Scorer(exact), store, "benchmark", num_threads=THREADS)
        began = time.perf_counter()
        rollouts = acting.run(CANDIDATES, EXAMPLES, "warm")
        seconds = time.perf_counter() - began
        if not all(rollout.won() for rollout in rollouts) or store.count() != CALLS:
            raise RuntimeError(f"Expected {CALLS} stored successes, got {store.count()} rollouts.")
    return seconds


def theirs(lm: dspy.LM) -> float:
    """Return the seconds of `Evaluate` on as many examples."""
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)
    examples = [example for example in EXAMPLES for _ in range(10)]
    evaluate = dspy.Evaluate(devset=examples, metric=exact, num_threads=THREADS, display_progress=False)
    began = time.perf_counter()
    evaluate(program)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print a table, and then the figure."""
    logging.getLogger("dspy").setLevel(logging.WARNING)
    least = CALLS * LATENCY / THREADS
    with served(REPLY) as address:
        lm = actor(address)
        lm("Hello.")  # the first call of a process reads DSPy's list of prices
        times = [(ours(lm), theirs(lm)) for _ in range(REPEATS)]
    table = Table("repeat", "rollouts, s", "Evaluate, s", "calls x latency / threads, s", title=f"{CALLS} calls")
    for repeat, (stored, evaluated) in enumerate(times, start=1):
        table.add_row(str(repeat), f"{stored:.2f}", f"{evaluated:.2f}", f"{least:.2f}")
    Console().print(table)
    stored, evaluated = (statistics.median(each) for each in zip(*times, strict=True))
    figure = {
        "figure": "seconds of 2,000 rollouts against an HTTP actor of 200 ms, 64 at once",
        "ours": round(stored, 2),
    }
    ratio = stored / least
    print(
        json.dumps(
            {
                **figure,
                "theirs": least,
                "evaluate": round(evaluated, 2),
                "ratio": round(ratio, 3),
                "bar": BAR,
                "holds": ratio <= BAR,
            }
        )
    )


if __name__ == "__main__":
    main()
