"""Runs the frozen actor on many (example, supplement) pairs at once; a failed run is a record, not a crash.

Each rollout is saved before it is returned, and a run that the store has is not paid again.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import dspy

from optimizers.core.budget import Budget
from optimizers.core.concurrency import in_context
from optimizers.core.fingerprints import describe_scope, scope_of
from optimizers.core.records import Candidate, Query, Reward, Rollout
from optimizers.core.reward import Scorer
from optimizers.core.usage import Usage
from optimizers.rollouts.failure_streak import FailureStreak
from optimizers.rollouts.judging import JudgedRun, RunFunction, ThreadRunner
from optimizers.rollouts.kept_drafts import open_drafts
from optimizers.rollouts.known_runs import KnownRuns
from optimizers.rollouts.queries import LiveRun, query_id, query_of
from optimizers.rollouts.runners import Runner, check_seconds, with_time_limit
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.episode import Call, Chooser
from sgt_modules.errors import ProviderRefusedError, SetupError, StoppedError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.wrapping import supplemented_predictors

OnDone = Callable[[Rollout], None]
"""Called with each finished rollout, by one thread at a time, in no fixed order."""


class ProbeResult(NamedTuple):
    """Runs of the program without supplements: one rollout per example, in the examples' order, and their queries.

    `queries` has one for each call of a wrapped predictor, ordered by example, predictor and turn.
    """

    rollouts: list[Rollout]
    queries: list[Query]


class RolloutEngine:
    """Runs a wrapped program, scores it with a metric, and saves each rollout in a store.

    `scope` names program, LMs and metric (see `RolloutStore`); `version` is the user's name for code that cannot be
    read. A stored run of the same program under another metric is scored again without a new run. `num_threads`
    defaults to DSPy's own setting; after `max_errors` runs in a row without a reward everything stops with an
    `SGTError`. A run of more than `max_run_seconds` is abandoned and has no reward (None: no limit; the LM's own
    timeout, after which DSPy tries again, should be shorter).

    `runner` is where `probe` and `run` work. `run_live` and `run_jointly` always work in threads of this process, as
    the generator that writes during a run is here and answers its callers in batches. `budget` is checked before each
    new run and before each LM call of one. Once it is used up, runs that need no further call are finished and saved,
    and `StoppedError` is raised.

    A provider's error or a metric that raises gives a rollout without a reward. An answer that the adapter or the
    program cannot read is the actor's failure: reward 0.0, with the error's text. A prompt that the provider refuses
    (too long, filtered) also has reward 0.0 if the same example was answered without the text that was added.
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
        runner: Runner | None = None,
        budget: Budget | None = None,
        max_run_seconds: float | None = None,
        version: str = "",
    ) -> None:
        self.program = program
        self.scorer = scorer
        self.store = store
        self.scope, self.version = scope, version
        self.rescored: Counter[str] = Counter()
        self.num_threads = num_threads
        self.max_errors = max_errors
        self.runner = runner or ThreadRunner()
        self.budget = budget or Budget()
        self.max_run_seconds = check_seconds(max_run_seconds)
        self._failures = FailureStreak(max_errors)
        self._first_scope, self._answered = scope, set[tuple[str, str]]()
        self._lock = threading.Lock()
        self._known, self._drafts = self._known_runs(), open_drafts(program, store, scope)

    def for_program(self, program: dspy.Module) -> RolloutEngine:
        """The same engine for another program, in its own scope; failures in a row are counted together.

        A prompt that the provider refuses has reward 0.0 if this engine's own program was answered on the example.
        """
        other = copy.copy(self)
        other.program = program
        other.scope = scope_of(program, self.scorer.metric, version=self.version, like=self.scope)
        other._known, other._drafts = other._known_runs(), open_drafts(program, self.store, other.scope)
        self.store.describe(other.scope, describe_scope(program, self.scorer.metric))
        return other

    def _known_runs(self) -> KnownRuns:
        return KnownRuns(
            self.program, self.scorer, self.store, self.scope, budget=self.budget, on_rescored=self._count_rescored
        )

    def _count_rescored(self, rollout: Rollout) -> None:
        with self._lock:
            self.rescored["runs"] += 1
        self._failures.count(rollout)

    @property
    def usage(self) -> Usage:
        """Usage of the program so far, as its budget counts it."""
        return self.budget.usage

    @property
    def single_call(self) -> bool:
        """Whether no run so far asked for more than one supplement, so supplements can be written before the run."""
        return self.store.max_supplements(self.scope) <= 1

    def probe(
        self, examples: Sequence[dspy.Example], stage: str = "none", on_done: OnDone | None = None
    ) -> ProbeResult:
        """Run the program without supplements, and find the places where it would read one."""
        by_index: dict[int, list[Rollout]] = {}
        judge = self._judge(examples)

        def work(index: int) -> Rollout:
            example = examples[index]
            rollouts = self._known.find_probe(example, index, stage) or self._probe(example, index, stage, judge)
            by_index[index] = rollouts
            return self._note_answer(rollouts[0], example)

        with self._drafts.filling():
            rollouts = self._in_parallel(work, [query_id(example, "") for example in examples], on_done)
        queries = [rollout.query for index in range(len(examples)) for rollout in by_index[index]]
        return ProbeResult(rollouts, [query for query in queries if query.predictor])

    @property
    def in_process(self) -> bool:
        """Whether one of the program's LMs runs in this process, on its cores or its GPU."""
        lms = [each.lm or dspy.settings.lm for each in self.program.predictors()]
        return any(getattr(getattr(lm, "engine", None), "in_process", False) for lm in lms)

    def run(
        self,
        candidates: Iterable[Candidate],
        examples: Sequence[dspy.Example],
        stage: str,
        on_done: OnDone | None = None,
    ) -> list[Rollout]:
        """A rollout for each candidate, in the candidates' order; `candidate.query.index` picks its example.

        Each distinct (query, supplement) is run once, and not at all if the store has its reward. An iterator of
        candidates is read while earlier ones run; its candidates should be distinct.
        """
        judge = self._judge(examples)
        queue: list[Candidate] = []

        def positions() -> Iterator[list[int]]:
            for position, candidate in enumerate(candidates):
                queue.append(candidate)
                yield [position]

        def work(position: int) -> Rollout:
            return self._rollout(queue[position], examples[queue[position].query.index], stage, judge)

        if not isinstance(candidates, Sequence):
            return parallel_map(work, positions(), threads=self._threads, on_done=on_done)
        queue += candidates
        return self._in_parallel(work, [(each.query.id, each.supplement.render()) for each in queue], on_done)

    def add_known(self, rollouts: Sequence[Rollout]) -> None:
        """Save outcomes from elsewhere, so that `run` does not pay for them; a stored reward is kept."""
        self._known.add_missing(rollouts)

    def run_live(
        self,
        examples: Sequence[dspy.Example],
        program: dspy.Module,
        stage: str,
        on_done: OnDone | None = None,
    ) -> list[LiveRun]:
        """Run a program whose own generator writes during the run: one run per example, in the examples' order.

        For programs that ask for several supplements; the rollout's supplement joins all of them by newlines. Runs are
        saved under `stage`: one that has a reward there is not paid again.
        """
        calls: dict[int, Sequence[Call]] = {}
        judge = self._judge(examples, ThreadRunner(), program)
        writer = ",".join(sorted({each.generator.fingerprint for _, each in supplemented_predictors(program)}))

        def work(index: int) -> Rollout:
            known = self._known.find_live_run(program, examples[index], stage, stage, query_id(examples[index], ""))
            if known is not None:
                [rollout], calls[index] = known
                return self._note_answer(rollout.with_index(index), examples[index], program)
            run = self._blame_addition(self._pay(lambda: judge(index, None)), examples[index])
            calls[index] = run.calls
            written = [call.supplement for call in calls[index] if call.supplement]
            candidate = Candidate(run.rollout.query, _join(written), "direct", writer=writer)
            rollout = run.rollout.with_proposal(candidate, stage)
            self._save([rollout], run, live=stage)
            return self._note_answer(rollout, examples[index], program)

        with self._drafts.reusing():
            rollouts = self._in_parallel(work, range(len(examples)), on_done)
        return [LiveRun(rollout, calls[index]) for index, rollout in enumerate(rollouts)]

    def run_jointly(
        self,
        examples: Sequence[dspy.Example],
        choosers: Sequence[tuple[int, Chooser]],
        stage: str,
        writer: str = "",
        on_done: OnDone | None = None,
    ) -> list[Rollout]:
        """Run the program once per chooser, which chooses the supplement of every place during the run.

        Each chooser comes with the index of its example, and is called with the place and the generator's prompt there.
        Returns one rollout for each call, run by run; all rollouts of a run have its reward. Runs are saved under
        `stage` and their number: one that has a reward there is not paid again. `writer` is the fingerprint of the
        generator behind the choosers.
        """
        by_run: dict[int, list[Rollout]] = {}
        judge = self._judge(examples, ThreadRunner())

        def work(position: int) -> Rollout:
            index, choose = choosers[position]
            name = f"{stage}/{position}"
            known = self._known.find_live_run(self.program, examples[index], stage, name)
            if known is not None:
                stored = [each.with_index(index) for each in known[0]]
                by_run[position] = stored if known[1] else []
                return stored[0]
            run = self._blame_addition(self._pay(lambda: judge(index, choose)), examples[index])
            unpaid = run.rollout.without_cost()
            rollouts = [
                (unpaid if n else run.rollout).with_proposal(
                    Candidate(query, call.supplement, "joint", call.logprob, writer), stage
                )
                for n, call in enumerate(run.calls)
                for query in [query_of(call, examples[index], index, joint=True)]
            ]
            by_run[position] = rollouts
            self._save(rollouts or [replace(run.rollout, stage=stage)], run, live=name)
            return rollouts[0] if rollouts else run.rollout

        with self._drafts.reusing():
            self._in_parallel(work, range(len(choosers)), on_done)
        return [rollout for position in range(len(choosers)) for rollout in by_run[position]]

    def _judge(
        self, examples: Sequence[dspy.Example], runner: Runner | None = None, program: dspy.Module | None = None
    ) -> RunFunction:
        """The function that runs and scores one example; `runner` and `program` default to the engine's own."""
        judge = (runner or self.runner).judge(program or self.program, self.scorer, examples, at_once=self._threads)
        return with_time_limit(judge, examples, self.max_run_seconds)

    @property
    def _threads(self) -> int:
        return self.num_threads or dspy.settings.num_threads

    def _rollout(self, candidate: Candidate, example: dspy.Example, stage: str, judge: RunFunction) -> Rollout:
        known = self._known.find_rollout(candidate, example, stage)
        if known is not None:
            return known
        query = candidate.query
        given = {**dict(query.others), query.place: candidate.supplement}
        run = self._blame_addition(self._pay(lambda: judge(query.index, given)), example)
        rollout = run.rollout.with_proposal(candidate, stage)
        self._save([rollout], run)
        return rollout

    def _probe(self, example: dspy.Example, index: int, stage: str, judge: RunFunction) -> list[Rollout]:
        run = self._blame_addition(self._pay(lambda: judge(index, {})), example)
        roles = self._known.roles()
        calls = sorted(run.calls, key=lambda call: (roles.index(call.place.role), call.place.turn))
        queries = [query_of(call, example, index) for call in calls]
        whole = replace(run.rollout, stage=stage)
        unpaid = whole.without_cost()
        rollouts = [replace(unpaid if n else whole, query=query) for n, query in enumerate(queries)] or [whole]
        self._save(rollouts, run)
        return rollouts

    def _pay(self, work: Callable[[], JudgedRun]) -> JudgedRun:
        """Do a run and charge it to the budget; raises `StoppedError` when the budget is used up."""
        with self.budget.reserve_run() as charge:
            run = work()
            return run._replace(usage=charge(run.usage))

    def _note_answer(self, rollout: Rollout, example: dspy.Example, program: dspy.Module | None = None) -> Rollout:
        """Returns the rollout, and remembers the examples on which the engine's own program was answered."""
        if rollout.reward is not None and (program is None or program is self.program):
            self._answered.add((self.scope, query_id(example, "")))
        return rollout

    def _blame_addition(self, run: JudgedRun, example: dspy.Example) -> JudgedRun:
        """The run; reward 0.0 if its prompt was refused and the example was answered without the added text."""
        added = self.scope != self._first_scope or any(call.supplement for call in run.calls)
        if not (run.refused and added and (self._first_scope, query_id(example, "")) in self._answered):
            return run
        return run._replace(rollout=replace(run.rollout, reward=Reward(0.0)))

    def _save(self, rollouts: Sequence[Rollout], run: JudgedRun, *, live: str = "") -> None:
        """Store the rollouts of one run; raises `SGTError` after too many failures in a row.

        A run that the budget ended, or whose supplements were lost, is stored as a failure, with its cost.
        """
        calls, key = (run.calls, "") if live else ((), self._known.find_key(rollouts))
        asked = len(run.calls)
        self.store.add_all(rollouts, self.scope, live=live, asked=asked, paid=run.usage, calls=calls, prompts=key)
        if run.lost:
            raise SetupError(run.lost)
        if run.used_up:
            raise StoppedError(run.used_up)
        self._failures.count(run.rollout)
        if run.fatal:
            raise ProviderRefusedError(
                f"The provider takes no call, so the run stopped at once: {run.fatal} Everything finished before is "
                "saved. Correct the LM's key, model or address, or the account's credit, and start again with the same "
                "log_dir."
            )

    def _in_parallel(
        self, work: Callable[[int], Rollout], keys: Sequence[Hashable], on_done: OnDone | None
    ) -> list[Rollout]:
        """`work(position)` for the position of each key, in order.

        Positions with equal keys run one after another in one thread, so the store answers all but the first.
        """
        groups: dict[Hashable, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(key, []).append(position)
        threads = min(self._threads, len(groups))
        return parallel_map(work, iter(groups.values()), threads=threads, on_done=on_done)


def parallel_map(
    work: Callable[[int], Rollout],
    batches: Iterator[Sequence[int]],
    *,
    threads: int,
    on_done: OnDone | None = None,
) -> list[Rollout]:
    """Calls `work(position)` for every position in several threads; returns the rollouts in the positions' order.

    The batches hold each number from 0 on once. Each thread draws a batch when it is free and works through it in
    order, under the caller's `dspy.context`. The first exception stops the other threads and is raised.
    """
    drawing, calling, stop = threading.Lock(), threading.Lock(), threading.Event()
    rollouts: dict[int, Rollout] = {}
    problems: list[BaseException] = []

    def drain() -> None:
        try:
            while not stop.is_set():
                with drawing:
                    positions = next(batches, ())
                if not positions:
                    return
                for position in positions:
                    rollouts[position] = work(position)
                    if on_done is not None:
                        with calling:
                            on_done(rollouts[position])
        except BaseException as problem:  # noqa: BLE001 - raised again below, in the caller's thread
            problems.append(problem)
            stop.set()

    workers = [in_context(drain, "sgt-actor") for _ in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:  # after a second Ctrl-C, threads at work save what they have and draw no more
        stop.set()
    if problems:
        raise problems[0]
    return [rollouts[position] for position in range(len(rollouts))]


def _join(written: Sequence[Supplement]) -> Supplement:
    """One supplement of several: of the first one's kind, with a line for each."""
    if not written:
        return SILENCE
    first, *rest = written
    return Supplement(first.kind, "\n".join([first.text, *(each.render() for each in rest)]), cut=written[-1].cut)
