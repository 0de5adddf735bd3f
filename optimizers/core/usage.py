"""What a run uses: calls, tokens, seconds and dollars by role, and the clock's seconds by kind of work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from optimizers.core.safe_reading import read_entry

SPENT_FILE = "spent.json"
"""Where a run's folder keeps its usage."""

Work = Literal["sampling", "acting", "training"]

WORKS: tuple[Work, ...] = ("sampling", "acting", "training")


class _Sum:
    """Field by field arithmetic of a frozen record, whose fields are numbers or such records."""

    __slots__ = ()

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in _names(self)))

    def __truediv__(self, count: int) -> Self:
        return type(self)(*(getattr(self, name) / count for name in _names(self)))


@dataclass(frozen=True, slots=True)
class Usage(_Sum):
    """Runs of a program, calls of an LM, their tokens, seconds summed over threads, and US dollars.

    Each answer is a call, so a request with `n=3` counts three; an answer from DSPy's own cache counts none. Tokens are
    what the provider reports. `cost` counts only calls of a known price (see `optimizers.core.prices`). A difference is
    never below zero.

    >>> Usage(runs=1, calls=3, tokens_in=10) - Usage(calls=2, tokens_in=12)
    Usage(runs=1, calls=1, tokens_in=0, tokens_out=0, seconds=0.0, cost=0.0)
    """

    runs: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(max(getattr(self, name) - getattr(other, name), 0) for name in _names(self)))

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True, slots=True)
class WorkSeconds(_Sum):
    """Seconds on the clock: in `total`, and by kind of work. Sampling and acting may overlap."""

    sampling: float = 0.0
    acting: float = 0.0
    training: float = 0.0
    total: float = 0.0

    def plus(self, work: Work, seconds: float) -> WorkSeconds:
        """The same with more seconds of one kind of work.

        >>> WorkSeconds(acting=1.0).plus("acting", 0.5).acting
        1.5
        """
        return replace(self, **{work: getattr(self, work) + seconds})

    @property
    def by_work(self) -> dict[Work, float]:
        """Seconds of each kind of work, without the total."""
        return {work: getattr(self, work) for work in WORKS}

    def rounded(self) -> dict[str, float]:
        """Seconds to one digit, as `summary.json` holds them.

        >>> WorkSeconds(sampling=1.04, total=2.96).rounded()
        {'total': 3.0, 'sampling': 1.0, 'acting': 0.0, 'training': 0.0}
        """
        return {name: round(getattr(self, name), 1) for name in ("total", *WORKS)}

    @staticmethod
    def read(content: Mapping[str, Any], file: Path) -> WorkSeconds:
        """Seconds from a JSON object; a missing field is 0. Raises `RunFolderError` for a field that is no number."""
        return WorkSeconds(*(read_entry(content, name, float, 0.0, file=file) for name in (*WORKS, "total")))


@dataclass(frozen=True, slots=True)
class RunUsage(_Sum):
    """Usage by role, and the clock's seconds.

    `proposer` is the LM that writes instructions for an optimizer in a comparison, such as a corrector.

    >>> (RunUsage(actor=Usage(calls=2)) + RunUsage(actor=Usage(calls=1))).actor_calls
    3
    """

    actor: Usage = field(default_factory=Usage)
    generator: Usage = field(default_factory=Usage)
    proposer: Usage = field(default_factory=Usage)
    seconds: WorkSeconds = field(default_factory=WorkSeconds)

    @property
    def actor_calls(self) -> int:
        """Calls of the actor's LM."""
        return self.actor.calls

    @property
    def generator_calls(self) -> int:
        """Samples of the generator."""
        return self.generator.calls

    @property
    def cost(self) -> float:
        """US dollars of all roles."""
        return self.actor.cost + self.generator.cost + self.proposer.cost

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of actor and generator, in and out, as `summary.json` names them."""
        both = {"actor": self.actor, "generator": self.generator}
        return {f"{role}_{way}": getattr(used, f"tokens_{way}") for role, used in both.items() for way in ("in", "out")}

    @property
    def content(self) -> dict[str, float]:
        """The usage as `spent.json` holds it."""
        calls = {"actor_calls": self.actor.calls, "generator_calls": self.generator.calls}
        numbers = {**calls, **self.tokens, **self.seconds.by_work, "cost": self.cost, "total": self.seconds.total}
        return {name: numbers[name] for name in _SPENT}

    @staticmethod
    def read(content: Mapping[str, Any]) -> RunUsage:
        """Usage from the content of `spent.json`; a missing field is 0.

        Raises `RunFolderError` for a field that is no number.
        """
        file = Path(SPENT_FILE)

        def count(name: str) -> int:
            return read_entry(content, name, int, 0, file=file)

        cost = read_entry(content, "cost", float, 0.0, file=file)
        return RunUsage(
            actor=Usage(0, count("actor_calls"), count("actor_in"), count("actor_out"), cost=cost),
            generator=Usage(0, count("generator_calls"), count("generator_in"), count("generator_out")),
            seconds=WorkSeconds.read(content, file),
        )


_SPENT = (
    *("actor_calls", "actor_in", "actor_out", "generator_calls", "generator_in", "generator_out"),
    *("sampling", "acting", "training", "cost", "total"),
)
"""The fields of `spent.json` in their order."""


def _names(record: Any) -> list[str]:
    return [each.name for each in fields(record)]
