"""What `scaling_plan.py` needs from a machine: the store's write rate and bytes, and the main process's work a rollout.

    python benchmarks/scaling_measures.py

Texts have the lengths of `cost.py`. Three measurements:

- **PostgreSQL**, a real server with its default settings on this machine. The store is filled with a part of the
  rollouts of 1,000 queries in large transactions. Then four processes with four threads each write as a run does: a
  look-up, a sample, a rollout, one transaction each. The rate, the bytes and the WAL are taken at each fill.
- **The loop**: one process samples from an endpoint and runs a `dspy.Predict`, whose LMs both answer at once, and
  stores everything. What remains is the main process's own processor time and memory a rollout.
- **Resuming** the loop's last stage: seconds a rollout that is in the store already.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import random
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import cost
import dspy
import psutil
import sqlalchemy as sa
from dspy.lm15 import Message, Request, Response, Usage
from postgres_server import NoPostgresError, postgres

from optimizers.core.concurrency import prefetch
from optimizers.core.records import Candidate, Query, Reward, Rollout
from optimizers.core.reward import Scorer
from optimizers.core.usage import Usage as Spent
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.sampling import sample_stage
from optimizers.sgt import candidates as sources
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import Supplement
from sgt_modules.remote.endpoint import Endpoint
from sgt_modules.samples import Sample
from sgt_modules.wrapping import supplement

FILLS = (0, 150_000)
"""Rollouts in the store before each measurement; the last are those of 1,000 queries with the largest recipe."""

WRITERS, THREADS, WRITTEN, REPEATS = 4, 4, 1_200, 2
EASY = "&options=-csynchronous_commit%3Doff"
"""An address's end that has the server answer before a commit is on its disk."""
BATCH = 5_000
LOOP_QUERIES = 60


class Writes(NamedTuple):
    """A store's figures at a fill: rollouts a second, and bytes of tables, indexes and WAL for each new rollout."""

    filled: int
    synchronous: bool
    a_second: float
    processor: float
    """Seconds of the writers' own processor time a rollout."""
    server: float
    """The same of all of the server's processes."""
    stored: float
    logged: float


class Loop(NamedTuple):
    """The main process's work: processor seconds and bytes of memory a rollout; seconds a rollout when resumed."""

    rollouts: int
    seconds: float
    processor: float
    memory: float
    resumed: float


def text(rng: random.Random, tokens: int) -> str:
    """Return a random text, which PostgreSQL can hardly compress."""
    length = tokens * cost.CHARACTERS
    return f"{rng.getrandbits(4 * length):0{length}x}"


def rollouts(rng: random.Random, count: int) -> Iterator[Rollout]:
    """Yield rollouts with keys and texts of their own, of the lengths that `cost.py` assumes."""
    for number in range(count):
        query = Query(f"{rng.getrandbits(128):032x}", number, "predict", text(rng, cost.PROMPT))
        written = Supplement("background", text(rng, cost.SUPPLEMENT))
        output = {"answer": text(rng, cost.ANSWER)}
        yield Rollout(query, "dpo2", "direct", written, Reward(1.0), output, logprob=rng.random(), seconds=rng.random())


def write_share(address: str, writer: str, count: int) -> float:
    """Write one process's rollouts from its threads; return its processor seconds."""
    rng = random.Random(writer)
    mine = list(rollouts(rng, count))
    with RolloutStore(address, run="measured") as store, ThreadPoolExecutor(THREADS) as threads:
        before = time.process_time()

        def write(number: int) -> None:
            rollout = mine[number]
            store.get("scope", rollout.query.id, rollout.supplement)
            sample = Sample(rollout.supplement.text, prompt_tokens=cost.PROMPT, tokens=cost.SUPPLEMENT)
            store.add_samples(f"stage {writer}", rng.getrandbits(40), [(rollout.query.id, sample)])
            store.add(rollout, "scope", paid=cost_of_one())

        list(threads.map(write, range(count)))
        return time.process_time() - before


def cost_of_one() -> Spent:
    """Return the usage of one rollout at the assumed lengths."""
    return Spent(1, 1, cost.PROMPT + cost.SUPPLEMENT, cost.ANSWER, cost.LATENCY)


def fill(address: str, count: int, seed: int) -> None:
    """Add rollouts and their samples in large transactions."""
    rng = random.Random(f"fill {seed}")
    with RolloutStore(address, run="measured") as store:
        coming, done = rollouts(rng, count), 0
        while batch := list(islice(coming, BATCH)):
            store.add_all(batch, "scope")
            samples = [(each.query.id, Sample(each.supplement.text)) for each in batch]
            store.add_samples(f"fill {seed}", done, samples)
            done += len(batch)


def server_seconds() -> float:
    """Return the processor seconds so far of the PostgreSQL that this process started, ended connections included."""
    [server] = [each for each in psutil.Process().children() if each.name() == "postgres"]
    own = server.cpu_times()
    living = 0.0
    for each in server.children():
        with suppress(psutil.NoSuchProcess):
            living += sum(each.cpu_times()[:2])
    return living + sum(own[:4])


