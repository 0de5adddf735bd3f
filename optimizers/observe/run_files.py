"""The files of a run's folder that its end leaves: `result.json` and `report.html`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from optimizers.core.events import Event, RunEnded, RunStarted
from optimizers.core.run_folder import RESULT, RunFolder
from optimizers.observe.report import REPORT_FILE, write_report


class EndFile:
    """Writes a file when a run with a folder ends with a result.

    `write` gets the folder, what the run started with, and how it ended.
    """

    def __init__(self, name: str, write: Callable[[Path, RunStarted, RunEnded], object]) -> None:
        self.name, self._write = name, write
        self._started = RunStarted()

    def on_event(self, event: Event) -> None:
        """Keep what the run started with, and write the file at the end."""
        match event:
            case RunStarted():
                self._started = event
            case RunEnded(ending="finished") if self._started.folder is not None:
                self._write(self._started.folder, self._started, event)
            case _:
                pass


def run_files() -> list[EndFile]:
    """The observers that write `result.json` and then, from it and the other files of the folder, `report.html`."""
    return [EndFile(RESULT, _write_result), EndFile(REPORT_FILE, _write_report)]


def _write_result(folder: Path, _: RunStarted, ended: RunEnded) -> None:
    content = {"selected": ended.selected, "scores": dict(ended.scores), "verdict": ended.verdict}
    RunFolder(folder).write(RESULT, content | {"notes": list(ended.notes), "stopped": ended.stopped})


def _write_report(folder: Path, started: RunStarted, _: RunEnded) -> None:
    try:
        write_report(folder, store=started.rollouts)
    except Exception as problem:
        problem.add_note(f"{folder} has no report; `sgt report` makes one.")
        raise
