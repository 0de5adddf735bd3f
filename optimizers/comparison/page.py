"""A comparison as one HTML page that needs nothing else: scores beside no change, and what they cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimizers.comparison.cells import COLUMNS, LEGEND, SCORES, cells_of
from optimizers.comparison.leaderboard import NONE, Row
from optimizers.core.run_folder import RunFolder
from optimizers.observe.report.charts import scatter
from optimizers.observe.report.page import rendered
from optimizers.observe.report.texts import flat

FILE = "report.html"


def page(task: str, conditions: str, rows: Sequence[Row], *, log_dir: Path = Path(), beside: Path | None = None) -> str:
    """The page's text: what was compared, under which `conditions`, a row a contender.

    Every name and reason is escaped; the page loads nothing, and no script but the package's own may run. `beside` is
    the folder that the page will lie in: the reports of SGT's runs in `log_dir` are linked from there.

    >>> "<script>x" in page("<script>x", "no limit a contender, seeds 0", [])
    False
    """
    ran = [row for row in rows if not row.skipped]
    known = RunFolder(log_dir).read("run.json") or {}
    return rendered(
        "comparison.html.jinja",
        title=task or "Comparison",
        subtitle=conditions,
        columns=COLUMNS,
        scores=SCORES,
        rows=[(row, cells_of(row)) for row in ran],
        reference=next((row.test for row in ran if row.name == NONE), None),
        best=max(((row.test or 0.0) for row in ran), default=0.0),
        seeds=[(row.name, [f"seed {seed}: {score:.3f}" for seed, score in row.by_seed.items()]) for row in ran],
        chart=scatter([(row.name, row.compiling.actor_calls, row.test or 0.0) for row in ran]),
        legend=LEGEND,
        skipped=[row for row in rows if row.skipped],
        runs=_reports(log_dir, beside),
        command=str(known.get("command") or ""),
        versions=flat(known.get("versions") or {}),
    )


def _reports(folder: Path, beside: Path | None) -> list[dict[str, Any]]:
    """The reports of the runs inside the comparison's folder, as the page reaches them."""
    if beside is None or folder == Path():
        return []
    found = sorted(folder.glob("*/seed-*/sgt/report.html"))
    return [
        {"name": each.relative_to(folder).parts[0], "seed": each.parent.parent.name, "at": _from(beside, each)}
        for each in found
    ]


def _from(beside: Path, file: Path) -> str:
    return Path(os.path.relpath(file.resolve(), beside.resolve())).as_posix()