def measure_writes(address: str, fills: Sequence[int]) -> Iterator[Writes]:
    """Measure the rate of all writers at each fill."""
    engine = sa.create_engine(address, poolclass=sa.NullPool)  # an open connection would keep the server up

    def read(query: str) -> float:
        with engine.connect() as connection:
            return float(connection.execute(sa.text(query)).scalar_one())

    def size() -> float:
        return read("SELECT pg_database_size(current_database())")

    def wal() -> float:
        return read("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")

    RolloutStore(address).close()
    there = 0
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WRITERS, mp_context=spawn) as pool:
        list(pool.map(abs, range(WRITERS)))
        for number, wanted in enumerate(fills):
            if wanted > there:
                fill(address, wanted - there, number)
            there = max(there, wanted)
            for repeat in range(REPEATS + (wanted == fills[-1])):
                at_once = repeat < REPEATS
                size_before, wal_before, server, began = size(), wal(), server_seconds(), time.perf_counter()
                shares = [WRITTEN // WRITERS] * WRITERS
                seeds = [f"{number} {repeat} {writer}" for writer in range(WRITERS)]
                where = address if at_once else f"{address}{EASY}"
                busy = sum(pool.map(write_share, [where] * WRITERS, seeds, shares))
                seconds = time.perf_counter() - began
                stored, logged = (
                    (after - before) / WRITTEN for after, before in ((size(), size_before), (wal(), wal_before))
                )
                served = (server_seconds() - server) / WRITTEN
                yield Writes(there, at_once, WRITTEN / seconds, busy / WRITTEN, served, stored, logged)
                there += WRITTEN


class InstantEngine:
    """Answers at once with a new text of a fixed length in tokens of four characters."""

    def __init__(self, opening: str, tokens: int, closing: str) -> None:
        self._opening, self._tokens, self._closing, self._rng = opening, tokens, closing, random.Random(0)

    def complete(self, request: Request) -> Response:
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(f"{self._opening}{text(self._rng, self._tokens)}{self._closing}"),
            finish_reason="stop",
            usage=Usage(input_tokens=cost.PROMPT, output_tokens=cost.SUPPLEMENT, total_tokens=cost.PROMPT),
        )


def measure_loop(address: str, queries: int, threads: int) -> Loop:
    """Measure a warm start of the package's own parts in this process, then the same again from the store."""
    rng = random.Random(0)
    examples = [
        dspy.Example(question=text(rng, cost.PROMPT), answer="0").with_inputs("question") for _ in range(queries)
    ]
    notes = dspy.LM(
        "scripted/notes", engine=InstantEngine("[background] ", cost.SUPPLEMENT, ""), cache=False, num_retries=0
    )
    answers = InstantEngine("[[ ## answer ## ]]\n", cost.ANSWER, "\n\n[[ ## completed ## ]]")
    generator = SupplementGenerator(Endpoint(notes, continues=False, concurrency=threads), max_new_tokens=512)
    program = supplement(dspy.Predict("question -> answer"), generator=generator)
    program.set_lm(dspy.LM("scripted/actor", engine=answers, cache=False, num_retries=0))
    process = psutil.Process()
    with RolloutStore(address, run="loop") as store:
        actor = RolloutEngine(program, Scorer(is_even), store, "loop", num_threads=threads)
        asked = actor.probe(examples).queries
        requests = sources.warm_start_requests(asked, rng=rng)

        def explore() -> tuple[float, int, list[object]]:
            def candidates() -> Generator[Candidate]:
                samples = sample_stage(store, "warm", generator, [request for _, request in requests])
                yield from sources.drop_repeats(sources.to_candidates(requests, samples, generator.fingerprint))

            began = time.perf_counter()
            with prefetch(candidates()) as coming:
                rollouts = actor.run(coming, examples, "warm")
            return time.perf_counter() - began, len(rollouts), [*rollouts]

        gc.collect()
        memory, busy = process.memory_info().rss, time.process_time()
        seconds, count, kept = explore()
        busy = time.process_time() - busy
        grown = process.memory_info().rss - memory
        del kept
        again, count_again, _ = explore()
    if count_again != count:
        raise RuntimeError(f"Expected {count} rollouts again, got {count_again}.")
    return Loop(count, seconds / count, busy / count, grown / count, again / count)


def is_even(_: dspy.Example, prediction: dspy.Prediction) -> bool:
    """The metric: half of the answers are right."""
    return str(prediction.answer)[-1:] in "02468ace"


def main() -> None:
    """Measure, and print two tables, each row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fills", type=int, nargs="+", default=FILLS)
    parser.add_argument("--queries", type=int, default=LOOP_QUERIES)
    options = parser.parse_args()
    try:
        with postgres() as address:
            loop = measure_loop(address, options.queries, 16)
            head = ["rollouts", "ms", "ms of the processor", "bytes of memory", "ms when resumed"]
            times = [f"{each * 1e3:.2f}" for each in (loop.seconds, loop.processor, loop.resumed)]
            row = [f"{loop.rollouts:,}", *times[:2], f"{loop.memory:,.0f}", times[2]]
            print(cost.table(head, [row]) + "\n", flush=True)
            print(
                cost.table(
                    ["in the store", "on disk at once", "a second", "ms of writers", "ms of server", "bytes", "WAL"], []
                )
            )
            for each in measure_writes(address, options.fills):
                figures = (each.processor * 1e3, each.server * 1e3, each.stored, each.logged)
                shown = [f"{each.a_second:,.0f}", *(f"{figure:,.4g}" for figure in figures)]
                line = [f"{each.filled:,}", "yes" if each.synchronous else "no", *shown]
                print(f"| {' | '.join(line)} |", flush=True)
    except NoPostgresError as none:
        raise SystemExit(f"Expected a PostgreSQL server, got none: {none}. Install one.") from none


if __name__ == "__main__":
    main()
