"""The data of a run, one frozen record for each step.

Query -> Candidate -> Rollout -> SFTExample | PreferencePair | ScoredSample -> Checkpoint
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from sgt_modules.episode import Place
from sgt_modules.kinds import Supplement

Between = Literal["inter", "intra"]
"""Whether the winner and the loser of a pair are of two kinds (`inter`) or of one (`intra`)."""

BETWEEN: tuple[Between, ...] = ("inter", "intra")

Category = Literal["inter", "intra", "shorter", "cheaper"]
"""`inter`: chosen and rejected are of different kinds (teach which kind); `intra`: of one kind (teach quality);
`shorter`: both worked equally well and the chosen one is shorter; `cheaper`: both worked and the run of the chosen one
cost less."""


@dataclass(frozen=True, slots=True)
class Reward:
    """The score of the actor's answer, in [0, 1], and the metric's feedback (empty where it gives none).

    >>> Reward(0.5, "half of the rows")
    Reward(score=0.5, feedback='half of the rows')
    """

    score: float
    feedback: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """One place that can read a supplement: one call of one predictor on one example.

    `id` is the same in every run: a hash of the example's fields, the place, and the supplements of the other places.
    `index` is the example's position in its split; `predictor` is the predictor's role; `prompt` is the generator's
    prompt, which names no kind; `turn` counts the predictor's calls in a run, from 0. `others` holds the supplements
    that the other places read in the same run; a place that is not in it reads none.

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
        """The query's place in a run of the program."""
        return Place(self.predictor, self.turn)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A supplement proposed for a query, before the actor reads it.

    `source` is its pool (`predefined`, `free`, `ood`, `concat`, `direct`, `feedback`, `none`; `given` for the text
    of a kind, `logged` for one from a log, `gated` if a gate dropped the generator's text); `logprob` is the mean
    log-probability of its tokens under its generator (0.0 without a generator, or if its server reports none);
    `writer` is that generator's fingerprint.
    """

    query: Query
    supplement: Supplement
    source: str
    logprob: float = 0.0
    writer: str = ""


@dataclass(frozen=True, slots=True)
class Effort:
    """What one run of the program used: the actor's tokens in and out, its LM calls, and wall seconds.

    `steps` also counts the calls that DSPy's cache answers; `tokens` does not count theirs. Of several actors, all are
    means over them.

    >>> Effort(tokens=812, steps=3)
    Effort(tokens=812, steps=3, seconds=0.0)
    """

    tokens: float
    steps: float
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Rollout:
    """One run of the frozen actor on (example, supplement).

    `reward` is None if the run failed for a reason that is not the supplement's, such as a provider's error: such a
    rollout is neither a success nor a failure. `output` holds the program's output fields as text. Tokens are the
    actor's, as its provider counts them; `seconds` is wall time; `cost` is in US dollars, 0.0 if no price is known.
    `writer` is the fingerprint of the generator that wrote the supplement, empty if none did. `answer` is the part of
    the program's answer that `output` cannot hold (see `optimizers.rollouts.kept_answers`), empty if it is not stored.
    `effort` is that of the whole run, the same for all its rollouts; None if the run made one LM call, or if it is not
    known. `price` is what the run takes off the reward, 0.0 without prices (see `optimizers.core.cost`).

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
    effort: Effort | None = None
    price: float = 0.0

    @property
    def net(self) -> float | None:
        """The reward's score minus the price; None without a reward."""
        return None if self.reward is None else self.reward.score - self.price

    def won(self, threshold: float = 1.0) -> bool:
        """Whether the reward is at least `threshold`."""
        return self.reward is not None and self.reward.score >= threshold

    def lost(self, threshold: float = 1.0) -> bool:
        """Whether there is a reward and it is below `threshold`."""
        return self.reward is not None and self.reward.score < threshold

    def with_index(self, index: int) -> Rollout:
        """The same rollout for an example whose position is now `index`."""
        return replace(self, query=replace(self.query, index=index))

    def with_proposal(self, candidate: Candidate, stage: str) -> Rollout:
        """The same outcome for another candidate with the same query and supplement, in a stage."""
        return replace(
            self,
            query=candidate.query,
            stage=stage,
            source=candidate.source,
            supplement=candidate.supplement,
            logprob=candidate.logprob,
            writer=candidate.writer,
        )

    def without_cost(self) -> Rollout:
        """The same with all costs 0. Of a run with several rollouts, only the first has its costs."""
        return replace(self, tokens_in=0, tokens_out=0, seconds=0.0, cost=0.0)


@dataclass(frozen=True, slots=True)
class SFTExample:
    """A training row of a supplement that won: the prompt, which names no kind, and the supplement with its kind's tag.

    `cut`: the token limit cut the supplement, so training adds no end token after it.

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
    """Two supplements of one query as the generator writes them: `chosen` is preferred to `rejected`.

    `chosen_cut`, `rejected_cut`: the token limit cut that text, so training adds no end token after it.

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
class ScoredSample:
    """A training row of GRPO: what the current generator wrote for a query, and the reward in [0, 1].

    The samples of one `query` are a group: their rewards are compared with their mean. `cut`: the token limit cut the
    supplement, so training adds no end token after it.

    >>> ScoredSample("1f3a", "cot", "question: 17 x 3?", "[cot] 10 x 3, then 7 x 3.", 1.0).reward
    1.0
    """

    query: str
    kind: str
    prompt: str
    completion: str
    reward: float
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Trained weights on disk: a PEFT adapter's folder, or a whole model's with full fine-tuning.

    `fingerprint` is the sha256 (hex) of the weight file; `metrics` holds what the trainer measured (loss, rows,
    tokens, seconds, dropped rows); `notes` are sentences for the user, such as which rows were left out.

    >>> Checkpoint("sft", Path("runs/demo/sft"), "9c1e...", {"loss": 0.41, "rows": 120.0}).metrics["loss"]
    0.41
    """

    stage: str
    path: Path
    fingerprint: str
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    notes: Sequence[str] = ()
