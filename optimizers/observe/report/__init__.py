"""A run as one HTML page that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from jinja2 import UndefinedError

from optimizers.core.events import RolloutSource
from optimizers.core.run_folder import RunFolder
from optimizers.observe.report.record import RunRecord, read_run
from optimizers.observe.report.run_page import run_page
from sgt_modules.errors import RunFolderError

__all__ = ["REPORT_FILE", "RunRecord", "read_run", "run_page", "write_page", "write_report"]

REPORT_FILE = "report.html"
"""Where a run's folder has its page."""


def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    store: RolloutSource | None = None,
    where: str | Path | None = None,
) -> Path:
    """Write a run's page, to `report.html` in its folder or to `out`; where it is.

    `store` is the run's store, open; or `where` it is, if neither in the folder.

    Raises:
        RunFolderError: the folder holds no run, or files that cannot be read.
    """
    return write_page(read_run(Path(folder), store=store, where=where), out)


def write_page(record: RunRecord, out: str | Path | None = None) -> Path:
    """Write the page of a run that was read, to `report.html` in its folder or to `out`; where it is.

    Raises:
        RunFolderError: the folder's files have another form than a run writes.
    """
    target = record.folder / REPORT_FILE if out is None else Path(out)
    try:
        page = run_page(record)
    except (UndefinedError, LookupError, TypeError, AttributeError, ValueError) as problem:
        raise RunFolderError(f"{record.folder} holds JSON of another form than a run writes: {problem}.") from problem
    return RunFolder(target.parent).write_text(target, page)
