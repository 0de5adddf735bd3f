"""What one contender came to with one seed, as it lies in its folder: its scores on test, and what both parts cost."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from optimizers.core.safe_reading import entry

FILE = "outcome.json"


@dataclass(frozen=True, slots=True)
class Cost:
    """Calls and tokens of the actor, of the LM that proposes, and of the generator; dollars, and seconds by the clock.

    >>> (Cost(actor_calls=2) + Cost(actor_calls=1, seconds=0.5)).actor_calls
    3
    """

    actor_calls: int = 0
    actor_in: int = 0
    actor_out: int = 0
    proposer_calls: int = 0
    proposer_in: int = 0
    proposer_out: int = 0
    generator_in: int = 0
    generator_out: int = 0
    usd: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __truediv__(self, count: int) -> Cost:
        return Cost(*(getattr(self, each.name) / count for each in fields(self)))

    @property
    def tokens(self) -> float:
        """Tokens of the actor and of the LM that proposes, read and written."""
        return self.actor_in + self.actor_out + self.proposer_in + self.proposer_out

    @property
    def generator_tokens(self) -> float:
        """Tokens of the generator, read and written."""
        return self.generator_in + self.generator_out


@dataclass(frozen=True, slots=True)
class Outcome:
    """One contender with one seed: `scores` by the test examples' ids, None where an outage kept the answer back.

    `compiling` is what it took to get the program, `answering` what all answers on test took, and `latency` the seconds
    of an answer when nothing else is asked (the median of a few).
    """

    name: str
    seed: int
    scores: Mapping[str, float | None]
    compiling: Cost = field(default_factory=Cost)
    answering: Cost = field(default_factory=Cost)
    latency: float = 0.0

    @property
    def score(self) -> float:
        """The mean over the examples that were answered, in [0, 1]."""
        answered = self.answered
        return sum(answered.values()) / len(answered) if answered else 0.0

    @property
    def answered(self) -> dict[str, float]:
        """The scores there are."""
        return {unit: score for unit, score in self.scores.items() if score is not None}

    def answered_of(self, units: Container[str]) -> dict[str, float]:
        """The scores there are on these examples."""
        return {unit: score for unit, score in self.answered.items() if unit in units}

    def content(self) -> dict[str, Any]:
        """The outcome as JSON holds it."""
        return asdict(self)

    @staticmethod
    def read(content: Mapping[str, Any], file: Path) -> Outcome:
        """What `content` wrote; raises `RunFolderError` for anything else."""

        def cost(name: str) -> Cost:
            part = cast("dict[str, Any]", entry(content, name, dict, {}, file=file))
            return Cost(**{key: entry(part, key, type(zero), zero, file=file) for key, zero in asdict(Cost()).items()})

        scores = cast("dict[str, Any]", entry(content, "scores", dict, {}, file=file))
        return Outcome(
            entry(content, "name", str, "", file=file),
            entry(content, "seed", int, 0, file=file),
            {unit: None if score is None else float(score) for unit, score in scores.items()},
            cost("compiling"),
            cost("answering"),
            entry(content, "latency", float, 0.0, file=file),
        )


@dataclass(frozen=True, slots=True)
class Skipped:
    """A contender that did not run, or did not come to an end, and why."""

    name: str
    reason: str


def by_example(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """A contender's score on each test example: the mean over the seeds that answered it.

    >>> by_example([Outcome("a", 0, {"x": 1.0, "y": None}), Outcome("a", 1, {"x": 0.0})])
    {'x': 0.5}
    """
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        for unit, score in outcome.answered.items():
            found.setdefault(unit, []).append(score)
    return {unit: sum(scores) / len(scores) for unit, scores in found.items()}
