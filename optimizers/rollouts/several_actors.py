"""Several frozen actors as one: each supplement is run by every actor, and its reward is the mean of theirs.

An actor is the LM of predictors that have none of their own. Its runs are stored in its own scope, so a run with that
actor alone reuses them, and no actor's reward is taken for another's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypedDict

import dspy

from optimizers.core.actors import Actors, acting_with, read_programs
from optimizers.core.budget import Budget
from optimizers.core.fingerprints import BORDER, describe_scope, scope_of, split_scope
from optimizers.core.records import Candidate, Effort, Reward, Rollout
from optimizers.core.stages import Stage
from optimizers.core.usage import Usage
from optimizers.rollouts.engine import OnDone, ProbeResult, RolloutEngine
from optimizers.rollouts.judging import RunFunction
from optimizers.rollouts.queries import LiveRun, query_id
from optimizers.rollouts.runners import Runner
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.episode import Chooser
from sgt_modules.errors import SetupError


def usage_of(store: RolloutStore, actors: Actors) -> dict[str, Usage]:
    """What a run paid for each of its actors, over all of its sessions."""
    return {name: store.spent(_name_run(store, name)) for name in actors}


def _name_run(store: RolloutStore, actor: str) -> str:
    """The name under which a run's store lists what one actor did."""
    return f"{store.run} {actor}"


def merge_rollouts(rollouts: Mapping[str, Rollout]) -> Rollout:
    """One rollout of those of several actors, by name, on one query and supplement.

    The reward is the mean; there is none where an actor's is missing. Output and error are those of an actor without a
    reward, else of the one with the lowest. Tokens, seconds and dollars are sums; `effort` is the mean of a run.

    >>> from optimizers.core.records import Query
    >>> from sgt_modules.kinds import SILENCE
    >>> asked = Query("1f3a", 0, "solve", "question: 17 x 3?")
    >>> good, bad = (Rollout(asked, "warm", "none", SILENCE, Reward(score), tokens_in=9) for score in (1.0, 0.0))
    >>> merged = merge_rollouts({"a": good, "b": bad})
    >>> merged.reward, merged.tokens_in, merged.effort
    (Reward(score=0.5, feedback=''), 18, Effort(tokens=9.0, steps=1.0, seconds=0.0))
    """
    every = list(rollouts.values())
    name, shown = min(rollouts.items(), key=lambda item: -1.0 if item[1].reward is None else item[1].reward.score)
    rewards = {key: each.reward for key, each in rollouts.items() if each.reward is not None}
    efforts = [each.effort or Effort(each.tokens_in + each.tokens_out, 1, each.seconds) for each in every]
    count = len(every)
    return replace(
        shown,
        reward=None if len(rewards) < count else _merge_rewards(rewards),
        error=f"{shown.error} (actor {name})" if shown.error and count > 1 else shown.error,
        tokens_in=sum(each.tokens_in for each in every),
        tokens_out=sum(each.tokens_out for each in every),
        seconds=math.fsum(each.seconds for each in every),
        cost=math.fsum(each.cost for each in every),
        answer="",
        effort=Effort(
            sum(each.tokens for each in efforts) / count,
            sum(each.steps for each in efforts) / count,
            math.fsum(each.seconds for each in efforts) / count,
        ),
    )


def _merge_rewards(rewards: Mapping[str, Reward]) -> Reward:
    """The mean score; feedback that differs is named by its actor."""
    score = math.fsum(each.score for each in rewards.values()) / len(rewards)
    said = {each.feedback for each in rewards.values()}
    if len(said) == 1:
        return Reward(score, said.pop())
    return Reward(score, "\n".join(f"{name}: {each.feedback}" for name, each in rewards.items() if each.feedback))


class _Options(TypedDict):
    """The options of an engine that all actors of a run share."""

    num_threads: int | None
    max_errors: int
    runner: Runner
    budget: Budget
    max_run_seconds: float | None
    version: str


class _Member(NamedTuple):
    name: str
    lm: dspy.BaseLM
    engine: RolloutEngine


