"""The evidence that a verdict is drawn from: the rollouts and counts of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optimizers.core.clusters import Clusters
from optimizers.core.error_types import count_refused_scores, explain_refused_scores
from optimizers.core.records import Rollout
from optimizers.core.stages import AS_IT_CAME


@dataclass(frozen=True, slots=True)
class Evidence:
    """The rollouts and counts of a run, as far as it came.

    `before` are the validation rollouts of the student, `stages` those of each later stage, all in the examples' order;
    `selected` is the stage that is returned. `unaided` are rollouts on training questions without help, `tried` with
    it, `unfinished` those of a stage that did not end. `rows` counts the training rows of each stage, `kinds_asked` the
    kinds that the generator was asked for. `stopped` says where a budget ended the run. `adapter` and `max_tokens` are
    the actor's. With `instructions`, the run rewrote instructions (SPT) and wrote no supplements. `refused` counts the
    metric's refused scores by kind, among all `met` rollouts; by default those of the rollouts here. `clusters` are
    those of the validation questions, which are independent without them.
    """

    before: Sequence[Rollout] = ()
    stages: Mapping[str, Sequence[Rollout]] = field(default_factory=dict[str, Sequence[Rollout]])
    selected: str = "none"
    unaided: Sequence[Rollout] = ()
    tried: Sequence[Rollout] = ()
    unfinished: Sequence[Rollout] = ()
    rows: Mapping[str, int] = field(default_factory=dict[str, int])
    kinds_asked: int = 2
    threshold: float = 1.0
    stopped: str = ""
    adapter: str = "ChatAdapter"
    max_tokens: frozenset[int] = frozenset()
    instructions: bool = False
    refused: Mapping[str, int] = field(default_factory=dict[str, int])
    met: int = 0
    clusters: Clusters | None = None

    @property
    def refusals(self) -> str:
        """A sentence on refused scores; empty if there are none."""
        if self.refused:
            return explain_refused_scores(self.refused, self.met)
        runs = self.runs
        return explain_refused_scores(count_refused_scores(each.error for each in runs), len(runs))

    @property
    def runs(self) -> list[Rollout]:
        """The distinct runs: one for each query and supplement, and for each stage if instructions were rewritten."""
        scored = (each for own in (self.before, *self.stages.values()) for each in own)
        every = [*self.unfinished, *scored, *self.unaided, *self.tried]
        once = {(r.query.id, r.supplement.render(), r.stage if self.instructions else ""): r for r in every}
        return list(once.values())

    @property
    def has_gain(self) -> bool:
        """Whether the returned stage is one that this run trained."""
        return self.selected in self.stages and self.selected not in AS_IT_CAME

    @property
    def help_in_words(self) -> str:
        """How the runs that should do better were helped, as words of a sentence."""
        return "under new instructions" if self.instructions else "with a supplement"

    @property
    def base(self) -> str:
        """What stages are compared with, as words of a sentence."""
        return "the instructions that came in" if self.instructions else "no supplement"


def without_help(evidence: Evidence) -> str:
    """How the unaided runs were, as words of a sentence."""
    return "under the first instructions" if evidence.instructions else "without a supplement"


def count_questions(rewards: Sequence[float]) -> str:
    """How many questions that is, as words of a sentence."""
    return f"{len(rewards):,} question{'' if len(rewards) == 1 else 's'}"


def mean(values: Sequence[float]) -> float:
    """The mean; 0.0 of no values."""
    return sum(values) / len(values) if values else 0.0
