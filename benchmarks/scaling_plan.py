"""A run of 1,000,000 queries on 200 GPUs, simulated: the tables of docs/scaling.md, *A hundred times more*.

    python benchmarks/scaling_plan.py

Nothing here was run at that size. Sizes come from the recipe and the settings themselves; every other number is a field
with its source: a measurement on one machine, or an assumption. A phase goes at the speed of its slowest part. Between
the failures of nodes, which are drawn from a seed, it goes on at that speed.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import cost
from scaling_numbers import TUNED, Cluster, Method, Phase, Setup, Software, phases

from optimizers.sgt.recipe import Recipe

SEEDS = 200
HOUR, DAY = 3600, 86400
MILLION = 1_000_000
LEAST_SHOWN = 0.1
"""Hours of a phase below which the table leaves it out: SFT, and each validation."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A phase's result. `terms` are the hours that each part needs by itself; `bound` is the longest.

    `hours` include `lost`, the hours that failures cost. `again` are calls and samples that were paid and repeated.
    `memory` is the main process's at the phase's end, `stored` the store's, in bytes.
    """

    phase: Phase
    terms: Mapping[str, float]
    hours: float
    failures: int
    lost: float
    again: int
    memory: float
    stored: float

    @property
    def bound(self) -> str:
        return max(self.terms, key=lambda name: self.terms[name])


def explore_terms(phase: Phase, cluster: Cluster, setup: Setup, software: Software, down: int = 0) -> dict[str, float]:
    """Return the hours of each part of an exploration, with `down` nodes of the servers missing.

    All parts overlap: the actor runs while the generator writes. Sampling and running share one Python process.
    """
    up = (cluster.gpus - cluster.training_gpus) * (1 - down / cluster.sampling_nodes)
    written = phase.samples * cost.SUPPLEMENT
    seconds = {
        "the actor's limit": 60 * phase.calls / cluster.actor_calls_a_minute,
        "calls at once": phase.calls * cluster.actor_seconds / setup.threads,
        "samples at once": phase.samples * cluster.sample_seconds / setup.requests,
        "sampling": written / (up * cluster.tokens_written_a_second_a_gpu)
        if up > 0
        else (math.inf if written else 0.0),
        "the main process's Python": phase.calls * software.python_seconds,
        "the store": phase.calls / software.stored_a_second,
    }
    return {name: each / HOUR for name, each in seconds.items()}


def train_terms(phase: Phase, cluster: Cluster, setup: Setup) -> dict[str, float]:
    """Return the hours of each part of a training. A step's rows are divided: more GPUs than rows have nothing to do.

    The rows are sent first, to each process all of them, unless training is a job of its own, which reads a file.
    """
    sending = 0.0 if setup.own_job else phase.sent * (cluster.training_gpus - 1) / cluster.network / HOUR
    seconds = phase.tokens / cluster.tokens_trained_a_second_a_gpu
    return {
        "training": seconds / cluster.training_gpus / HOUR,
        "rows a step": seconds / min(cluster.training_gpus, setup.rows_a_step) / HOUR,
        "sending rows": sending,
    }


@dataclass(frozen=True, slots=True)
class Before:
    """What a run holds before a phase: its rollouts, and the bytes of all rows that it trained on."""

    calls: int = 0
    rows: float = 0.0

    def memory(self, setup: Setup, software: Software) -> float:
        """Return the main process's bytes: rows stay, and where they are sent, the launcher's store keeps a copy."""
        return self.calls * software.bytes_held + self.rows * (1 if setup.own_job else 2)


def simulate(method: Method, cluster: Cluster, setup: Setup, software: Software, *, seed: int = 0) -> list[Outcome]:
    """Go through a run's phases; failures are drawn from the seed.

    >>> tiny = Method(Recipe(rounds=1), queries=1)
    >>> outcomes = simulate(tiny, Cluster(failures_a_node_a_day=0.0), Setup(), Software())
    >>> [outcome.lost for outcome in outcomes] == [0.0] * len(outcomes)
    True
    """
    rng, outcomes, before = random.Random(seed), list[Outcome](), Before()
    for phase in phases(method):
        step = _train if phase.tokens else _explore
        outcomes.append(step(phase, before, cluster, setup, software, rng))
        before = Before(before.calls + phase.calls, before.rows + phase.sent)
    return outcomes


def _explore(
    phase: Phase, before: Before, cluster: Cluster, setup: Setup, software: Software, rng: random.Random
) -> Outcome:
    """Calls at the speed of the slowest part. A server's node loses its samples in progress and is missing until it is
    up again. The main process's node, or any that was launched with it, ends the run: its calls in progress are lost.
    """
    terms = explore_terms(phase, cluster, setup, software)
    undisturbed = max(terms.values())
    fatal = 1 if setup.own_job else cluster.training_nodes
    nodes = cluster.sampling_nodes + fatal
    clock, left, failures, again, repairs = 0.0, 1.0, 0, 0, list[float]()
    failure = _until_failure(nodes, cluster, rng)
    while True:
        whole = max(explore_terms(phase, cluster, setup, software, len(repairs)).values())
        ends = clock + (left * whole if whole < math.inf else math.inf)
        now = min(ends, failure, *repairs)
        if now == ends:
            clock = now
            break
        left -= (now - clock) / whole
        clock = now
        if now in repairs:
            repairs.remove(now)
            continue
        failures += 1
        if rng.random() < fatal / nodes:
            again += min(setup.threads, phase.calls)
            stored = before.calls + (1 - left) * phase.calls
            clock, repairs = clock + _restart(stored, fatal, cluster, software, rng), []
        elif len(repairs) < cluster.sampling_nodes:
            again += min(setup.requests, phase.samples) // cluster.sampling_nodes
            repairs.append(clock + cluster.restart_seconds / HOUR)
        failure = clock + _until_failure(nodes, cluster, rng)
    memory = before.memory(setup, software) + phase.calls * software.bytes_exploring
    stored = (before.calls + phase.calls) * software.bytes_stored
    return Outcome(phase, terms, clock, failures, clock - undisturbed, again, memory, stored)


def _train(
    phase: Phase, before: Before, cluster: Cluster, setup: Setup, software: Software, rng: random.Random
) -> Outcome:
    """A failure of one process ends all: the stage begins again, as no weights are saved within one.

    Where the main process was launched with them, the run goes through all that is stored first.
    """
    terms = train_terms(phase, cluster, setup)
    needed = max(terms["training"], terms["rows a step"]) + terms["sending rows"]
    clock, failures, stored = 0.0, 0, 0 if setup.own_job else before.calls
    while (failure := _until_failure(cluster.training_nodes, cluster, rng)) < needed:
        clock += failure + _restart(stored, cluster.training_nodes, cluster, software, rng)
        failures += 1
    copies = 1 if setup.own_job else 4  # the rows, their message, its parts, and the launcher's store
    memory = before.memory(setup, software) + copies * phase.sent
    return Outcome(phase, terms, clock + needed, failures, clock, 0, memory, before.calls * software.bytes_stored)


def _restart(stored: float, nodes: int, cluster: Cluster, software: Software, rng: random.Random) -> float:
    """Draw the hours until a run goes on: it starts, and looks up every rollout so far, unless a node fails again."""
    needed, clock = (cluster.restart_seconds + stored * software.resumed_seconds) / HOUR, 0.0
    while (failure := _until_failure(nodes, cluster, rng)) < needed:
        clock += failure
    return clock + needed


def _until_failure(nodes: int, cluster: Cluster, rng: random.Random) -> float:
    """Draw the hours until one of the nodes fails."""
    rate = nodes * cluster.failures_a_node_a_day / 24
    return rng.expovariate(rate) if rate else math.inf


def limits(method: Method, cluster: Cluster, setup: Setup, software: Software) -> dict[str, float]:
    """Return the number of queries at which each limit is reached, the lowest first: all of them grow in proportion.

    Full memory ends a run. The others are those from which a part alone takes a week, or a resume a day.
    """
    method, calm = replace(method, queries=MILLION, validation=0), replace(cluster, failures_a_node_a_day=0.0)
    steps, outcomes = phases(method), simulate(method, calm, setup, software)
    most_sent = max(step.sent for step in steps if not step.name.startswith("SFT"))
    copies = 0 if setup.own_job else cluster.gpus_a_node
    found = {
        "the main process's memory is full": cluster.memory / max(each.memory for each in outcomes),
        "the rows fill the memory of a training node": cluster.memory / (most_sent * copies) if copies else math.inf,
        "to go through the store again takes a day": DAY
        / (sum(step.calls for step in steps) * software.resumed_seconds),
    }
    for name in dict.fromkeys(name for each in outcomes for name in each.terms):
        hours = sum(each.terms.get(name, 0.0) for each in outcomes)
        found[f"{name}: a week"] = 7 * 24 / hours if hours else math.inf
    return {name: MILLION * share for name, share in sorted(found.items(), key=lambda each: each[1])}


@dataclass(frozen=True, slots=True)
class Total:
    """A run's hours: the mean over all seeds, the least of the slowest tenth, without failures. Sizes are in bytes."""

    hours: float
    slow: float
    calm: float
    again: float
    """Calls and samples in progress at failures, on average: they are paid twice."""
    calls: int
    memory: float
    stored: float
    bound: str


