"""The README's table from finished demonstrations: `python benchmarks/readme_table.py runs/seed-0 runs/seed-1 ...`.

Reads each folder's `summary.json`, so it trains nothing; prints Markdown. With several runs a cell is their mean, with
the sample standard deviation over the runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from optimizers.core.statistics import compare_seeds

COLUMNS = {
    "test": "test",
    "test_terms": "term questions",
    "test_plain": "plain questions",
    "shifted": "unseen terms",
    "transfer": "second actor, test",
}


def format_scores(scores: list[float]) -> str:
    """Return the mean, with the sample standard deviation where there are several scores."""
    return f"{mean(scores):.3f} ± {stdev(scores):.3f}" if len(scores) > 1 else f"{scores[0]:.3f}"


def row(label: str, columns: list[str], scores: list[dict[str, float]], lengths: list[float | None]) -> str:
    """Return a stage's row, with each run's term questions; - means not scored, or no supplement."""
    cells = [
        format_scores([each[split] for each in scores]) if all(split in each for each in scores) else "-"
        for split in columns
    ]
    parts = " / ".join(f"{each['test_terms']:.3f}" for each in scores)
    known = [each for each in lengths if each is not None]
    return f"| {label} | {' | '.join(cells)} | {f'{mean(known):.0f}' if known else '-'} | {parts} |"


def table(runs: list[dict[str, Any]]) -> str:
    """Return a row for each stage and control that all runs have, and one for the selected stage.

    There is a column for each split. A control that every run skipped has a row that says so.
    """
    seeds = " / ".join(str(run["seed"]) for run in runs)
    columns = [split for split in COLUMNS if all(split in run["scores"][run["selected"]] for run in runs)]
    head = " | ".join(COLUMNS[split] for split in columns)
    lines = [
        f"| stage | {head} | supplement, characters | term questions, seeds {seeds} |",
        "|---" * (len(columns) + 3) + "|",
    ]
    shared = [stage for stage in runs[0]["scores"] if all(stage in run["scores"] for run in runs)]
    lines += [of_stages(stage, columns, [(run, stage) for run in runs]) for stage in shared]
    lines.append(of_stages("**selected**", columns, [(run, run["selected"]) for run in runs]))
    empty = " |" * (len(columns) + 2)
    lines += [f"| {name} | skipped{empty}" for name in skipped(runs)]
    return "\n".join(lines)


def skipped(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Return the controls that every run skipped, with the first run's reason."""
    first, *others = [run.get("skipped", {}) for run in runs]
    return {name: reason for name, reason in first.items() if all(name in each for each in others)}


def notes(runs: list[dict[str, Any]]) -> list[str]:
    """Return a line on what training gains over `lookup`, one on `elimination`, and the reasons of skipped controls."""
    lines: list[str] = []
    if all("lookup" in run for run in runs):
        gains = [float(run["lookup"]["gain"]) for run in runs if run["lookup"]["gain"] is not None]
        chosen = ", ".join(str(run["lookup"]["neighbours"]) for run in runs)
        lines.append(
            f"Training gains {format_scores(gains)} on test over lookup, which trains nothing (neighbours, chosen on "
            f"validation: {chosen}){test_by_seed(gains)}."
        )
        deduced = [f"{run['elimination']['right']} of {run['elimination']['terms']}" for run in runs]
        lines.append(f"Meanings that the outcomes of training imply: {', '.join(deduced)}.")
    return [*lines, *(f"{name}: skipped, {reason}." for name, reason in skipped(runs).items())]


def test_by_seed(gains: list[float]) -> str:
    """Return the interval and p-value of the mean gain, each seed counted once; empty for one run."""
    if len(gains) < 2:
        return ""
    found = compare_seeds(gains)
    low, high = found.interval
    least = "" if found.smallest is None else f", smallest gain that {len(gains)} seeds can show {found.smallest:.3f}"
    return f"; by seed, 95 % {low:+.3f} to {high:+.3f}, p {found.p_value:.3f}{least}"


def of_stages(label: str, columns: list[str], stages: list[tuple[dict[str, Any], str]]) -> str:
    """Return a row of one stage of each run."""
    return row(
        label,
        columns,
        [run["scores"][stage] for run, stage in stages],
        [run["lengths"].get(stage, 0.0 if stage == "none" else None) for run, stage in stages],
    )


def describe_test(run: dict[str, Any]) -> str:
    """Say which test made the p-value."""
    clusters = run.get("clusters")
    return f"sign flips of {clusters['test']} clusters" if clusters else "exact McNemar"


def main() -> None:
    """Print the table, and the cost of the runs."""
    files = [Path(folder) / "summary.json" for folder in sys.argv[1:]]
    if not files or not all(file.is_file() for file in files):
        missing = ", ".join(f"{file}, which is not there" for file in files if not file.is_file()) or "none"
        raise SystemExit(f"Name the folders of finished demonstrations, such as runs/demo; got {missing}.")
    runs = [json.loads(file.read_text()) for file in files]
    print(table(runs))
    print()
    for note in notes(runs):
        print(f"- {note}")
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
