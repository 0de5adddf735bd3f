"""The frozen actor on (example, supplement), many at once; a failed run is a record, not a crash.

Every rollout is in the store before anyone hears of it, and what the store knows is not paid again.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import NamedTuple, TypeVar

import dspy

from optimizers.core.budget import Budget
from optimizers.core.concurrency import parallel_map
from optimizers.core.fingerprints import described, halves, scope_of
from optimizers.core.records import Candidate, Query, Reward, Rollout
from optimizers.core.reward import Scorer
from optimizers.core.usage import Usage
from optimizers.rollouts.failure_streak import FailureStreak
from optimizers.rollouts.judging import JudgedRun, judged_again
from optimizers.rollouts.queries import query_id, query_of
from optimizers.rollouts.runners import Judge, Runner, ThreadRunner, check_seconds, in_time
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.episode import Call, Chooser
from sgt_modules.errors import ProviderRefusedError, SetupError, StoppedError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.wrapping import supplemented_predictors

_Found = TypeVar("_Found")

OnDone = Callable[[Rollout], None]
"""Hears of each rollout as it is done, one at a time, in no fixed order, from a worker's thread."""


class Probe(NamedTuple):
    """The program without supplements: one rollout an example in the examples' order, and the queries it met.

    A query for each call of a wrapped predictor, ordered by example, predictor and turn.
    """

    rollouts: list[Rollout]
    queries: list[Query]


class LiveRun(NamedTuple):
    """A run whose supplements were written as it ran: its rollout, and each call in the order they were made."""

    rollout: Rollout
    calls: Sequence[Call]


