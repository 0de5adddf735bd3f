"""What a stage tries: supplements sampled for every query, and the frozen actor's outcome on each. Where credit goes.

`Isolated` varies one place of the program at a time, so a pair differs in one place; `Joint` varies all of them at once
and gives the program's outcome to each.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import dspy

from optimizers.core.concurrency import prefetch
from optimizers.core.cost import Pricing
from optimizers.core.events import EventBus, Note, WorkCounter
from optimizers.core.records import Candidate, Query, Rollout
from optimizers.core.stages import Stage, pool_name
from optimizers.core.work_clock import WorkClock
from optimizers.rollouts.evaluation import Evaluator
from optimizers.rollouts.queries import live_queries
from optimizers.rollouts.sampling import SAMPLED_AT_ONCE, sample_stage
from optimizers.sgt import candidates as sources
from optimizers.sgt.adaptive import CandidateScheduler, deciding_predictors, split_first_pass
from optimizers.sgt.feedback import Shown, describe_shown, show_failures
from optimizers.sgt.logged import SOURCE as LOGGED
from optimizers.sgt.logged import Log
from optimizers.sgt.recipe import Recipe
from optimizers.sgt.settings import Credit
from sgt_modules.episode import Chooser, Place
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import FREE, NONE, SILENCE, Kind, Supplement
from sgt_modules.samples import Sample, SampleRequest
from sgt_modules.wrapping import with_generator

SAMPLED_AHEAD = 256
"""The most samples in a batch while the actor runs on earlier ones; a small stage has batches of an eighth of it.

Smaller batches slow sampling down. With larger ones, the actor runs longer after sampling has ended."""


class Explorer(Protocol):
    """The three pools of the method, each sampled and run."""

    def warm_start(self, generator: SupplementGenerator) -> list[Rollout]:
        """Nine prompts a query, the actor run on each sample."""
        ...

    def first_pool(self, warm: Sequence[Rollout], generator: SupplementGenerator) -> list[Rollout]:
        """Round 1: predefined kinds, the generator's own new kinds, and concatenations of two winners."""
        ...

    def direct(self, round_: int, generator: SupplementGenerator, tried: Sequence[Rollout] = ()) -> list[Rollout]:
        """Rounds 2 and later: samples for the prompt that names no kind; with feedback, some see what failed."""
        ...


@dataclass(frozen=True)
class ExplorationContext:
    """What both ways of exploring work with."""

    recipe: Recipe
    train: Evaluator
    bus: EventBus
    clock: WorkClock
    seed: int
    log: Log = field(default_factory=Log)
    """What is known of the training examples before the run."""
    priced: Pricing = field(default_factory=Pricing)

    def rng(self, purpose: str) -> random.Random:
        """The run's own randomness for one purpose; never the global one."""
        return random.Random(f"{self.seed}-{purpose}")

    def first_pools(self, warm: Sequence[Rollout], rng: random.Random) -> tuple[list[str], list[Candidate]]:
        """Of the warm start, the new kinds and the joins that round 1 tries; an empty pool is a note."""
        recipe = self.recipe
        names = sources.ood_names(warm, kinds=recipe.kinds, count=recipe.ood_kinds)
        joins = sources.join_winners(warm, rng=rng, per_query=recipe.concat, threshold=recipe.threshold)
        if recipe.ood_kinds and not names:
            count = sum(rollout.source == "free" for rollout in warm)
            text = (
                f"Round 1 tries no new kinds: none of {count} free-style supplements named a kind of its own. Look at "
                "some with sgt inspect; a generator that follows instructions better names them."
            )
            self.bus.emit(Note(text))
        if recipe.concat and not joins:
            text = (
                "Round 1 tries no joins: no query was won by supplements of two kinds. Sample more in the warm start, "
                "or use examples of middling difficulty."
            )
            self.bus.emit(Note(text))
        return names, joins

    def warm_requests(self, queries: Sequence[Query]) -> list[sources.QueryRequest]:
        """The warm start's requests for these queries; those of the first queries do not depend on the others."""
        recipe = self.recipe
        return sources.warm_start_requests(
            queries,
            rng=self.rng("warm"),
            kinds=recipe.written_kinds,
            samples=recipe.warm_samples,
            free=not recipe.closed,
        )

    def added(self, queries: Sequence[Query]) -> list[Candidate]:
        """What a stage tries without asking the generator: what a log knows of, and given texts."""
        return [*self.log.candidates(queries), *sources.given_candidates(queries, self.recipe.given_kinds)]

    def queries(self, round_: int, generator: SupplementGenerator) -> list[Query]:
        """Where supplements are wanted; in a program of several places, while the others read the generator's own."""
        if self.train.once_an_example:
            return self.train.queries
        with self.clock.measure("acting"):
            runs = self.train.run_live(
                f"{pool_name(round_)}: others", with_generator(self.train.actor.program, generator)
            )
        return live_queries(runs, self.train.examples)

    def silence(self, queries: Sequence[Query]) -> list[Candidate]:
        """No text at all for each query, where the recipe has the generator learn to keep silent."""
        return sources.silence_candidates(queries) if self.recipe.silence else []

    def drafts(self, queries: Sequence[Query]) -> list[Candidate]:
        """The drafts as the warm start's answers without a note, where the generator reads them."""
        return sources.silence_candidates(queries) if self.recipe.draft else []


