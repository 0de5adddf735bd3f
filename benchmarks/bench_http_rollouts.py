"""Rollouts with an actor behind HTTP that takes 200 ms: 2,000 calls, 64 at once, compared with calls x latency / 64.

This is the least time, if only the actor took time. The rivals make as many calls of the plain program, 64 at once,
and store nothing: DSPy's `Evaluate` with threads, coroutines over `acall`, and coroutines that parse the answers of an
`httpx.AsyncClient` with DSPy's adapter. Five interleaved repeats; the figures are medians of the repeats' ratios: to
the least time, and to the faster one of DSPy's two own ways. The bare client is in the table only: it makes no
`dspy.Prediction`, counts no usage and retries nothing.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import dspy
import httpx
from figures import Figure, report, round_to
from rich.console import Console
from rich.table import Table
from scripted_http_actor import LATENCY, MODEL, actor, served

from optimizers.core.records import Candidate, Query
from optimizers.core.reward import Scorer
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.queries import query_id
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import supplement
from sgt_modules.kinds import Supplement

BAR, BAR_RIVAL = 1.10, 1.10
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


def evaluate(lm: dspy.LM) -> float:
    """Return the seconds of `Evaluate` on as many examples."""
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)
    judge = dspy.Evaluate(devset=repeated(), metric=exact, num_threads=THREADS, display_progress=False)
    began = time.perf_counter()
    judge(program)
    return time.perf_counter() - began


def repeated() -> list[dspy.Example]:
    """Return an example for each call."""
    return [example for example in EXAMPLES for _ in range(10)]


async def gather(call: Callable[[dspy.Example], Awaitable[str]]) -> float:
    """Return the seconds of all calls in as many coroutines as we have threads; every answer must be right."""
    left = iter(repeated())
    wrong = 0

    async def work() -> None:
        nonlocal wrong
        for example in left:
            wrong += await call(example) != example.answer

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(THREADS)))
    if wrong:
        raise RuntimeError(f"Expected right answers, got {wrong} wrong ones.")
    return time.perf_counter() - began


async def dspy_coroutines(lm: dspy.LM) -> float:
    """Return the seconds of `acall`."""
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)

    async def call(example: dspy.Example) -> str:
        return (await program.acall(**example.inputs())).answer

    return await gather(call)


async def bare_coroutines(address: str) -> float:
    """Return the seconds of an HTTP client that formats and parses with DSPy's adapter."""
    adapter, signature = dspy.ChatAdapter(), dspy.Signature("question -> answer")
    limits = httpx.Limits(max_connections=THREADS, max_keepalive_connections=THREADS)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:

        async def call(example: dspy.Example) -> str:
            messages = adapter.format(signature, [], example.inputs().toDict())
            response = await client.post("/chat/completions", json={"model": MODEL, "messages": messages})
            return adapter.parse(signature, response.json()["choices"][0]["message"]["content"])["answer"]

        return await gather(call)


def main() -> None:
    """Measure, print a table, and then the figures."""
    logging.getLogger("dspy").setLevel(logging.WARNING)
    least = CALLS * LATENCY / THREADS
    with served(REPLY) as address:
        lm = actor(address)
        lm("Hello.")  # the first call of a process reads DSPy's list of prices
        ways: dict[str, Callable[[], float]] = {
            "rollouts": lambda: ours(lm),
            "Evaluate": lambda: evaluate(lm),
            "acall": lambda: asyncio.run(dspy_coroutines(lm)),
            "httpx": lambda: asyncio.run(bare_coroutines(address)),
        }
        times = [{name: run() for name, run in ways.items()} for _ in range(REPEATS)]
    table = Table("repeat", *(f"{name}, s" for name in ways), "calls x latency / threads, s", title=f"{CALLS} calls")
    for repeat, taken in enumerate(times, start=1):
        table.add_row(str(repeat), *(f"{taken[name]:.2f}" for name in ways), f"{least:.2f}")
    Console().print(table)
    medians = {name: statistics.median(taken[name] for taken in times) for name in ways}
    best = min(("Evaluate", "acall"), key=medians.__getitem__)
    name, stored = (
        "seconds of 2,000 rollouts against an HTTP actor of 200 ms, 64 at once",
        round_to(medians["rollouts"]),
    )
    ratio = statistics.median(taken["rollouts"] / taken[best] for taken in times)
    report(
        Figure(name, round_to(medians["rollouts"] / least), BAR, True, stored, least, "calls x latency / 64"),
        Figure(f"{name}, stored", round_to(ratio), BAR_RIVAL, True, stored, round_to(medians[best]), best),
    )


if __name__ == "__main__":
    main()
