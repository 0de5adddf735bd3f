"""The frozen actor on (example, supplement), many at once; a failed run is a record, not a crash.

Every rollout is in the store before anyone hears of it, and what the store knows is not paid again.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import dspy
from dspy.utils.exceptions import AdapterParseError, LMError
from dspy.utils.parallelizer import ParallelExecutor

from optimizers.ledger import Ledger, Meter
from optimizers.records import Candidate, Query, Reward, Rollout
from optimizers.reward import Scorer
from optimizers.store import RolloutStore
from sgt_modules.errors import MetricError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.predictor import Episode, episode
from sgt_modules.wrapping import supplemented

OnDone = Callable[[Rollout], None]
"""Hears of each rollout as it is done, one at a time, in no fixed order, from a worker's thread."""


class Probe(NamedTuple):
    """The program without supplements: one rollout an example in the examples' order, and the queries it met.

    A query for each wrapped predictor that was asked, ordered by example and then by first call.
    """

    rollouts: list[Rollout]
    queries: list[Query]


class _Run(NamedTuple):
    """One finished run: its rollout (not yet any stage's), what its predictors asked and read, and its cost."""

    rollout: Rollout
    episode: Episode
    meter: Meter


class Actor:
    """A wrapped program, the metric that judges it, and the store that remembers both.

    `scope` names program, actor and metric (see `RolloutStore`). `num_threads` defaults to DSPy's own setting;
    `max_errors` is how many runs in a row may fail without a reward before everything stops with an `SGTError`.

    A provider's error or a metric that raises gives a rollout without a reward. An answer that cannot be read, by the
    adapter or by the program itself, is the actor's failure: reward 0.0, with the error's text.
    """

    def __init__(
        self,
        program: dspy.Module,
        scorer: Scorer,
        store: RolloutStore,
        scope: str,
        *,
        num_threads: int | None = None,
        max_errors: int = 10,
    ) -> None:
        self.program = program
        self.scorer = scorer
        self.store = store
        self.scope = scope
        self.num_threads = num_threads
        self.max_errors = max_errors
        self._ledger = Ledger(max_errors)
        self._telling = threading.Lock()

    @property
    def meter(self) -> Meter:
        """What has been paid through this actor so far."""
        return self._ledger.paid

    @property
    def single_call(self) -> bool:
        """Whether no run so far asked for more than one supplement: then supplements can be written beforehand."""
        return self.store.most_asked(self.scope) <= 1

    def probe(self, examples: Sequence[dspy.Example], stage: str = "none", on_done: OnDone | None = None) -> Probe:
        """Run the program as it came in, with no supplement; also tells where it would ask for one."""
        found: dict[int, list[Rollout]] = {}

        def work(index: int) -> Rollout:
            example = examples[index]
            found[index] = self._known_probe(example, index, stage) or self._probe(example, index, stage)
            return found[index][0]

        rollouts = self._in_parallel(work, [query_id(example, "") for example in examples], on_done)
        met = [rollout.query for index in range(len(examples)) for rollout in found[index]]
        return Probe(rollouts, [query for query in met if query.predictor])

    def run(
        self,
        candidates: Sequence[Candidate],
        examples: Sequence[dspy.Example],
        stage: str,
        on_done: OnDone | None = None,
    ) -> list[Rollout]:
        """A rollout for each candidate, in the candidates' order; `candidate.query.index` picks its example.

        Each distinct (query, supplement) is run once, and not at all if the store has its reward.
        """

        def work(position: int) -> Rollout:
            candidate = candidates[position]
            return self._rollout(candidate, examples[candidate.query.index], stage)

        keys = [(candidate.query.id, candidate.supplement.render()) for candidate in candidates]
        return self._in_parallel(work, keys, on_done)

    def live(
        self,
        examples: Sequence[dspy.Example],
        program: dspy.Module,
        stage: str,
        on_done: OnDone | None = None,
    ) -> list[Rollout]:
        """One rollout an example of a program whose own generator writes as it runs, in the examples' order.

        For programs that ask for several supplements; the rollout's supplement is all of them, joined by newlines.
        Saved under the stage, and paid each time.
        """

        def work(index: int) -> Rollout:
            run = _run(program, examples[index], index, None, self.scorer)
            written = [each for of_role in run.episode.supplements.values() for each in of_role if each]
            rollout = _as_proposed(run.rollout, Candidate(run.rollout.query, _joined(written), "direct"), stage)
            self._save([rollout], run, live=True)
            return rollout

        return self._in_parallel(work, range(len(examples)), on_done)

    def _rollout(self, candidate: Candidate, example: dspy.Example, stage: str) -> Rollout:
        query = candidate.query
        known = self.store.get(self.scope, query.id, candidate.supplement)
        if known is not None:
            rollout = _as_proposed(known, candidate, stage)
            self.store.meet(rollout, self.scope)
            return rollout
        run = _run(self.program, example, query.index, {query.predictor: candidate.supplement}, self.scorer)
        rollout = _as_proposed(run.rollout, candidate, stage)
        self._save([rollout], run)
        return rollout

    def _known_probe(self, example: dspy.Example, index: int, stage: str) -> list[Rollout]:
        """What the store knows of an example without supplements: nothing, or a rollout for each predictor asked."""
        known = [self.store.get(self.scope, query_id(example, name), SILENCE) for name in self._roles()]
        own = [replace(each, query=replace(each.query, index=index), stage=stage) for each in known if each is not None]
        for rollout in own:
            self.store.meet(rollout, self.scope)
        return own

    def _probe(self, example: dspy.Example, index: int, stage: str) -> list[Rollout]:
        run = _run(self.program, example, index, {}, self.scorer)
        asked = {name: run.episode.prompts[name][0] for name in self._roles() if run.episode.prompts.get(name)}
        queries = [Query(query_id(example, name), index, name, prompt) for name, prompt in asked.items()]
        whole = replace(run.rollout, stage=stage)
        free = replace(whole, tokens_in=0, tokens_out=0, seconds=0.0)  # the cost of a run stands in its first rollout
        rollouts = [replace(free if n else whole, query=query) for n, query in enumerate(queries)] or [whole]
        self._save(rollouts, run)
        return rollouts

    def _roles(self) -> list[str]:
        """The wrapped predictors' roles, and the empty one of a run that asked none of them."""
        return [*dict.fromkeys(each.role for _, each in supplemented(self.program)), ""]

    def _save(self, rollouts: Sequence[Rollout], run: _Run, *, live: bool = False) -> None:
        """Store one run's rollouts; raises `SGTError` when it is one failure in a row too many."""
        asked = sum(len(prompts) for prompts in run.episode.prompts.values())
        self.store.add_all(rollouts, self.scope, live=live, asked=asked)
        self._ledger.enter(run.rollout, run.meter)

    def _in_parallel(
        self, work: Callable[[int], Rollout], keys: Sequence[Hashable], on_done: OnDone | None
    ) -> list[Rollout]:
        """`work(position)` for each key's position, in order; the first exception stops the rest and is raised.

        Positions of equal keys follow each other in one thread, so the store answers the later ones. Each thread draws
        its next work itself: the executor's own bookkeeping is quadratic in the items.
        """
        groups: dict[Hashable, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(key, []).append(position)
        waiting, drawing, stop = iter(groups.values()), threading.Lock(), threading.Event()
        done: dict[int, Rollout] = {}
        problems: list[Exception] = []

        def drain(_: int) -> None:
            try:
                while not stop.is_set():
                    with drawing:
                        positions = next(waiting, [])
                    if not positions:
                        return
                    for position in positions:
                        done[position] = work(position)
                        self._tell(on_done, done[position])
            except Exception as problem:  # noqa: BLE001 - raised again below, in the caller's thread
                problems.append(problem)
                stop.set()

        threads = self.num_threads or dspy.settings.num_threads
        executor = ParallelExecutor(num_threads=threads, max_errors=1, timeout=0, disable_progress_bar=True)
        try:
            executor.execute(drain, range(min(threads, len(groups))))
        finally:  # an interrupt leaves threads running: they finish what is paid and draw no more
            stop.set()
        if problems:
            raise problems[0]
        return [done[position] for position in range(len(keys))]

    def _tell(self, on_done: OnDone | None, rollout: Rollout) -> None:
        if on_done is not None:
            with self._telling:
                on_done(rollout)


def query_id(example: dspy.Example, predictor: str) -> str:
    """The name of a place whatever the run: 16 hex digits over the example's fields and the predictor's name.

    >>> query_id(dspy.Example(question="2+2?", answer="4"), "self")
    'cc48eb025a90996b'
    """
    content = json.dumps(dict(example.items()), sort_keys=True, default=str)
    return hashlib.sha256(f"{content}\n{predictor}".encode()).hexdigest()[:16]


def _run(
    program: dspy.Module, example: dspy.Example, index: int, given: Mapping[str, Supplement] | None, scorer: Scorer
) -> _Run:
    """Run the program on an example under the given supplements (None: its own generator's) and judge it."""
    began = time.perf_counter()
    prediction: object = None
    reward, error = None, ""
    with dspy.context(trace=[], disable_history=True), dspy.track_usage() as usage, episode(given) as asked:
        try:
            prediction = program(**example.inputs())
        except Exception as problem:  # noqa: BLE001 - whatever a user's program raises is a record
            reward, error = _verdict(problem), f"{type(problem).__name__}: {problem}"
    seconds = time.perf_counter() - began
    if not error:
        try:
            reward = scorer(example, prediction)
        except MetricError as problem:
            error = f"{type(problem).__name__}: {problem}"
    writers = {each.generator.name for _, each in supplemented(program)} if given is None else set()
    entries = [entry for name, of_model in usage.usage_data.items() if name not in writers for entry in of_model]
    read, wrote = (sum(entry.get(name) or 0 for entry in entries) for name in ("prompt_tokens", "completion_tokens"))
    query = Query(query_id(example, ""), index, "", "")
    output = {name: str(value) for name, value in prediction.items()} if isinstance(prediction, dspy.Example) else {}
    rollout = Rollout(query, "", "none", SILENCE, reward, output, error, 0.0, read, wrote, seconds)
    return _Run(rollout, asked, Meter(1, len(entries), read, wrote, seconds))


def _verdict(problem: Exception) -> Reward | None:
    """What an exception of the program says of the supplement: a failure once the actor has answered, else nothing."""
    if isinstance(problem, LMError):
        return None
    answered = isinstance(problem, AdapterParseError) or bool(dspy.settings.trace)
    return Reward(0.0) if answered else None


def _as_proposed(rollout: Rollout, candidate: Candidate, stage: str) -> Rollout:
    """A known rollout as this candidate's: the outcome is the same, the proposal is its own."""
    return replace(
        rollout,
        query=candidate.query,
        stage=stage,
        source=candidate.source,
        supplement=candidate.supplement,
        logprob=candidate.logprob,
    )


def _joined(written: Sequence[Supplement]) -> Supplement:
    """Several supplements as one: of the first's kind, rendered as all of them on lines of their own."""
    if not written:
        return SILENCE
    first, *rest = written
    return Supplement(first.kind, "\n".join([first.text, *(each.render() for each in rest)]))
