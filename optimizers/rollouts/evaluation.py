"""Scoring a stage: the generator writes its supplement for every example, the frozen actor answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import dspy

from optimizers.core.drafts import DraftCount
from optimizers.core.events import EventBus, WorkCounter
from optimizers.core.records import Candidate, Query, Rollout
from optimizers.core.stages import Stage
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.queries import LiveRun
from optimizers.rollouts.sampling import sample_stage
from sgt_modules.episode import Call
from sgt_modules.gate import Gate
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import SILENCE
from sgt_modules.samples import Sample, SampleRequest
from sgt_modules.wrapping import supplemented_predictors, with_generator


class Scored(NamedTuple):
    """A stage on a split: one rollout an example in the examples' order, and the calls in which each was helped."""

    rollouts: Sequence[Rollout]
    calls: Sequence[Sequence[Call]]

    @property
    def gated(self) -> float:
        """The share of examples in which a gate dropped a supplement."""
        dropped = [any(call.gated for call in calls) for calls in self.calls]
        return sum(dropped) / len(dropped) if dropped else 0.0

    @property
    def drafts(self) -> DraftCount:
        """The calls of a stage whose generator reads drafts, and those in which the draft was the answer."""
        supplements = [call.supplement for calls in self.calls for call in calls]
        return DraftCount(len(supplements), sum(not each for each in supplements))


class Evaluator:
    """Scores stages on one split with one actor; the same supplement on the same example is never paid twice.

    Where the program asks for one supplement an example, all of a stage's supplements are sampled in one batch; where
    it asks for several (several predictors, loops), the program runs with its generator live.
    """

    def __init__(self, actor: RolloutEngine, split: str, examples: Sequence[dspy.Example], bus: EventBus) -> None:
        self.actor, self._split, self.bus = actor, split, bus
        self.examples = list(examples)
        self.unaided: list[Rollout] = []
        self.queries: list[Query] = []

    def for_program(self, program: dspy.Module) -> Evaluator:
        """The same split for another program, whose runs have a scope of their own."""
        return Evaluator(self.actor.for_program(program), self._split, self.examples, self.bus)

    @property
    def once_an_example(self) -> bool:
        """Whether the program asks for one supplement an example; known after `score_unaided`."""
        return self.actor.single_call and [query.index for query in self.queries] == list(range(len(self.examples)))

    def score_unaided(self, stage: str = "none") -> list[Rollout]:
        """The rollouts of the program without supplements; also learns where it would ask for them."""
        with self._work(stage) as work:
            probe = self.actor.probe(self.examples, stage=self._stored(stage), on_done=work.advance)
            self.unaided, self.queries = probe.rollouts, probe.queries
        return self.unaided

    def score_as_it_is(self, stage: str) -> list[Rollout]:
        """The rollouts of the program as it stands, with its own supplements where it reads some.

        Those of a generator are the same in every stage, and paid for once.
        """
        writers = {each.generator.fingerprint for _, each in supplemented_predictors(self.actor.program)}
        if not writers:
            return self.score_unaided(stage)
        name = f"as it is, {','.join(sorted(writers))}"
        with self._work(stage) as work:
            runs = self.actor.run_live(self.examples, self.actor.program, name, on_done=work.advance)
        return [run.rollout for run in runs]

    def score(self, stage: str, generator: SupplementGenerator, gate: Gate | None = None) -> Scored:
        """One rollout an example, in the examples' order, with the generator decoding as it does at inference."""
        if not self.unaided:
            self.score_unaided()
        if not self.once_an_example:
            runs = self.run_live(stage, with_generator(self.actor.program, generator, gate))
            return Scored([run.rollout for run in runs], [run.calls for run in runs])
        return self.write(stage, generator, gate)()

    def write(self, stage: str, generator: SupplementGenerator, gate: Gate | None = None) -> Callable[[], Scored]:
        """Write a stage's supplements, of a program that asks for one an example; the returned function runs the actor
        on them, from any thread, and gives what `score` does.
        """
        requests = [SampleRequest(query.prompt, temperature=generator.temperature) for query in self.queries]
        samples = sample_stage(self.actor.store, self._stored(stage), generator, requests)
        calls = [_call(query, each, gate) for query, each in zip(self.queries, samples, strict=True)]
        writer = generator.fingerprint
        candidates = [
            Candidate(query, call.supplement, "gated" if call.gated else "direct", call.logprob, writer)
            for query, call in zip(self.queries, calls, strict=True)
        ]

        def answer() -> Scored:
            with self._work(stage) as work:
                rollouts = self.actor.run(candidates, self.examples, stage=self._stored(stage), on_done=work.advance)
            return Scored(rollouts, [[call] for call in calls])

        return answer

    def run_live(self, stage: str, program: dspy.Module) -> list[LiveRun]:
        """One run an example of a program that writes its own supplements."""
        with self._work(stage) as work:
            return self.actor.run_live(self.examples, program, self._stored(stage), on_done=work.advance)

    def _work(self, stage: str) -> AbstractContextManager[WorkCounter]:
        return self.bus.work(Stage.read(self._stored(stage)), len(self.examples))

    def _stored(self, stage: str) -> str:
        """A stage's name in the store, on this split."""
        return str(Stage(stage, split=self._split))


def _call(query: Query, sample: Sample, gate: Gate | None) -> Call:
    """What a predictor would have read at a query."""
    shut = gate is not None and not (gate.familiar(query.prompt) and gate.sure(sample.logprob))
    gated = shut and bool(sample.supplement)
    return Call(query.place, query.prompt, SILENCE if gated else sample.supplement, sample.logprob, gated)


def mean_score(rollouts: Sequence[Rollout]) -> float:
    """The mean reward over the rollouts that have one; 0.0 when none has.

    >>> mean_score([])
    0.0
    """
    scores = [rollout.reward.score for rollout in rollouts if rollout.reward is not None]
    return sum(scores) / len(scores) if scores else 0.0
