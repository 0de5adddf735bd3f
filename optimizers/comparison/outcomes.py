"""The outcome of a trial, as its folder keeps it: scores on the test set, and the usage of compiling and answering."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from optimizers.core.safe_reading import read_entry
from optimizers.core.usage import RunUsage, Usage, WorkSeconds

OUTCOME_FILE = "outcome.json"
"""Where a trial's folder keeps its outcome."""


def dump_usage(usage: RunUsage) -> dict[str, float]:
    """Returns usage as JSON: calls and tokens by role, dollars of all roles together, and seconds on the clock.

    >>> content = dump_usage(RunUsage(actor=Usage(calls=2, cost=0.5), seconds=WorkSeconds(total=3.0)))
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
    """Reads what `dump_usage` wrote; a missing field is 0, and all dollars count as the actor's.

    Numbers may be means, so they need not be integers. Raises `RunFolderError` for a field that is not a number.
    """

    def read_number(name: str) -> Any:
        return read_entry(content, name, float, 0, file=file)

    return RunUsage(
        actor=Usage(0, *(read_number(f"actor_{part}") for part in ("calls", "in", "out")), cost=read_number("usd")),
        generator=Usage(0, 0, *(read_number(f"generator_{part}") for part in ("in", "out"))),
        proposer=Usage(0, *(read_number(f"proposer_{part}") for part in ("calls", "in", "out"))),
        seconds=WorkSeconds(total=read_number("seconds")),
    )


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """The outcome of one contender with one seed.

    `scores` are by the ids of the test examples; None if an outage prevented an answer. `compiling` is the usage of
    compiling the program, `answering` that of all answers on the test set. `latency` is the seconds of an answer while
    no other call is in flight (the median of a few). `stopped` is the phase in which the budget ended a run of SGT.
    `errors` counts the answers that failed by the error's type; `error` is one of them, on one line.
    """

    name: str
    seed: int
    scores: Mapping[str, float | None]
    compiling: RunUsage = field(default_factory=RunUsage)
    answering: RunUsage = field(default_factory=RunUsage)
    latency: float = 0.0
    stopped: str = ""
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    error: str = ""

    @property
    def score(self) -> float:
        """The mean of the known scores, in [0, 1]; 0 if there are none."""
        scores = self.known_scores.values()
        return sum(scores) / len(scores) if scores else 0.0

    @property
    def known_scores(self) -> dict[str, float]:
        """The scores of the examples that have one, by id."""
        return {unit: score for unit, score in self.scores.items() if score is not None}

    def select_scores(self, units: Container[str]) -> dict[str, float]:
        """Returns the known scores of these examples, by id."""
        return {unit: score for unit, score in self.known_scores.items() if unit in units}

    def content(self) -> dict[str, Any]:
        """Returns the outcome as JSON."""
        return asdict(self) | {part: dump_usage(getattr(self, part)) for part in ("compiling", "answering")}

    @staticmethod
    def read(content: Mapping[str, Any], file: Path) -> TrialOutcome:
        """Reads what `content` returned; raises `RunFolderError` for anything else."""

        def read_part(name: str) -> RunUsage:
            return read_usage(cast("dict[str, Any]", read_entry(content, name, dict, {}, file=file)), file)

        scores = cast("dict[str, Any]", read_entry(content, "scores", dict, {}, file=file))
        return TrialOutcome(
            read_entry(content, "name", str, "", file=file),
            read_entry(content, "seed", int, 0, file=file),
            {unit: None if score is None else float(score) for unit, score in scores.items()},
            read_part("compiling"),
            read_part("answering"),
            read_entry(content, "latency", float, 0.0, file=file),
            read_entry(content, "stopped", str, "", file=file),
            cast("dict[str, int]", read_entry(content, "errors", dict, {}, file=file)),
            read_entry(content, "error", str, "", file=file),
        )


@dataclass(frozen=True, slots=True)
class SkippedContender:
    """A contender that did not run, or failed, with the reason."""

    name: str
    reason: str


def average_by_example(outcomes: Sequence[TrialOutcome]) -> dict[str, float]:
    """Averages one contender's scores over the seeds, by example.

    >>> average_by_example([TrialOutcome("a", 0, {"x": 1.0, "y": None}), TrialOutcome("a", 1, {"x": 0.0})])
    {'x': 0.5}
    """
    by_unit: dict[str, list[float]] = {}
    for outcome in outcomes:
        for unit, score in outcome.known_scores.items():
            by_unit.setdefault(unit, []).append(score)
    return {unit: sum(scores) / len(scores) for unit, scores in by_unit.items()}
