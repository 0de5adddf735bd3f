"""What a tracker is, and what it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from optimizers.core.events import Ending


class Point(NamedTuple):
    """One value of a curve. `step` counts stages from 0 or, in a curve of losses, optimizer steps from 1."""

    name: str
    value: float
    step: int


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as a tracker gets it at its begin.

    `id` is the run's own. `known` is the id that `begin` returned in an earlier session of the same folder.
    `parameters` are texts without secrets: settings by name, versions of packages, names of models.
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
    """Keeps the figures of runs, such as MLflow. Its methods are called one at a time, and the run waits for them.

    A tracker that raises, or takes more than a minute for a call, gets nothing more of the run; the run goes on.
    """

    @property
    def name(self) -> str:
        """The name in messages and in `trackers.json`."""
        ...

    def begin(self, run: TrackedRun) -> str:
        """Begin a run in the tracker, or resume `run.known`; return the id of the tracker's run.

        If the returned id is not `run.known`, the tracker gets every stage again.
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
