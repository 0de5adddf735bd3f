"""Losses and doubles in a shared PostgreSQL store: 4 processes write 50,000 rollouts of two runs at once.

Each process writes 12,500 rollouts like an actor's threads, one transaction each; the first tenth of them are keys that
its neighbour writes too. Afterwards the store must hold each key once and whole, list each run's own rollouts, and
count the paid calls exactly. The benchmark starts a real server with its default settings. The figure is the number of
rollouts that are missing, doubled or counted wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import NamedTuple

from figures import Figure, report
from postgres_server import NoPostgresError, postgres
from rich.console import Console
from rich.table import Table

from optimizers.core.records import Query, Reward, Rollout
from optimizers.core.usage import Usage
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.kinds import Supplement

ROLLOUTS = 50_000
PROCESSES = 4
THREADS = 4
SHARED = 0.1
"""The share of a process's keys that its neighbour writes too."""

PAID = Usage(runs=1, calls=2, tokens_in=30, tokens_out=5, seconds=0.5, cost=0.25)


class Outcome(NamedTuple):
    """The store after all writes: seconds, keys, and how many of them are wrong."""

    seconds: float
    keys: int
    wrong: int


def rollout(number: int) -> Rollout:
    """Return a rollout with its own key."""
    query = Query(f"q{number}", number, "self", f"Help with question {number}, please. " * 10)
    return Rollout(query, "warm", "free", Supplement("cot", f"Think {number} times."), Reward(float(number % 2)))


def numbers(process: int, rollouts: int) -> list[int]:
    """Return the keys of a process; the last tenth are the first keys of the next process."""
    each = rollouts // PROCESSES
    own = each - round(each * SHARED)
    return [(process * own + n) % (PROCESSES * own) for n in range(each)]


def run_of(process: int) -> str:
    """Two processes work for each run."""
    return f"run {process % 2}"


def written(address: str, process: int, rollouts: int) -> int:
    """Write one process's share; return how many of them it reads back unchanged."""
    mine = numbers(process, rollouts)
    with RolloutStore(address, run=run_of(process)) as store, ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda number: store.add(rollout(number), "scope", paid=PAID), mine))
        return sum(threads.map(lambda number: _found(store, number), mine))


def _found(store: RolloutStore, number: int) -> bool:
    known = store.get("scope", f"q{number}", rollout(number).supplement)
    return known == rollout(number)


def measured(address: str, rollouts: int) -> Outcome:
    """Write from all processes at once, then compare everything."""
    began = time.perf_counter()
    RolloutStore(address).close()
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(written, [address] * PROCESSES, range(PROCESSES), [rollouts] * PROCESSES))
    seconds = time.perf_counter() - began
    keys = {number for process in range(PROCESSES) for number in numbers(process, rollouts)}
    with RolloutStore(address) as store:
        return Outcome(seconds, len(keys), rollouts - sum(found) + sum(_differences(store, keys, rollouts)))


def _differences(store: RolloutStore, keys: set[int], rollouts: int) -> Iterator[int]:
    scan = store.scan()
    yield abs(scan.rollouts - len(keys)) + scan.unreadable + scan.failed
    for run in {run_of(process) for process in range(PROCESSES)}:
        of_run = [numbers(process, rollouts) for process in range(PROCESSES) if run_of(process) == run]
        listed = [each.query.index for each in store.iter_rollouts(run=run)]
        yield len(listed) - len(set(listed))
        yield len(set(listed) ^ {number for mine in of_run for number in mine})
        paid, runs = store.spent(run), sum(map(len, of_run))
        expected = Usage(*(runs * getattr(PAID, name) for name in PAID.__slots__))
        yield 0 if paid == expected else abs(paid.runs - runs) or 1


def main() -> None:
    """Measure, print a table, and then the figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollouts", type=int, default=ROLLOUTS)
    rollouts = parser.parse_args().rollouts
    name = f"of {rollouts:,} rollouts written by {PROCESSES} processes, lost, doubled or miscounted"
    try:
        with postgres() as address:
            seconds, keys, wrong = measured(address, rollouts)
    except NoPostgresError as none:
        report(Figure(name, None, 0, at_most=True, fault=f"not measured: {none}"))
        return
    table = Table("written", "keys", "seconds", "a second", "wrong", title=f"{PROCESSES} processes, one PostgreSQL")
    table.add_row(f"{rollouts:,}", f"{keys:,}", f"{seconds:.1f}", f"{rollouts / seconds:,.0f}", str(wrong))
    Console().print(table)
    report(Figure(name, wrong, 0, at_most=True))


if __name__ == "__main__":
    main()
