"""The result of Supervisory Prompt Training besides the program: each round, each stage, and the usage."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optimizers.core.records import Rollout
from optimizers.core.usage import RunUsage, Usage
from optimizers.spt.impact import SentenceImpact


@dataclass(frozen=True, slots=True)
class PromptStage:
    """A set of prompts on the validation set: mean score in [0, 1], and rollouts in the examples' order.

    `name` is `student` or the name of the round that accepted them; `prompts` has those of every predictor; `spent` is
    the run's usage by the end of the stage.
    """

    name: str
    score: float
    prompts: Mapping[str, str]
    rollouts: Sequence[Rollout] = field(repr=False)
    spent: RunUsage = field(default_factory=RunUsage, repr=False)


@dataclass(frozen=True, slots=True)
class PromptCandidate:
    """A prompt by the corrector, the training examples that it was shown, and the mean score on the mistakes.

    `score` is None if the prompt was not tried or has no reward; `dropped` says why.
    """

    prompt: str
    shown: Sequence[int]
    score: float | None = None
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class PromptRound:
    """One round on the prompt of one predictor; `mistakes` are positions in the training set.

    `impact` has one entry per sentence of the prompt `before`; empty without impact. `chosen` is the index of the
    candidate that was best on the mistakes, None if none could be tried. `train` has the mean scores on the training
    set before and after; `accepted` says whether the candidate became the prompt. `brief` is the corrector's brief.
    """

    number: int
    predictor: str
    before: str
    mistakes: Sequence[int]
    impact: Sequence[SentenceImpact]
    candidates: Sequence[PromptCandidate]
    chosen: int | None
    train: tuple[float, float | None]
    accepted: bool
    brief: str = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the stage if the round accepted a prompt."""
        return f"round{self.number}"

    @property
    def after(self) -> str:
        """The predictor's prompt after this round."""
        return self.candidates[self.chosen].prompt if self.accepted and self.chosen is not None else self.before

    @property
    def diff(self) -> str:
        """The change as a unified diff; empty if there is none."""
        lines = difflib.unified_diff(
            self.before.splitlines(),
            self.after.splitlines(),
            f"{self.predictor} before round {self.number}",
            f"{self.predictor} after round {self.number}",
            lineterm="",
        )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class SPTResult:
    """The result of a compile: every stage, the selected one, every round, the corrector's briefs, and the usage.

    `briefs` has the first brief and each rewritten one. `spent` is the program's usage, `corrector` the corrector's;
    both cover all sessions of the run's folder. `stopped` says where a budget ended the run, and is empty otherwise.
    `verdict` says in a few sentences what was gained, or why nothing was and what to change; see
    `optimizers.core.verdict`.
    """

    stages: Sequence[PromptStage]
    selected: str
    rounds: Sequence[PromptRound]
    briefs: Sequence[str]
    spent: RunUsage
    corrector: Usage
    notes: Sequence[str]
    log_dir: Path
    stopped: str = ""
    store: str | Path | None = field(default=None, repr=False)
    verdict: str = ""

    @property
    def best(self) -> PromptStage:
        """The selected stage."""
        return self.stage(self.selected)

    def stage(self, name: str) -> PromptStage:
        """A stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def history(self) -> str:
        """The history of the prompts, one unified diff per round."""
        return "\n".join(each.diff for each in self.rounds if each.diff)

    def impact_table(self) -> list[dict[str, object]]:
        """Every sentence's impact in every round, one row each, for a pandas data frame."""
        return [
            {
                "round": each.number,
                "predictor": each.predictor,
                "sentence": one.sentence.strip(),
                "impact": one.impact,
                "error": one.error,
                "low": one.low,
                "high": one.high,
                "distinguishable": one.distinguishable,
                "examples": one.examples,
            }
            for each in self.rounds
            for one in each.impact
        ]
