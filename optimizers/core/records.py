"""What flows through a run, one frozen record a step.

Query -> Candidate -> Rollout -> SFTExample | PreferencePair -> Checkpoint
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from sgt_modules.episode import Place
from sgt_modules.kinds import Supplement

Between = Literal["inter", "intra"]
"""A pair of a winner and a loser: of two kinds, or of one."""

BETWEEN: tuple[Between, ...] = ("inter", "intra")

Category = Literal["inter", "intra", "shorter"]
"""`inter`: chosen and rejected are of different kinds (teach which kind); `intra`: of one kind (teach quality);
`shorter`: both worked equally well and the chosen one is shorter."""


@dataclass(frozen=True, slots=True)
class Reward:
    """The actor's outcome: a score in [0, 1], and the metric's words about it (empty when it has none).

    >>> Reward(0.5, "half of the rows")
    Reward(score=0.5, feedback='half of the rows')
    """

    score: float
    feedback: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """One place where a supplement is wanted: one call of one predictor of the program on one example.

    `id` names it whatever the run (a hash of the example's fields, the place, and what the others read); `index` is the
    example's position in its split; `predictor` is its role; `prompt` is what the generator reads, naming no kind;
    `turn` counts the predictor's calls in a run, from 0. `others` are the supplements that every other place reads
    meanwhile; a place that it lacks reads none.

    >>> Query("1f3a", 0, "solve", "question: 17 x 3?").place
    Place(role='solve', turn=0)
    """

    id: str
    index: int
    predictor: str
    prompt: str
    turn: int = 0
    others: tuple[tuple[Place, Supplement], ...] = ()

    @property
    def place(self) -> Place:
        """Where in a run of the program it stands."""
        return Place(self.predictor, self.turn)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A supplement proposed for a query, before the actor has seen it.

    `source` is the pool it comes from (`predefined`, `free`, `ood`, `concat`, `direct`, `none`; `given` for a kind's
    own text, `logged` for a log's, `gated` where a gate dropped what the generator wrote); `logprob` is the mean
    log-probability of its tokens under the generator that wrote it (0.0 where none wrote it, or its server tells none);
    `writer` is that generator's fingerprint.
    """

    query: Query
    supplement: Supplement
    source: str
    logprob: float = 0.0
    writer: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One run of the frozen actor on (example, supplement).

    `reward` is None when the run failed for a reason that says nothing about the supplement (a provider's error): such
    a rollout is neither a success nor a failure. `output` holds the program's output fields as text. Tokens are the
    actor's own, as its provider counts them; `seconds` is wall time; `cost` is in US dollars, 0.0 where no price is
    known. `writer` is the fingerprint of the generator that wrote the supplement, empty where none did. `answer` is
    the rest of the program's answer, which `output` lacks (see `optimizers.rollouts.kept_answers`), empty where it is
    not kept.

    >>> asked = Query("1f3a", 0, "solve", "question: 17 x 3?")
    >>> tried = Rollout(asked, "dpo1", "direct", Supplement("cot", "10 x 3, then 7 x 3."), Reward(1.0))
    >>> tried.won(), tried.lost()
    (True, False)
    """

    query: Query
    stage: str
    source: str
    supplement: Supplement
    reward: Reward | None
    output: Mapping[str, str] = field(default_factory=dict[str, str])
    error: str = ""
    logprob: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    writer: str = ""
    answer: str = ""

    def won(self, threshold: float = 1.0) -> bool:
        """Whether the actor succeeded, i.e. was rewarded with at least `threshold`."""
        return self.reward is not None and self.reward.score >= threshold

    def lost(self, threshold: float = 1.0) -> bool:
        """Whether the actor answered and did not succeed."""
        return self.reward is not None and self.reward.score < threshold

    def at(self, index: int) -> Rollout:
        """The same of the example that stands at `index` now."""
        return replace(self, query=replace(self.query, index=index))

    def as_proposed(self, candidate: Candidate, stage: str) -> Rollout:
        """The same as this candidate's in a stage: the outcome is kept, the proposal is its own."""
        return replace(
            self,
            query=candidate.query,
            stage=stage,
            source=candidate.source,
            supplement=candidate.supplement,
            logprob=candidate.logprob,
            writer=candidate.writer,
        )

    def unpaid(self) -> Rollout:
        """The same without its costs, as a run's other rollouts are: what a run cost stands in its first."""
        return replace(self, tokens_in=0, tokens_out=0, seconds=0.0, cost=0.0)


@dataclass(frozen=True, slots=True)
class SFTExample:
    """A supplement that worked, as a training row: the prompt that names no kind, and the tagged supplement.

    `cut`: the model did not end the supplement itself, so no end token is taught behind it.

    >>> SFTExample("1f3a", "cot", "question: 17 x 3?", "[cot] 10 x 3, then 7 x 3.").completion
    '[cot] 10 x 3, then 7 x 3.'
    """

    query: str
    kind: str
    prompt: str
    completion: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Of one query, a supplement that worked and one that did not, as the generator would write them.

    `chosen_cut`, `rejected_cut`: the model did not end that one itself, so no end token is taught behind it.

    >>> pair = PreferencePair("1f3a", "inter", "question: 17 x 3?", "[cot] 10 x 3, then 7 x 3.", "[summary] A product.")
    >>> pair.chosen
    '[cot] 10 x 3, then 7 x 3.'
    """

    query: str
    category: Category
    prompt: str
    chosen: str
    rejected: str
    chosen_cut: bool = False
    rejected_cut: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Trained weights on disk: a PEFT adapter's folder, or a whole model's with full fine-tuning.

    `fingerprint` is the sha256 (hex) of the weight file; `metrics` holds what the trainer measured (loss, rows,
    tokens, seconds, dropped rows); `notes` are sentences on what a person should know, such as rows left out.

    >>> Checkpoint("sft", Path("runs/demo/sft"), "9c1e...", {"loss": 0.41, "rows": 120.0}).metrics["loss"]
    0.41
    """

    stage: str
    path: Path
    fingerprint: str
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    notes: Sequence[str] = ()