class Actor:
    """A wrapped program, the metric that judges it, and the store that remembers both.

    `scope` names program, actor and metric (see `RolloutStore`), and `version` is a user's word for what cannot be read
    of them. What the store knows of the same program under another metric is judged again, and not paid for again.
    `num_threads` defaults to DSPy's own setting; `max_errors` is how many runs in a row may fail without a reward
    before everything stops with an `SGTError`.
    A run of more than `max_run_seconds` is given up, and has no reward (None: never; the LM's own timeout, which DSPy
    tries again, should be shorter). `runner` says where the runs of `probe` and `run` are worked. `live` and `together`
    are always worked in threads here, beside the generator that writes as they run and answers its callers in batches.
    `budget` is asked before each run that the store cannot answer, and before each LM call of such a run: once it is
    used up, runs that need no further call are finished and saved, and `StoppedError` is raised.

    A provider's error or a metric that raises gives a rollout without a reward. An answer that cannot be read, by the
    adapter or by the program itself, is the actor's failure: reward 0.0, with the error's text. So is a prompt that the
    provider refuses (too long, filtered) where the program as it came in got an answer on the same example: what was
    added to the prompt is the cause.
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
        self.judged_again: Counter[str] = Counter()
        self.num_threads = num_threads
        self.max_errors = max_errors
        self.runner = runner or ThreadRunner()
        self.budget = budget or Budget()
        self.max_run_seconds = check_seconds(max_run_seconds)
        self._failures = FailureStreak(max_errors)
        self._first, self._answered = scope, set[tuple[str, str]]()
        self._telling = threading.Lock()

    def acting(self, program: dspy.Module) -> Actor:
        """The same for another program, in a scope of its own; failures in a row are counted together.

        A prompt that the provider refuses is a loss where this actor's own program got an answer.
        """
        other = copy.copy(self)
        other.program, other.scope = (
            program,
            scope_of(program, self.scorer.metric, version=self.version, like=self.scope),
        )
        vars(other).pop("_others", None)
        self.store.describe(other.scope, described(program, self.scorer.metric))
        return other

    @property
    def usage(self) -> Usage:
        """Usage of the program so far, by its budget."""
        return self.budget.usage

    @property
    def single_call(self) -> bool:
        """Whether no run so far asked for more than one supplement: then supplements can be written beforehand."""
        return self.store.max_supplements(self.scope) <= 1

    def probe(self, examples: Sequence[dspy.Example], stage: str = "none", on_done: OnDone | None = None) -> Probe:
        """Run the program as it came in, with no supplement; also tells where it would ask for one."""
        found: dict[int, list[Rollout]] = {}
        judge = self._judge(examples)

        def work(index: int) -> Rollout:
            example = examples[index]
            known = self._known_probe(example, index, stage) or self._probe_again(example, index, stage)
            found[index] = known or self._probe(example, index, stage, judge)
            return self._noted(found[index][0], example)

        rollouts = self._in_parallel(work, [query_id(example, "") for example in examples], on_done)
        met = [rollout.query for index in range(len(examples)) for rollout in found[index]]
        return Probe(rollouts, [query for query in met if query.predictor])

    @property
    def in_process(self) -> bool:
        """Whether one of the program's LMs runs on this process's own cores or GPU."""
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

        Each distinct (query, supplement) is run once, and not at all if the store has its reward. Candidates that are
        no sequence are taken as they come, while those before them are run; each should come once.
        """
        judge = self._judge(examples)
        taken: list[Candidate] = []

        def take() -> Iterator[list[int]]:
            for position, candidate in enumerate(candidates):
                taken.append(candidate)
                yield [position]

        def work(position: int) -> Rollout:
            return self._rollout(taken[position], examples[taken[position].query.index], stage, judge)

        if not isinstance(candidates, Sequence):
            return parallel_map(self._told(work, on_done), take(), threads=self._threads)
        taken += candidates
        return self._in_parallel(work, [(each.query.id, each.supplement.render()) for each in taken], on_done)

    def know(self, rollouts: Sequence[Rollout]) -> None:
        """Save outcomes that were had elsewhere, so that `run` pays for none of them; a reward that is there stays."""
        for rollout in rollouts:
            if self.store.get(self.scope, rollout.query.id, rollout.supplement) is None:
                self.store.add(rollout, self.scope)

    def live(
        self,
        examples: Sequence[dspy.Example],
        program: dspy.Module,
        stage: str,
        on_done: OnDone | None = None,
    ) -> list[LiveRun]:
        """One run an example of a program whose own generator writes as it runs, in the examples' order.

        For programs that ask for several supplements; the rollout's supplement is all of them, joined by newlines.
        Saved under the stage, which names the run: one that the store has a reward of is not paid again.
        """
        calls: dict[int, Sequence[Call]] = {}
        judge = self._judge(examples, ThreadRunner(), program)
        writer = ",".join(sorted({each.generator.fingerprint for _, each in supplemented_predictors(program)}))

        def work(index: int) -> Rollout:
            query = query_id(examples[index], "")
            known = self.store.get_live_run(self.scope, stage, query)
            known = known or self._live_again(program, examples[index], stage, stage, query)
            if known is not None:
                [rollout], calls[index] = known
                return self._noted(rollout.at(index), examples[index], program)
            run = self._blamed(self._paid(lambda: judge(index, None)), examples[index])
            calls[index] = run.calls
            written = [call.supplement for call in calls[index] if call.supplement]
            candidate = Candidate(run.rollout.query, _joined(written), "direct", writer=writer)
            rollout = run.rollout.as_proposed(candidate, stage)
            self._save([rollout], run, live=stage)
            return self._noted(rollout, examples[index], program)

        rollouts = self._in_parallel(work, range(len(examples)), on_done)
        return [LiveRun(rollout, calls[index]) for index, rollout in enumerate(rollouts)]

    def together(
        self,
        examples: Sequence[dspy.Example],
        choosers: Sequence[tuple[int, Chooser]],
        stage: str,
        writer: str = "",
        on_done: OnDone | None = None,
    ) -> list[Rollout]:
        """Runs in which every place's supplement is chosen as the program runs: a rollout for each call, run by run.

        A chooser is called with the place and the generator's prompt there; the number beside it picks its example.
        All rollouts of a run have its reward. Saved under the stage and the run's number: one that the store has a
        reward of is not paid again. `writer` is the fingerprint of the generator behind the choosers.
        """
        of_run: dict[int, list[Rollout]] = {}
        judge = self._judge(examples, ThreadRunner())

        def work(position: int) -> Rollout:
            index, choose = choosers[position]
            name = f"{stage}/{position}"
            known = self.store.get_live_run(self.scope, name)
            known = known or self._live_again(self.program, examples[index], stage, name)
            if known is not None:
                found = [each.at(index) for each in known[0]]
                of_run[position] = found if known[1] else []
                return found[0]
            run = self._blamed(self._paid(lambda: judge(index, choose)), examples[index])
            free = run.rollout.unpaid()
            rollouts = [
                (free if n else run.rollout).as_proposed(
                    Candidate(query, call.supplement, "joint", call.logprob, writer), stage
                )
                for n, call in enumerate(run.calls)
                for query in [query_of(call, examples[index], index, joint=True)]
            ]
            of_run[position] = rollouts
            self._save(rollouts or [replace(run.rollout, stage=stage)], run, live=name)
            return rollouts[0] if rollouts else run.rollout

        self._in_parallel(work, range(len(choosers)), on_done)
        return [rollout for position in range(len(choosers)) for rollout in of_run[position]]

    def contexts(self, runs: Sequence[LiveRun], examples: Sequence[dspy.Example]) -> list[Query]:
        """The queries of live runs: each call, while every other place reads what it read in that run."""
        return [
            query_of(call, examples[run.rollout.query.index], run.rollout.query.index, run.calls)
            for run in runs
            for call in run.calls
        ]

    def _judge(
        self, examples: Sequence[dspy.Example], runner: Runner | None = None, program: dspy.Module | None = None
    ) -> Judge:
        """How a run is judged: by the actor's own runner on its own program, where no other is given."""
        judge = (runner or self.runner).judge(program or self.program, self.scorer, examples, at_once=self._threads)
        return in_time(judge, examples, self.max_run_seconds)

    @property
    def _threads(self) -> int:
        return self.num_threads or dspy.settings.num_threads

    def _rollout(self, candidate: Candidate, example: dspy.Example, stage: str, judge: Judge) -> Rollout:
        query = candidate.query
        known = self.store.get(self.scope, query.id, candidate.supplement)
        if known is not None:
            rollout = known.as_proposed(candidate, stage)
            self.store.reuse(rollout, self.scope)
            return rollout
        again = self._again(self.program, example, query.id, candidate.supplement)
        if again is not None:
            rollout = again[0].as_proposed(candidate, stage)
            self._keep([rollout], again[1])
            return rollout
        given = {**dict(query.others), query.place: candidate.supplement}
        run = self._blamed(self._paid(lambda: judge(query.index, given)), example)
        rollout = run.rollout.as_proposed(candidate, stage)
        self._save([rollout], run)
        return rollout

    def _known_probe(self, example: dspy.Example, index: int, stage: str) -> list[Rollout]:
        """What the store knows of an example without supplements: nothing, or a rollout for each call."""
        known = self._of_calls(example, lambda query: self.store.get(self.scope, query, SILENCE))
        own = [replace(each.at(index), stage=stage) for each in known]
        for rollout in own:
            self.store.reuse(rollout, self.scope)
        return own

    def _of_calls(self, example: dspy.Example, find: Callable[[str], _Found | None]) -> list[_Found]:
        """What is found of each call of the program on an example: by role, and by turn up to the first without."""
        found: list[_Found] = []
        for role in self._roles():
            for turn in itertools.count():
                known = find(query_id(example, role, turn))
                if known is None:
                    break
                found.append(known)
        return found

    @cached_property
    def _others(self) -> list[str]:
        """The scopes of the same program and actor under other metrics."""
        answers, _ = halves(self.scope)
        return [each for each in self.store.find_scopes(f"{answers}-") if each != self.scope] if answers else []

    def _again(
        self, program: dspy.Module, example: dspy.Example, query: str, supplement: Supplement
    ) -> tuple[Rollout, int] | None:
        """A rollout that another metric judged, judged by this one; with how many supplements its run asked for."""
        for scope in self._others:
            known = self.store.find_attempt(scope, query, supplement)
            judged = None if known is None else self._judged_again(program, example, known[0])
            if known is not None and judged is not None:
                return judged, known[1]
        return None

    def _judged_again(self, program: dspy.Module, example: dspy.Example, rollout: Rollout) -> Rollout | None:
        """The same answer under this metric; None where the answer was not kept whole. At a stop, nothing begins."""
        if self.budget.stop_reason:
            self.budget.check()
        return judged_again(program, example, rollout, self.scorer)

    def _probe_again(self, example: dspy.Example, index: int, stage: str) -> list[Rollout]:
        """As `_known_probe`, of what another metric judged: the run's answer, judged once, for each of its calls."""
        for scope in self._others:
            known = self._of_calls(example, partial(self.store.find_attempt, scope, supplement=SILENCE))
            judged = self._judged_again(self.program, example, known[0][0]) if known else None
            if judged is not None:
                own = [
                    replace(each.at(index), stage=stage, reward=judged.reward, error=judged.error) for each, _ in known
                ]
                self._keep(own, known[0][1])
                return own
        return []

    def _live_again(
        self, program: dspy.Module, example: dspy.Example, stage: str, live: str, query: str | None = None
    ) -> tuple[list[Rollout], list[Call]] | None:
        """A live run that another metric judged, judged by this one."""
        for scope in self._others:
            known = self.store.get_live_run(scope, live, query, rewarded=False)
            judged = None if known is None else self._judged_again(program, example, known[0][0])
            if known is not None and judged is not None:
                own = [replace(each, stage=stage, reward=judged.reward, error=judged.error) for each in known[0]]
                self._keep(own, len(known[1]), live=live, calls=known[1])
                return own, known[1]
        return None

    def _keep(self, rollouts: Sequence[Rollout], asked: int, *, live: str = "", calls: Sequence[Call] = ()) -> None:
        """Store what was judged again, for which nothing was paid; raises `SGTError` as `_save`."""
        self.store.add_all(rollouts, self.scope, live=live, asked=asked, calls=calls)
        with self._telling:
            self.judged_again["runs"] += 1
        self._failures.count(rollouts[0])

    def _probe(self, example: dspy.Example, index: int, stage: str, judge: Judge) -> list[Rollout]:
        run = self._blamed(self._paid(lambda: judge(index, {})), example)
        roles = self._roles()
        calls = sorted(run.calls, key=lambda call: (roles.index(call.place.role), call.place.turn))
        queries = [query_of(call, example, index) for call in calls]
        whole = replace(run.rollout, stage=stage)
        free = whole.unpaid()
        rollouts = [replace(free if n else whole, query=query) for n, query in enumerate(queries)] or [whole]
        self._save(rollouts, run)
        return rollouts

    def _roles(self) -> list[str]:
        """The wrapped predictors' roles, and the empty one of a run that asked none of them."""
        return [*dict.fromkeys(each.role for _, each in supplemented_predictors(self.program)), ""]

    def _paid(self, work: Callable[[], JudgedRun]) -> JudgedRun:
        """A run that is paid for now; raises `StoppedError` where the budget has none left."""
        with self.budget.reserve_run() as charge:
            run = work()
            return run._replace(usage=charge(run.usage))

    def _noted(self, rollout: Rollout, example: dspy.Example, program: dspy.Module | None = None) -> Rollout:
        """The rollout itself; remembers where the program as it stands got an answer."""
        if rollout.reward is not None and (program is None or program is self.program):
            self._answered.add((self.scope, query_id(example, "")))
        return rollout

    def _blamed(self, run: JudgedRun, example: dspy.Example) -> JudgedRun:
        """The run; a loss where its prompt was refused for what was added: without it, the example was answered."""
        added = self.scope != self._first or any(call.supplement for call in run.calls)
        if not (run.refused and added and (self._first, query_id(example, "")) in self._answered):
            return run
        return run._replace(rollout=replace(run.rollout, reward=Reward(0.0)))

    def _save(self, rollouts: Sequence[Rollout], run: JudgedRun, *, live: str = "") -> None:
        """Store one run's rollouts; raises `SGTError` when it is one failure in a row too many.

        A run that the budget ended, or whose supplements were lost, is stored as a failure, with what it cost.
        """
        calls = run.calls if live else ()
        self.store.add_all(rollouts, self.scope, live=live, asked=len(run.calls), paid=run.usage, calls=calls)
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
        """`work(position)` for each key's position, in order.

        Positions of equal keys follow each other in one thread, so the store answers the later ones.
        """
        groups: dict[Hashable, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(key, []).append(position)
        threads = min(self._threads, len(groups))
        return parallel_map(self._told(work, on_done), iter(groups.values()), threads=threads)

    def _told(self, work: Callable[[int], Rollout], on_done: OnDone | None) -> Callable[[int], Rollout]:
        """The same work, of whose rollouts `on_done` hears one at a time."""
        if on_done is None:
            return work

        def told(position: int) -> Rollout:
            rollout = work(position)
            with self._telling:
                on_done(rollout)
            return rollout

        return told


def _joined(written: Sequence[Supplement]) -> Supplement:
    """Several supplements as one: of the first's kind, rendered as all of them on lines of their own."""
    if not written:
        return SILENCE
    first, *rest = written
    return Supplement(first.kind, "\n".join([first.text, *(each.render() for each in rest)]), cut=written[-1].cut)
