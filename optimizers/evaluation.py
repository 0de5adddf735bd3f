"""Scoring a stage: the generator writes its supplement for every example, the frozen actor answers."""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from optimizers.progress import Reporter
from optimizers.records import Candidate, Query, Rollout
from optimizers.rollouts import Actor
from sgt_modules.generator import SupplementGenerator
from sgt_modules.wrapping import with_generator


class Evaluator:
    """Scores stages on one split with one actor; the same supplement on the same example is never paid twice.

    Where the program asks for one supplement an example, all of a stage's supplements are sampled in one batch; where
    it asks for several (several predictors, loops), the program runs with its generator live.
    """

    def __init__(self, actor: Actor, split: str, examples: Sequence[dspy.Example], reporter: Reporter) -> None:
        self.actor, self._split, self.reporter = actor, split, reporter
        self.examples = list(examples)
        self.unaided: list[Rollout] = []
        self.queries: list[Query] = []

    def without(self) -> list[Rollout]:
        """The rollouts of the program as it came in; also learns where it would ask for supplements."""
        with self.reporter.stage(f"none: {self._split}", len(self.examples)) as stage:
            probe = self.actor.probe(self.examples, stage=f"none/{self._split}", on_done=stage.advance)
            self.unaided, self.queries = probe.rollouts, probe.queries
        return self.unaided

    def score(self, stage: str, generator: SupplementGenerator) -> list[Rollout]:
        """One rollout an example, in the examples' order, with the generator decoding as it does at inference."""
        if not self.unaided:
            self.without()
        name = f"{stage}/{self._split}"
        with self.reporter.stage(f"{stage}: {self._split}", len(self.examples)) as view:
            if not self._once_an_example():
                program = with_generator(self.actor.program, generator)
                return self.actor.live(self.examples, program=program, stage=name, on_done=view.advance)
            sampled = generator.sample(
                [query.prompt for query in self.queries],
                seeds=[0] * len(self.queries),
                temperature=generator.temperature,
            )
            candidates = [
                Candidate(query, each.supplement, "direct", each.logprob)
                for query, each in zip(self.queries, sampled, strict=True)
            ]
            return self.actor.run(candidates, self.examples, stage=name, on_done=view.advance)

    def _once_an_example(self) -> bool:
        return self.actor.single_call and [query.index for query in self.queries] == list(range(len(self.examples)))


def mean_score(rollouts: Sequence[Rollout]) -> float:
    """The mean reward over the rollouts that have one; 0.0 when none has.

    >>> mean_score([])
    0.0
    """
    scores = [rollout.reward.score for rollout in rollouts if rollout.reward is not None]
    return sum(scores) / len(scores) if scores else 0.0
