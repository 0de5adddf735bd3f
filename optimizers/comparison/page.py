"""A comparison as one self-contained HTML page: scores compared with no change, and costs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimizers.comparison.cells import SCORE_COLUMNS, TABLE_COLUMNS, format_cells, write_legend
from optimizers.comparison.leaderboard import NO_CHANGE, Row
from optimizers.comparison.seed_differences import SEED_COLUMNS, SEED_LEGEND, compare_by_seed
from optimizers.core.run_folder import RunFolder
from optimizers.observe.report.charts import scatter
from optimizers.observe.report.page import rendered
from optimizers.observe.report.texts import flat

PAGE_FILE = "report.html"
"""Where a comparison's folder keeps its page."""


def render_comparison_page(
    task: str, conditions: str, rows: Sequence[Row], *, log_dir: Path = Path(), page_folder: Path | None = None
) -> str:
    """Renders the page: the task, the `conditions`, and a row per contender.

    Names and reasons are escaped. The page loads nothing, and runs only the package's own script. With a
    `page_folder`, the folder of the page's file, the page links to the reports of the runs of SGT in `log_dir`.

    >>> "<script>x" in render_comparison_page("<script>x", "no limit a contender, seeds 0", [])
    False
    """
    shown = [row for row in rows if not row.skipped]
    record = RunFolder(log_dir).read("run.json") or {}
    return rendered(
        "comparison.html.jinja",
        title=task or "Comparison",
        subtitle=conditions,
        columns=TABLE_COLUMNS,
        scores=SCORE_COLUMNS,
        rows=[(row, format_cells(row)) for row in shown],
        reference=next((row.test for row in shown if row.name == NO_CHANGE), None),
        best=max(((row.test or 0.0) for row in shown), default=0.0),
        seeds=[(row.name, [f"seed {seed}: {score:.3f}" for seed, score in row.by_seed.items()]) for row in shown],
        chart=scatter([(row.name, row.compiling.actor_calls, row.test or 0.0) for row in shown]),
        legend=write_legend(rows),
        differences=[each.cells for each in compare_by_seed({row.name: row.by_seed for row in shown})],
        difference_columns=SEED_COLUMNS,
        difference_legend=SEED_LEGEND,
        skipped=[row for row in rows if row.skipped],
        runs=_list_reports(log_dir, page_folder),
        command=str(record.get("command") or ""),
        versions=flat(record.get("versions") or {}),
    )


def _list_reports(log_dir: Path, page_folder: Path | None) -> list[dict[str, Any]]:
    """Lists the reports of SGT's runs in the comparison's folder, with their links from the page."""
    if page_folder is None or log_dir == Path():
        return []
    return [
        {"name": file.relative_to(log_dir).parts[0], "seed": file.parent.parent.name, "at": _link(page_folder, file)}
        for file in sorted(log_dir.glob("*/seed-*/sgt/report.html"))
    ]


def _link(page_folder: Path, file: Path) -> str:
    return Path(os.path.relpath(file.resolve(), page_folder.resolve())).as_posix()
