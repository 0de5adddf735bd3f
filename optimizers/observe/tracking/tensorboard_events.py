"""A run as TensorBoard draws it: event files in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimizers.core.events import Ending
from optimizers.observe.tracking.tracker import Point, TrackedRun

FOLDER = "tensorboard"


class TensorBoardEvents:
    """Writes scalars and texts to `tensorboard/` in the run's folder; the run's own files are in that folder already.

    >>> TensorBoardEvents().name
    'tensorboard'
    """

    name = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None

    def begin(self, run: TrackedRun) -> str:
        """As `Tracker`."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(run.folder / FOLDER)
        if run.known is None:
            rows = "".join(f"| {name} | {text} |\n" for name, text in run.parameters.items())
            self._writer.add_text("parameters", f"| name | value |\n|---|---|\n{rows}")
        return FOLDER

    def points(self, points: Sequence[Point]) -> None:
        """As `Tracker`."""
        for each in points:
            self._writer.add_scalar(each.name, each.value, each.step)
        self._writer.flush()

    def label(self, name: str, text: str) -> None:
        """As `Tracker`: a text."""
        self._writer.add_text(name, text)

    def file(self, path: Path, place: str) -> None:
        """Nothing: TensorBoard draws no files."""

    def end(self, ending: Ending) -> None:
        """As `Tracker`."""
        self._writer.close()
