"""The files of a run's folder that its end leaves: `result.json` and `report.html`."""

from __future__ import annotations

from optimizers.core.events import Event, RunEnded, RunStarted
from optimizers.core.run_folder import RESULT, RunFolder
from optimizers.observe.report import REPORT_FILE, write_report


class ResultFile:
    """Writes `result.json` when a run ends with a result."""

    name = RESULT

    def __init__(self) -> None:
        self._folder: RunFolder | None = None

    def on_event(self, event: Event) -> None:
        """Take the folder at the start, and write the file at the end."""
        match event:
            case RunStarted(folder=folder):
                self._folder = None if folder is None else RunFolder(folder)
            case RunEnded(ending="finished") if self._folder is not None:
                content = {"selected": event.selected, "scores": dict(event.scores), "verdict": event.verdict}
                self._folder.write(RESULT, content | {"notes": list(event.notes), "stopped": event.stopped})
            case _:
                pass


class ReportFile:
    """Writes `report.html` when a run ends with a result, from `result.json` and the other files of the folder."""

    name = REPORT_FILE

    def __init__(self) -> None:
        self._started = RunStarted()

    def on_event(self, event: Event) -> None:
        """Keep what the run started with, and write the page at the end."""
        match event:
            case RunStarted():
                self._started = event
            case RunEnded(ending="finished") if self._started.folder is not None:
                self._write(self._started)
            case _:
                pass

    def _write(self, started: RunStarted) -> None:
        assert started.folder is not None
        try:
            write_report(started.folder, store=started.rollouts)
        except Exception as problem:
            problem.add_note(f"{started.folder} has no report; `sgt report` makes one.")
            raise