def explorer(credit: Credit, context: ExplorationContext) -> Explorer:
    """The way to explore: for a program of one place an example, the two are the same."""
    return Joint(context) if credit == "joint" and not context.train.once_an_example else Isolated(context)


@dataclass
class Isolated:
    """One place varies, the others are fixed: silent in the warm start, as the current generator has them later.

    In a program of several predictors, a first pass over a part of a stage's candidates tells which predictors'
    supplements matter; the rest is only tried for those.
    """

    context: ExplorationContext
    _met: list[Rollout] = field(default_factory=list[Rollout])
    _last: list[Rollout] = field(default_factory=list[Rollout])

    def warm_start(self, generator: SupplementGenerator) -> list[Rollout]:
        """As `Explorer`; every place is silent but the one that varies."""
        queries = self.context.train.queries
        requests = self.context.warm_requests(queries)
        return self._explored(0, requests, generator, [*self.context.drafts(queries), *self.context.added(queries)])

    def first_pool(self, warm: Sequence[Rollout], generator: SupplementGenerator) -> list[Rollout]:
        """As `Explorer`."""
        recipe, rng = self.context.recipe, self.context.rng("round-1")
        names, joins = self.context.first_pools(warm, self.context.rng("round-1-joins"))
        queries = self._queries(1, generator)
        samples = recipe.pool_samples
        requests = [
            *sources.predefined_requests(queries, rng=rng, kinds=recipe.written_kinds, samples=samples),
            *sources.ood_requests(queries, names, rng=rng, samples=samples),
        ]
        added = [*self.context.silence(queries), *self.context.added(queries), *_moved(joins, queries)]
        return self._explored(1, requests, generator, added)

    def direct(self, round_: int, generator: SupplementGenerator, tried: Sequence[Rollout] = ()) -> list[Rollout]:
        """As `Explorer`."""
        queries = self._queries(round_, generator)
        recipe, rng = self.context.recipe, self.context.rng(f"round-{round_}")
        requests = [] if recipe.closed else sources.direct_requests(queries, rng=rng, samples=recipe.direct_samples)
        if recipe.feedback:
            chance = self.context.rng(f"round-{round_}-feedback")
            requests = show_failures(requests, tried, threshold=recipe.threshold, rng=chance)
        added = self.context.added(queries) if recipe.closed else []
        return self._explored(round_, requests, generator, [*self.context.silence(queries), *added])

    def _queries(self, round_: int, generator: SupplementGenerator) -> list[Query]:
        return self.context.queries(round_, generator)

    def _explored(
        self,
        round_: int,
        requests: Sequence[sources.QueryRequest],
        generator: SupplementGenerator,
        added: Sequence[Candidate] = (),
    ) -> list[Rollout]:
        """Ask for the samples, and run the actor on each distinct supplement that may tell something.

        The actor runs while the generator still samples, with two exceptions: both models are on this machine, or the
        program has several predictors, whose first pass needs all candidates of a query.
        """
        stage = pool_name(round_)
        single = len({query.predictor for query in self.context.train.queries}) < 2
        if single and self.context.recipe.adaptive:
            return self._explore_adaptively(round_, requests, generator, added)
        overlaps = single and not (self.context.train.actor.in_process and generator.in_process)
        at_once = min(SAMPLED_AHEAD, max(1, len(requests) // 8)) if overlaps else SAMPLED_AT_ONCE
        pool = _pool(stage, requests, generator, self.context, added, at_once)
        if overlaps:
            with prefetch(pool) as candidates:
                return self._run(stage, candidates, len(added) + len(requests))
        if single:
            return self._run(stage, list(pool))
        first, rest = split_first_pass(list(pool))
        tried = self._run(stage, first, label=", first pass")
        if self.context.recipe.cost is not None:  # a predictor may matter for its costs alone
            return [*tried, *self._run(stage, rest)]
        telling = deciding_predictors(tried, self.context.recipe.threshold, self.context.recipe.margin)
        return [*tried, *self._run(stage, [each for each in rest if each.query.predictor in telling])]

    def _explore_adaptively(
        self,
        round_: int,
        requests: Sequence[sources.QueryRequest],
        generator: SupplementGenerator,
        added: Sequence[Candidate],
    ) -> list[Rollout]:
        """All is sampled; what was tried before costs nothing, and of the rest a part is tried."""
        stage = pool_name(round_)
        pool = list(_pool(stage, requests, generator, self.context, added, SAMPLED_AT_ONCE))
        known = {(rollout.query.id, rollout.supplement.render()) for rollout in self._met}
        answered: list[Candidate] = []
        new: list[Candidate] = []
        for each in pool:
            met = each.source == LOGGED or not each.supplement or (each.query.id, each.supplement.render()) in known
            (answered if met else new).append(each)
        tried = self._run(stage, answered)
        before = self.context.priced([*self._last, *tried] or self.context.train.unaided)
        scheduler = CandidateScheduler(new, round_, threshold=self.context.recipe.threshold, before=before)
        first = self._run(stage, scheduler.first)
        tried += [*first, *self._run(stage, scheduler.reopen(self.context.priced(first)))]
        self._last = tried
        self._met += tried
        return tried

    def _run(self, stage: str, pool: Iterable[Candidate], most: int = 0, *, label: str = "") -> list[Rollout]:
        """The actor on each candidate; there are at most `most` of those that are still to come."""
        train = self.context.train
        total = len(pool) if isinstance(pool, Sequence) else most
        with self.context.clock.measure("acting"), self.context.bus.work(Stage(stage), total, label=label) as work:
            counted = pool if isinstance(pool, Sequence) else _counted(pool, work)
            return train.actor.run(counted, train.examples, stage=stage, on_done=work.advance)


def _moved(joins: Sequence[Candidate], queries: Sequence[Query]) -> list[Candidate]:
    """Candidates for the same places in another context; those whose place is gone are left out."""
    at = {(query.index, query.place): query for query in queries}
    found = [(join, at.get((join.query.index, join.query.place))) for join in joins]
    return [Candidate(query, join.supplement, join.source, join.logprob) for join, query in found if query is not None]


@dataclass
class Joint:
    """All places vary at once; each supplement is credited with the whole program's outcome."""

    context: ExplorationContext
    _joins: dict[tuple[int, Place], list[Supplement]] = field(default_factory=dict[tuple[int, Place], list[Supplement]])

    def warm_start(self, generator: SupplementGenerator) -> list[Rollout]:
        """As `Explorer`."""
        recipe = self.context.recipe
        asks = [*recipe.kinds.values(), *([] if recipe.closed else [FREE]), *([NONE] if recipe.draft else [])]
        return self._explored(0, asks, recipe.warm_samples, generator)

    def first_pool(self, warm: Sequence[Rollout], generator: SupplementGenerator) -> list[Rollout]:
        """As `Explorer`."""
        recipe = self.context.recipe
        unlabelled = [replace(each, source="free") for each in warm]  # where a place met which ask is not noted
        names, joins = self.context.first_pools(unlabelled, self.context.rng("round-1-joins"))
        self._joins.clear()
        for join in joins:
            self._joins.setdefault((join.query.index, join.query.place), []).append(join.supplement)
        silence = [NONE] if recipe.silence else []
        asks = [*recipe.kinds.values(), *names, *silence]
        return self._explored(1, asks, recipe.pool_samples, generator, joins=recipe.concat)

    def direct(self, round_: int, generator: SupplementGenerator, tried: Sequence[Rollout] = ()) -> list[Rollout]:
        """As `Explorer`; without feedback."""
        if self.context.recipe.feedback:
            self.context.bus.emit(Note('Feedback is used with credit="isolate" only, so it did nothing here.'))
        recipe = self.context.recipe
        silence = [NONE] if recipe.silence else []
        asks = [*recipe.kinds.values()] if recipe.closed else [None] * recipe.direct_samples
        return self._explored(round_, [*asks, *silence], 1, generator)

    def _explored(
        self,
        round_: int,
        asks: Sequence[Kind | str | None],
        samples: int,
        generator: SupplementGenerator,
        *,
        joins: int = 0,
    ) -> list[Rollout]:
        """Run each example as often as one place has candidates; each place takes its kinds in its own random order."""
        train, stage = self.context.train, pool_name(round_)
        runs = len(asks) * samples
        choosers = [
            (index, self._chooser(stage, index, number, asks, samples, generator))
            for index in range(len(train.examples))
            for number in range(runs + min(joins, self._most_joins(index)))
        ]
        with self.context.clock.measure("acting"), self.context.bus.work(Stage(stage), len(choosers)) as work:
            rollouts = train.actor.run_jointly(
                train.examples, choosers, stage, generator.fingerprint, on_done=work.advance
            )
        return [rollout for rollout in rollouts if rollout.supplement or self.context.recipe.silence]

    def _most_joins(self, index: int) -> int:
        return max((len(found) for (example, _), found in self._joins.items() if example == index), default=0)

    def _chooser(
        self,
        stage: str,
        index: int,
        number: int,
        asks: Sequence[Kind | str | None],
        samples: int,
        generator: SupplementGenerator,
    ) -> Chooser:
        """What one run reads: at each place a sample of the kind whose turn it is there, or a join."""
        runs = len(asks) * samples

        def choose(place: Place, prompt: str) -> Supplement:
            if number >= runs:
                joins = self._joins.get((index, place), [])
                return joins[(number - runs) % len(joins)] if joins else SILENCE
            order = list(range(runs))
            self.context.rng(f"{stage}-{index}-{place.role}-{place.turn}").shuffle(order)
            ask = asks[order[number] % len(asks)]
            if ask == NONE:
                return SILENCE
            if isinstance(ask, Kind) and ask.text:
                return ask.given
            seed = self.context.rng(f"{stage}-{index}-{place.role}-{place.turn}-{number}").getrandbits(32)
            temperature, top_p = self.context.recipe.sampling_settings(generator.prompt)
            with dspy.context(usage_tracker=None):  # else its tokens would count as the actor's
                sample = generator.draw(SampleRequest(prompt, seed, ask, temperature, top_p))
            self._keep(stage, (index, number, place), sample)
            return sample.supplement

        return choose

    def _keep(self, stage: str, asked: tuple[int, int, Place], sample: Sample) -> None:
        """Store a sample, where samples are counted; a sample that is drawn again is stored once."""
        number = int.from_bytes(hashlib.sha256(repr(asked).encode()).digest()[:7])
        self.context.train.actor.store.add_samples(f"{stage}: joint", number, [("", sample)])


def _pool(
    stage: str,
    requests: Sequence[sources.QueryRequest],
    generator: SupplementGenerator,
    context: ExplorationContext,
    added: Sequence[Candidate],
    at_once: int,
) -> Generator[Candidate]:
    """The distinct candidates: those that exist already, then what the generator writes, as it comes."""
    samples = _sample(stage, requests, generator, context, at_once)
    shown = Shown()
    kept = shown.without_copies([request for _, request in requests], samples)
    written = sources.to_candidates(requests, kept, generator.fingerprint)
    yield from sources.drop_repeats(itertools.chain(added, written))
    if context.recipe.feedback and stage not in (pool_name(0), pool_name(1)):
        context.bus.emit(Note(describe_shown(stage, shown)))


def _sample(
    stage: str,
    asked: Sequence[sources.QueryRequest],
    generator: SupplementGenerator,
    context: ExplorationContext,
    at_once: int,
) -> Iterator[Sample]:
    """The samples of these requests, at the temperature and `top_p` of exploration."""

    def on_new(_: Sample) -> None:
        context.train.actor.budget.check()  # what is stored already costs nothing

    temperature, top_p = context.recipe.sampling_settings(generator.prompt)
    requests = [replace(request, temperature=temperature, top_p=top_p) for _, request in asked]
    queries, store = [query.id for query, _ in asked], context.train.actor.store
    with context.clock.measure("sampling"), context.bus.work(Stage(stage), len(requests), "sampling") as work:
        drawn = sample_stage(store, stage, generator, requests, queries=queries, at_once=at_once, on_new=on_new)
        for sample in drawn:
            work.advance()
            yield sample


def _counted(pool: Iterable[Candidate], work: WorkCounter) -> Iterator[Candidate]:
    """The candidates as they come; at their end, sets how many there are in all."""
    count = 0
    for candidate in pool:
        count += 1
        yield candidate
    work.expect(count)
