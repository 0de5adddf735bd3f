"""What Supervisory Prompt Training gives besides the program: each round, each stage, and what it cost."""

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
    """Prompts on the validation set: their mean score in [0, 1], and their rollouts in the examples' order.

    `name` is `student` or that of the round that accepted them; `prompts` has every predictor's; `spent` is what the
    run had spent by its end.
    """

    name: str
    score: float
    prompts: Mapping[str, str]
    rollouts: Sequence[Rollout] = field(repr=False)
    spent: RunUsage = field(default_factory=RunUsage, repr=False)


@dataclass(frozen=True, slots=True)
class PromptCandidate:
    """A prompt that the corrector wrote: the training examples it was shown for it, and the mean score on the mistakes.

    `score` is None for one that was not tried or has no reward, and `dropped` says why.
    """

    prompt: str
    shown: Sequence[int]
    score: float | None = None
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class PromptRound:
    """One round: the prompt of one predictor, its mistakes (positions in the training set), and what came of them.

    `impact` is of the prompt before, sentence by sentence, empty without impact. `chosen` is the candidate that was
    best on the mistakes, None where none was to be tried. `train` has the mean scores on the training set before and
    after, `accepted` whether the candidate became the prompt. `brief` is what the corrector was told.
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
        """The stage's name, where the round accepted a prompt."""
        return f"round{self.number}"

    @property
    def after(self) -> str:
        """The predictor's prompt from here on."""
        return self.candidates[self.chosen].prompt if self.accepted and self.chosen is not None else self.before

    @property
    def diff(self) -> str:
        """What changed, as a unified diff; empty where nothing did."""
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
    """How a compile went: every stage, the selected one, every round, the corrector's briefs, and what was spent.

    `briefs` begins with the first one, and has one more for each time the corrector rewrote it. `spent` is the
    program's, `corrector` the corrector's; both cover every session of the run's folder. `stopped` says where a budget
    ended the run before its end, and is empty otherwise. `verdict` says in a few sentences what was gained, or why not
    and what to change; see `optimizers.core.verdict`.
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
        """The prompts' history, a unified diff a round."""
        return "\n".join(each.diff for each in self.rounds if each.diff)

    def impact_table(self) -> list[dict[str, object]]:
        """Every sentence's impact in every round, a row each, as a pandas frame takes them."""
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