class SeveralActors(RolloutEngine):
    """Runs a program with each of several actors; a rollout is that of all of them, as `merge_rollouts` makes it.

    `own` is the engine of the same program and store whose options all actors share; its `scope` names all of them.
    The store lists merged rollouts under the run's own name, and each actor's runs, with what they cost, under that
    name with the actor's behind it. An actor that gives no reward ends the trial of a supplement: the actors after it
    are not asked.

    Only for programs that ask for one supplement in a run, with the same prompt for every actor: where a supplement
    answers to what an actor said before, there is nothing to share. `probe` raises `SetupError` for another program,
    after one run of its first example with each actor.
    """

    def __init__(self, own: RolloutEngine, actors: Actors) -> None:
        super().__init__(own.program, own.scorer, own.store, own.scope, **_options(own))
        self._scores: dict[tuple[str, str, str], tuple[float, ...]] = {}
        self._members: list[_Member] = []
        for name, lm in actors.items():
            with acting_with(lm):
                scope = scope_of(own.program, own.scorer.metric, version=own.version, like=own.scope)
                store = own.store.for_run(_name_run(own.store, name))
                store.describe(scope, describe_scope(own.program, own.scorer.metric))
                engine = RolloutEngine(own.program, own.scorer, store, scope, **_options(own))
            engine.rescored = self.rescored
            self._members.append(_Member(name, lm, engine))

    @property
    def actors(self) -> dict[str, dspy.BaseLM]:
        """The LMs by name."""
        return {member.name: member.lm for member in self._members}

    @property
    def in_process(self) -> bool:
        """Whether one of the actors runs in this process, on its cores or its GPU."""
        found: list[bool] = []
        for member in self._members:
            with acting_with(member.lm):
                found.append(member.engine.in_process)
        return any(found)

    def for_program(self, program: dspy.Module) -> SeveralActors:
        """As `RolloutEngine.for_program`, with the same actors."""
        other = copy.copy(self)
        other.program, other._scores = program, {}
        other._members = []
        for member in self._members:
            with acting_with(member.lm):
                other._members.append(member._replace(engine=member.engine.for_program(program)))
        half = read_programs(program, self.version, self.actors)
        other.scope = f"{half.mark}{BORDER}{split_scope(self.scope)[1]}"
        other._known = other._known_runs()
        return other

    def probe(
        self, examples: Sequence[dspy.Example], stage: str = "none", on_done: OnDone | None = None
    ) -> ProbeResult:
        """As `RolloutEngine.probe`; the first example is run alone, and its prompts are compared."""
        found: dict[int, ProbeResult] = {}

        def work(index: int) -> Rollout:
            if index not in found:
                found[index] = self._probe_example(examples[index], index, stage)
            return found[index].rollouts[0]

        if examples:
            work(0)
        rollouts = self._in_parallel(work, [query_id(example, "") for example in examples], on_done)
        return ProbeResult(rollouts, [query for index in range(len(examples)) for query in found[index].queries])

    def _probe_example(self, example: dspy.Example, index: int, stage: str) -> ProbeResult:
        done: dict[str, ProbeResult] = {}
        for member in self._members:
            with acting_with(member.lm):
                done[member.name] = member.engine.probe([example], stage)
            if done[member.name].rollouts[0].reward is None:
                break
        queries = [[replace(query, index=index) for query in each.queries] for each in done.values()]
        merged = self._keep({name: each.rollouts[0].with_index(index) for name, each in done.items()}, stage)
        if any(each != queries[0] for each in queries if merged.reward is not None) or len(queries[0]) > 1:
            raise SetupError(
                "Expected a program that asks for one supplement in a run, with the same prompt for every actor, got "
                f"{max(len(each) for each in queries)} in a run or prompts that hold an actor's own answer. Pass "
                "only=[...] with one predictor that reads the program's inputs and scope='episode', or train for one "
                "actor."
            )
        return ProbeResult([merged], queries[0])

    def run_live(
        self,
        examples: Sequence[dspy.Example],
        program: dspy.Module,
        stage: str,
        on_done: OnDone | None = None,
    ) -> list[LiveRun]:
        """As `RolloutEngine.run_live`; the calls are those of the first actor's run."""
        found: dict[int, LiveRun] = {}

        def work(index: int) -> Rollout:
            done: dict[str, LiveRun] = {}
            for member in self._members:
                with acting_with(member.lm):
                    [done[member.name]] = member.engine.run_live([examples[index]], program, stage)
                if done[member.name].rollout.reward is None:
                    break
            first = next(iter(done.values()))
            merged = self._keep(
                {name: each.rollout.with_index(index) for name, each in done.items()}, stage, live=stage
            )
            found[index] = LiveRun(merged, first.calls)
            return merged

        rollouts = self._in_parallel(work, [query_id(example, "") for example in examples], on_done)
        return [LiveRun(rollout, found[index].calls) for index, rollout in enumerate(rollouts)]

    def run_jointly(
        self,
        examples: Sequence[dspy.Example],
        choosers: Sequence[tuple[int, Chooser]],
        stage: str,
        writer: str = "",
        on_done: OnDone | None = None,
    ) -> list[Rollout]:
        """Raises `SetupError`: places that vary at once are places of a program that asks for several supplements."""
        raise SetupError("Expected credit='isolate' with actors=[...], got 'joint'. Leave credit out.")

    def scores_by_actor(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Each actor's mean reward over these merged rollouts of a split, as far as they have rewards.

        Their mean is the mean of the merged rewards. Empty where no rollout has a reward.
        """
        keys = [_key(each.stage, each) for each in rollouts if each.reward is not None]
        rated = [self._scores[key] for key in keys if key in self._scores]
        if not rated:
            return {}
        return {m.name: math.fsum(each[n] for each in rated) / len(rated) for n, m in enumerate(self._members)}

    def _rollout(self, candidate: Candidate, example: dspy.Example, stage: str, judge: RunFunction) -> Rollout:
        done: dict[str, Rollout] = {}
        for member in self._members:
            with acting_with(member.lm):
                done[member.name] = member.engine._rollout(candidate, example, stage, judge)
            if done[member.name].reward is None:
                break
        return self._keep(done, stage)

    def _keep(self, done: Mapping[str, Rollout], stage: str, *, live: str = "") -> Rollout:
        """Merge the actors' rollouts and list the merged one under its stage, at no cost.

        Where an actor ended the trial, the merged rollout has no reward.
        """
        merged = merge_rollouts(done)
        if merged.reward is not None and Stage.read(stage).split:
            scores = tuple(each.reward.score for each in done.values() if each.reward is not None)
            with self._lock:
                self._scores[_key(stage, merged)] = scores
        self.store.add(merged, self.scope, live=live, prompts="" if live else self._known.find_key([merged]))
        return merged


def _key(stage: str, rollout: Rollout) -> tuple[str, str, str]:
    return stage, rollout.query.id, rollout.supplement.render()


def _options(own: RolloutEngine) -> _Options:
    return {
        "num_threads": own.num_threads,
        "max_errors": own.max_errors,
        "runner": own.runner,
        "budget": own.budget,
        "max_run_seconds": own.max_run_seconds,
        "version": own.version,
    }


def scores_by_actor(actor: RolloutEngine, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """As `SeveralActors.scores_by_actor`; empty for an engine of one actor."""
    return actor.scores_by_actor(rollouts) if isinstance(actor, SeveralActors) else {}


def usage_by_actor(actor: RolloutEngine) -> dict[str, Usage]:
    """What the run paid for each of several actors, over all of its sessions; empty for an engine of one."""
    return usage_of(actor.store, actor.actors) if isinstance(actor, SeveralActors) else {}


def lms_of(actor: RolloutEngine) -> list[dspy.BaseLM]:
    """The LMs that answer in an engine's runs."""
    if isinstance(actor, SeveralActors):
        return list(actor.actors.values())
    return [each.lm or dspy.settings.lm for each in actor.program.predictors()]
