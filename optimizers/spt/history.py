"""What a run has found so far, step by step: `compile` fills it, and each later step reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optimizers.core.best_stage import select_best
from optimizers.core.records import Rollout
from optimizers.spt.result import PromptCandidate, PromptRound, PromptStage


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate with its score, and its rollouts on the mistakes; none if it was dropped."""

    candidate: PromptCandidate
    rollouts: Sequence[Rollout]


@dataclass
class History:
    """The validated stages, the rounds and the corrector's briefs in order, and the rollouts that they came from.

    `first` are the student's instructions, `briefs` begins with the recipe's. `answered` has the rollouts on the
    training set at the begin of each round, `explored` those of each candidate on the mistakes.

    >>> history = History({"solve": "Add."}, ["Look at the mistakes."])
    >>> history.prompts, history.round, history.prompts_tried("solve"), history.best
    ({'solve': 'Add.'}, 1, ['Add.'], None)
    """

    first: Mapping[str, str]
    briefs: list[str]
    stages: list[PromptStage] = field(default_factory=list[PromptStage])
    rounds: list[PromptRound] = field(default_factory=list[PromptRound])
    answered: list[Sequence[Rollout]] = field(default_factory=list[Sequence[Rollout]])
    explored: list[Sequence[Rollout]] = field(default_factory=list[Sequence[Rollout]])

    @property
    def prompts(self) -> dict[str, str]:
        """The prompt of each predictor after the last round."""
        return {**self.first, **{each.predictor: each.after for each in self.rounds}}

    @property
    def round(self) -> int:
        """The number of the round that is next or under way, from 1 on."""
        return len(self.rounds) + 1

    @property
    def tried(self) -> list[Rollout]:
        """The rollouts of all candidates, in order."""
        return [rollout for rollouts in self.explored for rollout in rollouts]

    @property
    def best(self) -> PromptStage | None:
        """The best stage: two stages are compared on the examples that both have; the earlier one wins a tie."""
        return self.stages[select_best([stage.rollouts for stage in self.stages])] if self.stages else None

    def prompts_tried(self, predictor: str) -> list[str]:
        """The predictor's first prompt, and the chosen candidate of each of its rounds, accepted or refused."""
        own = [each for each in self.rounds if each.predictor == predictor]
        return [
            self.first[predictor],
            *(each.candidates[each.chosen].prompt for each in own if each.chosen is not None),
        ]

    def impacts(self, predictor: str) -> dict[str, float]:
        """The last measured impact of each sentence of the predictor's prompts, without white space around it."""
        own = (each for each in self.rounds if each.predictor == predictor)
        return {one.sentence.strip(): one.impact for each in own for one in each.impact}
