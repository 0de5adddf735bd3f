"""A comparison as one HTML page that needs nothing else: scores beside no change, and what they cost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizers.comparison.cells import COLUMNS, LEGEND, SCORES, cells_of
from optimizers.comparison.leaderboard import NONE
from optimizers.core.run_folder import RunFolder
from optimizers.observe.report.charts import scatter
from optimizers.observe.report.page import rendered
from optimizers.observe.report.texts import flat

if TYPE_CHECKING:
    from optimizers.comparison.result import Comparison

FILE = "report.html"


def page(comparison: Comparison, *, beside: Path | None = None) -> str:
    """The page's text. Every name and reason is escaped; it loads nothing, and no script but the package's own may run.

    `beside` is the folder that the page will lie in: the reports of SGT's runs are linked from there.

    >>> from optimizers.comparison.result import Comparison
    >>> "<script>x" in page(Comparison("<script>x", "no limit", (0,), ()))
    False
    """
    ran = [row for row in comparison.rows if not row.skipped]
    known = RunFolder(comparison.log_dir).read("run.json") or {}
    return rendered(
        "comparison.html.jinja",
        title=comparison.task or "Comparison",
        subtitle=f"{comparison.budget} a contender, seeds {', '.join(map(str, comparison.seeds))}",
        columns=COLUMNS,
        scores=SCORES,
        rows=[(row, cells_of(row)) for row in ran],
        reference=next((row.test for row in ran if row.name == NONE), None),
        best=max(((row.test or 0.0) for row in ran), default=0.0),
        seeds=[(row.name, [f"seed {seed}: {score:.3f}" for seed, score in row.by_seed.items()]) for row in ran],
        chart=scatter([(row.name, row.compiling.actor_calls, row.test or 0.0) for row in ran]),
        legend=LEGEND,
        skipped=comparison.skipped,
        runs=_reports(comparison.log_dir, beside),
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