def total(method: Method, cluster: Cluster, setup: Setup, software: Software, seeds: int = SEEDS) -> Total:
    """Sum up a run over its phases, for many seeds."""
    runs = [simulate(method, cluster, setup, software, seed=seed) for seed in range(seeds)]
    took = sorted(sum(each.hours for each in run) for run in runs)
    calm = simulate(method, replace(cluster, failures_a_node_a_day=0.0), setup, software)
    longest = max(calm, key=lambda each: each.hours)
    return Total(
        hours=statistics.mean(took),
        slow=took[int(0.9 * len(took))],
        calm=sum(each.hours for each in calm),
        again=statistics.mean(sum(each.again for each in run) for run in runs),
        calls=sum(each.phase.calls for each in calm),
        memory=max(each.memory for each in calm),
        stored=calm[-1].stored,
        bound=longest.bound,
    )


def sources_table(*records: object) -> str:
    """Return every number with its source."""
    rows = [
        [f"`{type(each).__name__}.{one.name}`", f"{getattr(each, one.name):,}", one.metadata["source"]]
        for each in records
        for one in fields(cast("Cluster", each))
    ]
    return cost.table(["number", "value", "source"], rows)


def phases_table(outcomes: Sequence[Outcome], failed: Mapping[str, float]) -> str:
    """Return a row for each phase without failures; `failed` are the mean hours that failures add to each."""
    rows = [
        [
            each.phase.name,
            f"{each.phase.calls / 1e6:.1f} M",
            f"{each.hours:.1f}",
            each.bound,
            f"{failed[each.phase.name]:.1f}",
            f"{each.memory / 1e9:,.0f}",
            f"{each.stored / 1e9:,.0f}",
        ]
        for each in outcomes
        if each.hours >= LEAST_SHOWN
    ]
    head = ["phase", "calls", "hours", "bound by", "failures add, hours", "memory, GB", "store, GB"]
    return cost.table(head, rows)


