"""What a run says while it works, and who may listen: the run's plan, its stages, and its budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from optimizers.core.budget import BudgetState
from optimizers.core.records import Rollout


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run as it is expected: runs of the program, samples of the generator, rows to train on."""

    name: str
    runs: float = 0.0
    samples: float = 0.0
    rows: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run in their order, if all of them are taken, and the least reward that counts as a success."""

    steps: Sequence[Step] = ()
    threshold: float = 1.0


class Stage(Protocol):
    """One stage under way."""

    def advance(self, rollout: Rollout | None = None) -> None:
        """One more unit is done; a rollout among them counts towards the success rate."""

    def move_to(self, done: int, total: int) -> None:
        """`done` of `total` units are done."""

    def expect(self, total: int) -> None:
        """There are `total` units after all."""


@runtime_checkable
class Reporter(Protocol):
    """Where a run says how far it is. Its methods may be called from any thread."""

    def run(
        self, plan: Plan | None = None, spend: Callable[[], BudgetState] | None = None
    ) -> AbstractContextManager[None]:
        """A context manager for several stages; `spend` returns the budget's state, at any time."""
        ...

    def stage(self, name: str, total: int) -> AbstractContextManager[Stage]:
        """A context manager for one stage of `total` units; two stages may be under way at once."""
        ...

    def say(self, text: str) -> None:
        """One line about the run."""


class Silent:
    """Says nothing."""

    @contextmanager
    def run(self, plan: Plan | None = None, spend: Callable[[], BudgetState] | None = None) -> Iterator[None]:
        """Count nothing."""
        yield

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Count nothing."""
        yield _SilentStage()

    def say(self, text: str) -> None:
        """Say nothing."""


class _SilentStage:
    def advance(self, rollout: Rollout | None = None) -> None:
        """Count nothing."""

    def move_to(self, done: int, total: int) -> None:
        """Count nothing."""

    def expect(self, total: int) -> None:
        """Count nothing."""
