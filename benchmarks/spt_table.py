"""A table of finished demonstrations of SPT: `python benchmarks/spt_table.py runs/spt-0 runs/spt-1 ...`.

Reads each folder's `summary.json`, so it runs no model; prints Markdown.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = (
    *("seed", "method", "test before", "test after", "selected"),
    *("impact and truth: in the run", "prefix", "left out"),
    *("actor calls", "corrector calls", "seconds"),
)


def row(run: dict[str, Any]) -> str:
    """One run."""
    scores, ranked = run["scores"], run["impact"]["spearman"]
    cells = [
        str(run["seed"]),
        run["method"],
        f"{scores['none']['test']:.3f}",
        f"{scores[run['selected']]['test']:.3f}",
        run["selected"],
        *(f"{ranked[way]:.3f}" for way in ("run", "prefix", "leave_one_out")),
        f"{run['actor_calls']:,}",
        str(run["generator_calls"]),
        f"{run['seconds']['total']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    runs = [json.loads((Path(folder) / "summary.json").read_text()) for folder in sys.argv[1:]]
    if not runs:
        raise SystemExit("Name the folders of finished demonstrations of SPT, such as runs/spt-0.")
    print("\n".join([f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *map(row, runs)]))


if __name__ == "__main__":
    main()
