"""A run of 1,000,000 queries on 200 GPUs, simulated: the tables of docs/scaling.md, *A hundred times more*.

    python benchmarks/scaling_plan.py

Nothing here was run at that size. Sizes come from the recipe and the settings themselves; every other number is a field
with its source: a measurement on one machine, or an assumption. A phase goes at the speed of its slowest part. Between
the failures of nodes, which are drawn from a seed, it goes on at that speed.
"""

from __future__ import annotations

import inspect
import math
import pickle
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import TypeVar, cast

import cost
import dspy

from optimizers.core.records import PreferencePair
from optimizers.sgt.recipe import Recipe
from optimizers.training.trainer import TrainingSettings
from sgt_modules.remote.endpoint import Endpoint

_Value = TypeVar("_Value")

MEASURED = "measured on two busy CPU cores by `scaling_measures.py`"
SEEDS = 200
HOUR, DAY = 3600, 86400


def given(value: _Value, source: str) -> _Value:
    """Make a field with a default and its source."""
    return cast("_Value", field(default=value, metadata={"source": source}))


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines, the actor's provider, and how often a node fails."""

    gpus: int = given(200, "the question")
    training_gpus: int = given(100, "assumed: the others hold the generator's servers")
    gpus_a_node: int = given(8, "assumed")
    tokens_written_a_second_a_gpu: float = given(cost.SAMPLED_A_SECOND[1], "assumed, as above")
    tokens_trained_a_second_a_gpu: float = given(cost.TRAINED_A_SECOND[1], "assumed, as above")
    actor_calls_a_minute: float = given(10_000, "the question")
    actor_seconds: float = given(cost.LATENCY, "assumed, as above")
    sample_seconds: float = given(3.0, "assumed: 150 tokens at 50 a second for each request")
    failures_a_node_a_day: float = given(0.02, "assumed: 5 x the 419 in 54 days on 2,048 nodes of arXiv 2407.21783")
    restart_seconds: float = given(600, "assumed")
    memory: float = given(512e9, "assumed, bytes of each node")
    network: float = given(1e9, "assumed, bytes a second from the main process to the others")

    @property
    def sampling_nodes(self) -> int:
        return max(1, (self.gpus - self.training_gpus) // self.gpus_a_node)

    @property
    def training_nodes(self) -> int:
        return max(1, self.training_gpus // self.gpus_a_node)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a user sets: calls and samples at once, and the rows of a training step. The defaults are the package's."""

    threads: int = given(dspy.settings.num_threads, "DSPy's default of `num_threads`")
    requests: int = given(
        inspect.signature(Endpoint).parameters["concurrency"].default, "default of `Endpoint(concurrency=)`"
    )
    rows_a_step: int = given(
        TrainingSettings().batch_size * TrainingSettings().gradient_accumulation, "default of `TrainingSettings`"
    )


@dataclass(frozen=True, slots=True)
class Software:
    """What one main process and one store do."""

    python_seconds: float = given(2.94e-3, f"a rollout with its sample, {MEASURED}")
    stored_a_second: float = given(284.0, f"rollouts, four writers, {MEASURED}")
    bytes_stored: float = given(7_397, f"a rollout with its sample, {MEASURED}")
    bytes_logged: float = given(7_718, f"WAL of the same, {MEASURED}")
    bytes_exploring: float = given(12_816, f"memory a rollout of the stage that is explored, {MEASURED}")
    bytes_held: float = given(2_200, "memory a rollout of earlier stages: `cost.rollouts`, whose queries are shared")
    resumed_seconds: float = given(1.67e-3, f"a rollout that the store has, {MEASURED}")


@dataclass(frozen=True, slots=True)
class Method:
    """A recipe on so many queries; its sizes are the package's own."""

    recipe: Recipe
    queries: int
    validation: int = 1_000
    settings: TrainingSettings = field(default_factory=TrainingSettings)


@dataclass(frozen=True, slots=True)
class Phase:
    """A step of a run: the actor's calls, the generator's samples, tokens to train on, bytes of rows to send."""

    name: str
    calls: int = 0
    samples: int = 0
    tokens: int = 0
    sent: float = 0.0


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


@cache
def bytes_a_pair() -> float:
    """Return the bytes of a preference pair as it is sent; pairs of a query share the prompt's text."""
    pairs: list[PreferencePair] = []
    for query in range(20):
        prompt = f"{query:04}" * cost.PROMPT
        texts = [f"{query:02}{number:02}" * cost.SUPPLEMENT for number in range(20)]
        pairs += [
            PreferencePair(str(query), "intra", prompt, won, lost) for won, lost in zip(texts, texts[::-1], strict=True)
        ]
    return len(pickle.dumps(pairs)) / len(pairs)


def phases(method: Method) -> list[Phase]:
    """Return a run's steps in order, as `SGTTeleprompter.compile` goes through them.

    A round's training needs all of the round's rollouts, and the next exploration the trained weights. Validations have
    a phase of their own: where several processes train, they do not go on during the next training.
    """
    recipe, queries, most, settings = method.recipe, method.queries, cost.calls(method.recipe), method.settings
    text = cost.PROMPT + cost.SUPPLEMENT
    validate = Phase("validation", method.validation, method.validation)
    steps = [
        Phase("unaided runs", queries + method.validation),
        Phase("warm start", queries * most.warm, queries * most.warm),
    ]
    if recipe.sft:
        rows = min(queries * most.warm, recipe.max_per_kind * recipe.kinds_asked)
        steps += [Phase("SFT", tokens=settings.sft_epochs * rows * text, sent=rows * 4.0 * text), validate]
    later = most.later // max(1, recipe.rounds - 1)
    for round_ in range(1, recipe.rounds + 1):
        calls = most.first if round_ == 1 else later
        pairs = queries * pairs_a_query(recipe, calls)
        samples = calls - recipe.concat if round_ == 1 else calls
        steps += [
            Phase(f"round {round_}: explore", queries * calls, queries * samples),
            Phase(f"round {round_}: train", tokens=settings.dpo_epochs * pairs * 2 * text, sent=pairs * bytes_a_pair()),
            validate,
        ]
    return steps


def pairs_a_query(recipe: Recipe, pool: int) -> int:
    """Return the most pairs of a query in a round, as `cost.pairs` counts them over all rounds."""
    size = pool + recipe.silence
    return min(2 * recipe.pair_cap, size // 2 * -(-size // 2))


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

    The rows are sent first, in one piece to each process.
    """
    sending = phase.sent * (cluster.training_gpus - 1) / cluster.network / HOUR
    seconds = phase.tokens / cluster.tokens_trained_a_second_a_gpu
    return {
        "training": seconds / cluster.training_gpus / HOUR,
        "rows a step": seconds / min(cluster.training_gpus, setup.rows_a_step) / HOUR,
        "sending rows": sending,
    }


def simulate(method: Method, cluster: Cluster, setup: Setup, software: Software, *, seed: int = 0) -> list[Outcome]:
    """Go through a run's phases; failures are drawn from the seed.

    >>> tiny = Method(Recipe(rounds=1), queries=1)
    >>> outcomes = simulate(tiny, Cluster(failures_a_node_a_day=0.0), Setup(), Software())
    >>> [outcome.lost for outcome in outcomes] == [0.0] * len(outcomes)
    True
    """
    rng, done, outcomes = random.Random(seed), 0, list[Outcome]()
    for phase in phases(method):
        step = _train if phase.tokens else _explore
        outcome = step(phase, done, cluster, setup, software, rng)
        outcomes.append(outcome)
        done += phase.calls
    return outcomes


def _explore(
    phase: Phase, done: int, cluster: Cluster, setup: Setup, software: Software, rng: random.Random
) -> Outcome:
    """Calls at the speed of the slowest part. A server's node loses its samples in progress and is missing until it is
    up again; the main process's loses its calls in progress, and goes through all that is stored once more.
    """
    terms = explore_terms(phase, cluster, setup, software)
    undisturbed = max(terms.values())
    nodes = cluster.sampling_nodes + 1
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
        if rng.random() < 1 / nodes:
            again += min(setup.threads, phase.calls)
            stored = done + (1 - left) * phase.calls
            down = (cluster.restart_seconds + stored * software.resumed_seconds) / HOUR
            clock, repairs = clock + down, []
        elif len(repairs) < cluster.sampling_nodes:
            again += min(setup.requests, phase.samples) // cluster.sampling_nodes
            repairs.append(clock + cluster.restart_seconds / HOUR)
        failure = clock + _until_failure(nodes, cluster, rng)
    total = done + phase.calls
    memory = done * software.bytes_held + phase.calls * software.bytes_exploring
    return Outcome(phase, terms, clock, failures, clock - undisturbed, again, memory, total * software.bytes_stored)


def _train(phase: Phase, done: int, cluster: Cluster, setup: Setup, software: Software, rng: random.Random) -> Outcome:
    """A failure ends all processes: the stage begins again, after all that is stored was gone through once more."""
    terms = train_terms(phase, cluster, setup)
    needed = max(terms["training"], terms["rows a step"]) + terms["sending rows"]
    clock, failures = 0.0, 0
    while (failure := _until_failure(cluster.training_nodes, cluster, rng)) < needed:
        clock += failure + (cluster.restart_seconds + done * software.resumed_seconds) / HOUR
        failures += 1
    memory = done * software.bytes_held + 2 * phase.sent
    return Outcome(phase, terms, clock + needed, failures, clock, 0, memory, done * software.bytes_stored)


def _until_failure(nodes: int, cluster: Cluster, rng: random.Random) -> float:
    """Draw the hours until one of the nodes fails."""
    rate = nodes * cluster.failures_a_node_a_day / 24
    return rng.expovariate(rate) if rate else math.inf


def limits(method: Method, cluster: Cluster, setup: Setup, software: Software) -> dict[str, float]:
    """Return the number of queries at which each limit is reached, the lowest first: all of them grow in proportion.

    Full memory ends a run. The others are those from which a part alone takes a week, or a resume a day.
    """
    million = 1_000_000
    method, calm = replace(method, queries=million, validation=0), replace(cluster, failures_a_node_a_day=0.0)
    steps, outcomes = phases(method), simulate(method, calm, setup, software)
    most_sent = max(step.sent for step in steps if not step.name.startswith("SFT"))
    found = {
        "the main process's memory is full": cluster.memory / max(each.memory for each in outcomes),
        "the rows fill the memory of a training node": cluster.memory / (most_sent * cluster.gpus_a_node),
        "to go through the store again takes a day": DAY
        / (sum(step.calls for step in steps) * software.resumed_seconds),
    }
    for name in dict.fromkeys(name for each in outcomes for name in each.terms):
        hours = sum(each.terms.get(name, 0.0) for each in outcomes)
        found[f"{name}: a week"] = 7 * 24 / hours
    return {name: million * share for name, share in sorted(found.items(), key=lambda each: each[1])}


@dataclass(frozen=True, slots=True)
class Total:
    """A run's hours in the middle of all seeds and in the worst tenth, without failures, and its sizes in bytes."""

    hours: float
    slow: float
    calm: float
    calls: int
    memory: float
    stored: float
    bound: str


def total(method: Method, cluster: Cluster, setup: Setup, software: Software, seeds: int = SEEDS) -> Total:
    """Sum up a run over its phases, for many seeds."""
    took = sorted(
        sum(each.hours for each in simulate(method, cluster, setup, software, seed=seed)) for seed in range(seeds)
    )
    calm = simulate(method, replace(cluster, failures_a_node_a_day=0.0), setup, software)
    longest = max(calm, key=lambda each: each.hours)
    return Total(
        hours=statistics.median(took),
        slow=took[int(0.9 * len(took))],
        calm=sum(each.hours for each in calm),
        calls=sum(each.phase.calls for each in calm),
        memory=max(each.memory for each in calm),
        stored=calm[-1].stored,
        bound=longest.bound,
    )


TUNED = Setup(threads=512, requests=1_024, rows_a_step=100)
"""Set for 200 GPUs: enough calls and samples at once for the actor's limit, and a row a step for each training GPU."""


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
        if each.phase.name != "validation"
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
    return cost.table(["reached", "queries"], [[name, f"{round(queries, -3):,.0f}"] for name, queries in found.items()])


def plans() -> Iterator[tuple[str, Method, Cluster, Setup, Software]]:
    """Yield the plans that the page compares."""
    cluster, software, million = Cluster(), Software(), 1_000_000
    heavy = Method(Recipe.auto("heavy"), million)
    light = replace(heavy, recipe=Recipe.auto("light"))
    yield "`heavy`, package's defaults", heavy, cluster, Setup(), software
    yield "`heavy`, set for it", heavy, cluster, TUNED, software
    yield "the same, no failures", heavy, replace(cluster, failures_a_node_a_day=0.0), TUNED, software
    yield "the same, ten times the actor's limit", heavy, replace(cluster, actor_calls_a_minute=1e5), TUNED, software
    yield "`light`, set for it", light, cluster, TUNED, software
    yield "`heavy`, 50,000 of the queries", replace(heavy, queries=50_000), cluster, TUNED, software
    yield "`light`, 50,000 of the queries", replace(light, queries=50_000), cluster, TUNED, software


def plans_table() -> str:
    rows = [
        [
            name,
            f"{found.calls / 1e6:.1f} M",
            f"${cost.dollars(found.calls, cost.PRICES['small']):,.0f}",
            f"{found.calm / 24:.1f}",
            f"{found.hours / 24:.1f}",
            f"{found.slow / 24:.1f}",
            found.bound,
            f"{found.memory / 1e9:,.0f}",
            f"{found.stored / 1e9:,.0f}",
        ]
        for name, *plan in plans()
        for found in [total(*plan)]
    ]
    head = [
        "plan",
        "calls",
        "small actor",
        "days",
        "with failures",
        "slowest tenth",
        "bound by",
        "memory, GB",
        "store, GB",
    ]
    return cost.table(head, rows)


def tables() -> list[str]:
    """Return all of the page's tables, as Markdown."""
    cluster, software = Cluster(), Software()
    heavy = Method(Recipe.auto("heavy"), 1_000_000)
    calm = simulate(heavy, replace(cluster, failures_a_node_a_day=0.0), TUNED, software)
    return [
        plans_table(),
        phases_table(calm, lost_hours(heavy, cluster, TUNED, software)),
        limits_table(limits(heavy, cluster, TUNED, software)),
    ]


def main() -> None:
    """Print every number with its source, then the page's tables."""
    print("\n\n".join([sources_table(Cluster(), TUNED, Software()), *tables()]))


if __name__ == "__main__":
    main()
