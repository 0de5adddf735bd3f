"""The README's table from finished demonstrations: `python benchmarks/readme_table.py runs/seed-0 runs/seed-1 ...`.

Reads each folder's `summary.json`, so it trains nothing; prints Markdown.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

COLUMNS = {
    "test": "test",
    "test_terms": "term questions",
    "test_plain": "plain questions",
    "shifted": "unseen terms",
    "transfer": "second actor, test",
}


def row(label: str, columns: list[str], scores: list[dict[str, float]], lengths: list[float]) -> str:
    """Return a stage's row: the mean over the runs, and each run's term questions; - means not scored."""
    cells = [f"{mean(each[split] for each in scores):.3f}" if split in scores[0] else "-" for split in columns]
    parts = " / ".join(f"{each['test_terms']:.3f}" for each in scores)
    return f"| {label} | {' | '.join(cells)} | {mean(lengths):.0f} | {parts} |"


def table(runs: list[dict[str, Any]]) -> str:
    """Return a row for each stage that all runs have, and one for the selected stage; a column for each split."""
    seeds = " / ".join(str(run["seed"]) for run in runs)
    columns = [split for split in COLUMNS if all(split in run["scores"][run["selected"]] for run in runs)]
    head = " | ".join(COLUMNS[split] for split in columns)
    lines = [
        f"| stage | {head} | supplement, characters | term questions, seeds {seeds} |",
        "|---" * (len(columns) + 3) + "|",
    ]
    shared = [stage for stage in runs[0]["scores"] if all(stage in run["scores"] for run in runs)]
    lines += [of_stages(stage, columns, [(run, stage) for run in runs]) for stage in shared]
    return "\n".join([*lines, of_stages("**selected**", columns, [(run, run["selected"]) for run in runs])])


def of_stages(label: str, columns: list[str], stages: list[tuple[dict[str, Any], str]]) -> str:
    """Return a row of one stage of each run."""
    return row(
        label,
        columns,
        [run["scores"][stage] for run, stage in stages],
        [run["lengths"].get(stage, 0.0) for run, stage in stages],
    )


def describe_test(run: dict[str, Any]) -> str:
    """Say which test made the p-value."""
    clusters = run.get("clusters")
    return f"sign flips of {clusters['test']} clusters" if clusters else "exact McNemar"


def main() -> None:
    """Print the table, and the cost of the runs."""
    runs = [json.loads((Path(folder) / "summary.json").read_text()) for folder in sys.argv[1:]]
    if not runs:
        raise SystemExit("Name the folders of finished demonstrations, such as runs/demo.")
    print(table(runs))
    print()
    for run in runs:
        calls, seconds = run["actor_calls"], run["seconds"]
        print(
            f"Seed {run['seed']}: selected {run['selected']}, p {run['p_value']['none']:.1e} against no supplement "
            f"({describe_test(run)}), {calls:,} actor calls, {seconds['total']:.0f} s (sampling "
            f"{seconds['sampling']:.0f}, acting {seconds['acting']:.0f}, training {seconds['training']:.0f}), "
            f"peak {run['peak_rss_mb']:.0f} MB."
        )


if __name__ == "__main__":
    main()
