"""What a tracker is, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

Ending = Literal["finished", "failed", "stopped"]
"""How a session ended: at its end or within its budget, by an error, by Ctrl-C."""


class Point(NamedTuple):
    """One value of a curve. `step` counts stages from 0 or, in a curve of losses, optimizer steps from 1."""

    name: str
    value: float
    step: int


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as a tracker begins to hear of it.

    `id` is the run's own, `known` what `begin` gave in an earlier session of the same folder. `parameters` are texts
    without secrets: settings by name, versions of packages, the models that are asked.
    """

    id: str
    folder: Path
    parameters: Mapping[str, str]
    known: str | None = None

    @property
    def name(self) -> str:
        """The folder's name.

        >>> TrackedRun("1f", Path("runs/first"), {}).name
        'first'
        """
        return self.folder.resolve().name


@runtime_checkable
class Tracker(Protocol):
    """Whoever keeps the figures of runs. Its methods are called one at a time, from a thread of its own.

    What it raises ends its hearing of the run, not the run.
    """

    @property
    def name(self) -> str:
        """By which messages and `trackers.json` know it."""
        ...

    def begin(self, run: TrackedRun) -> str:
        """Begin a run, or go on with `run.known`; the id of what is written to.

        Where that is not `run.known`, every stage is told again.
        """
        ...

    def points(self, points: Sequence[Point]) -> None:
        """Values of curves, in order."""
        ...

    def label(self, name: str, text: str) -> None:
        """A short text about the run, such as the stage that was selected; a later one replaces it."""
        ...

    def file(self, path: Path, place: str) -> None:
        """A file, or a folder with its files, to be kept under that folder's name (empty: at the top)."""
        ...

    def end(self, ending: Ending) -> None:
        """The session is over; another one may go on with the run."""
        ...