def lost_hours(method: Method, cluster: Cluster, setup: Setup, software: Software) -> dict[str, float]:
    """Return the mean hours that failures add to each phase, by its name."""
    lost: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        for each in simulate(method, cluster, setup, software, seed=seed):
            lost.setdefault(each.phase.name, []).append(each.lost)
    return {name: statistics.mean(each) for name, each in lost.items()}


def limits_table(found: Mapping[str, float]) -> str:
    """Return the limits that a plan of two million queries would meet."""
    rows = [[name, f"{round(queries, -3):,.0f}"] for name, queries in found.items() if queries < 2 * MILLION]
    return cost.table(["reached", "training queries"], rows)


def plans() -> Iterator[tuple[str, Method, Cluster, Setup, Software]]:
    """Yield the plans that the page compares."""
    cluster, software = Cluster(), Software()
    heavy = Method(Recipe.auto("heavy"), MILLION)
    light = replace(heavy, recipe=Recipe.auto("light"))
    own = replace(TUNED, own_job=True)
    yield "`heavy`, the defaults", heavy, cluster, Setup(), software
    yield "`heavy`, tuned", heavy, cluster, TUNED, software
    yield "`heavy`, tuned, own job", heavy, cluster, own, software
    yield "the same at ten times the actor's limit", heavy, replace(cluster, actor_calls_a_minute=1e5), own, software
    yield "`light`, tuned, own job", light, cluster, own, software
    yield "`heavy`, 50,000 queries, tuned", replace(heavy, queries=50_000), cluster, TUNED, software


def plans_table() -> str:
    rows = [
        [
            name,
            f"{found.calls / 1e6:.1f} M",
            f"${cost.dollars(found.calls, cost.PRICES['small']):,.0f}",
            f"{found.calm / 24:.3g}",
            f"{found.hours / 24:.3g}",
            f"{found.slow / 24:.3g}",
            f"{found.again:,.0f}",
            found.bound,
            f"{found.memory / 1e9:,.0f}",
            f"{found.stored / 1e9:,.0f}",
        ]
        for name, method, cluster, setup, software in plans()
        for found in [total(method, cluster, setup, software)]
    ]
    head = [
        "plan",
        "calls",
        "small actor",
        "days",
        "with failures",
        "slowest tenth",
        "paid twice",
        "bound by",
        "memory, GB",
        "store, GB",
    ]
    return cost.table(head, rows)


def tables() -> list[str]:
    """Return all of the page's tables, as Markdown."""
    cluster, software = Cluster(), Software()
    heavy = Method(Recipe.auto("heavy"), MILLION)
    calm = simulate(heavy, replace(cluster, failures_a_node_a_day=0.0), TUNED, software)
    return [
        plans_table(),
        phases_table(calm, lost_hours(heavy, cluster, TUNED, software)),
        limits_table(limits(heavy, cluster, TUNED, software)),
    ]


def main() -> None:
    """Print every number with its source, then the page's tables."""
    print("\n\n".join([sources_table(Cluster(), Setup(), Software()), *tables()]))


if __name__ == "__main__":
    main()
