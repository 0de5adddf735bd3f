"""The outcome of one contender with one seed, as its folder keeps it: scores on test, and the usage of both parts."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from optimizers.core.safe_reading import read_entry
from optimizers.core.usage import RunUsage, Usage, WorkSeconds

FILE = "outcome.json"


def usage_content(usage: RunUsage) -> dict[str, float]:
    """Usage as JSON holds it: calls and tokens by role, dollars of all roles, and seconds on the clock.

    >>> content = usage_content(RunUsage(actor=Usage(calls=2, cost=0.5), seconds=WorkSeconds(total=3.0)))
    >>> content["actor_calls"], content["usd"], content["seconds"], content["proposer_in"]
    (2, 0.5, 3.0, 0)
    """
    actor, proposer, generator = usage.actor, usage.proposer, usage.generator
    return {
        "actor_calls": actor.calls,
        "actor_in": actor.tokens_in,
        "actor_out": actor.tokens_out,
        "proposer_calls": proposer.calls,
        "proposer_in": proposer.tokens_in,
        "proposer_out": proposer.tokens_out,
        "generator_in": generator.tokens_in,
        "generator_out": generator.tokens_out,
        "usd": usage.cost,
        "seconds": usage.seconds.total,
    }


def read_usage(content: Mapping[str, Any], file: Path) -> RunUsage:
    """The usage that `usage_content` wrote; a missing field is 0, and all dollars count as the actor's.

    Raises `RunFolderError` for a field that is no number. Numbers may be means, which are no integers.
    """

    def number(name: str) -> Any:
        return read_entry(content, name, float, 0, file=file)

    return RunUsage(
        actor=Usage(0, *(number(f"actor_{part}") for part in ("calls", "in", "out")), cost=number("usd")),
        generator=Usage(0, 0, *(number(f"generator_{part}") for part in ("in", "out"))),
        proposer=Usage(0, *(number(f"proposer_{part}") for part in ("calls", "in", "out"))),
        seconds=WorkSeconds(total=number("seconds")),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One contender with one seed: `scores` by the test examples' ids, None where an outage prevented an answer.

    `compiling` is the usage of compiling the program, `answering` that of all answers on test, and `latency` the
    seconds of an answer when no other call is in flight (the median of a few).
    """

    name: str
    seed: int
    scores: Mapping[str, float | None]
    compiling: RunUsage = field(default_factory=RunUsage)
    answering: RunUsage = field(default_factory=RunUsage)
    latency: float = 0.0

    @property
    def score(self) -> float:
        """The mean over the answered examples, in [0, 1]."""
        answered = self.answered
        return sum(answered.values()) / len(answered) if answered else 0.0

    @property
    def answered(self) -> dict[str, float]:
        """The scores of the answered examples."""
        return {unit: score for unit, score in self.scores.items() if score is not None}

    def answered_of(self, units: Container[str]) -> dict[str, float]:
        """The scores of those of these examples that are answered."""
        return {unit: score for unit, score in self.answered.items() if unit in units}

    def content(self) -> dict[str, Any]:
        """The outcome as JSON holds it."""
        return asdict(self) | {part: usage_content(getattr(self, part)) for part in ("compiling", "answering")}

    @staticmethod
    def read(content: Mapping[str, Any], file: Path) -> Outcome:
        """The outcome that `content` wrote; raises `RunFolderError` for anything else."""

        def usage(name: str) -> RunUsage:
            return read_usage(cast("dict[str, Any]", read_entry(content, name, dict, {}, file=file)), file)

        scores = cast("dict[str, Any]", read_entry(content, "scores", dict, {}, file=file))
        return Outcome(
            read_entry(content, "name", str, "", file=file),
            read_entry(content, "seed", int, 0, file=file),
            {unit: None if score is None else float(score) for unit, score in scores.items()},
            usage("compiling"),
            usage("answering"),
            read_entry(content, "latency", float, 0.0, file=file),
        )


@dataclass(frozen=True, slots=True)
class Skipped:
    """A contender that did not run, or failed, and why."""

    name: str
    reason: str


def by_example(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """A contender's score on each test example: the mean over the seeds that answered it.

    >>> by_example([Outcome("a", 0, {"x": 1.0, "y": None}), Outcome("a", 1, {"x": 0.0})])
    {'x': 0.5}
    """
    by_unit: dict[str, list[float]] = {}
    for outcome in outcomes:
        for unit, score in outcome.answered.items():
            by_unit.setdefault(unit, []).append(score)
    return {unit: sum(scores) / len(scores) for unit, scores in by_unit.items()}
