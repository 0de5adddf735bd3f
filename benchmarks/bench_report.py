"""The page of a run of 10,000 and of 100,000 made-up rollouts: its size, and seconds until a browser can use it.

Texts are of random words, 50 to 90 of them a supplement and a prompt. Without Chromium and Playwright the seconds are
not measured, and their bar is not met.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import Figure, report
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1] / "tests" / "doubles"))
from browser import chromium, opened
from run_folders import met, run_folder

from optimizers.core.records import Rollout
from optimizers.observe.report import write_report
from sgt_modules.kinds import KINDS

SIZES = (10_000, 100_000)
QUESTIONS = 300
BAR, BAR_SIZE = 5.0, 30.0
"""Seconds and megabytes, at most."""


def rollouts(count: int, rng: random.Random) -> Iterator[Rollout]:
    """Yield that many rollouts: four stages on validation, and a warm start with two rounds."""
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(4000)]

    def text(most: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(most // 2, most)))

    prompts = [f"Task: do it.\nquestion: {text(60)}" for _ in range(QUESTIONS)]
    scored = [(f"{stage}/val", n) for stage in ("none", "sft", "dpo1", "dpo2") for n in range(QUESTIONS)]
    tried = [(rng.choice(["warm", "round 1", "round 2"]), rng.randrange(QUESTIONS)) for _ in range(count - len(scored))]
    for stage, n in [*scored, *tried]:
        supplement = "" if stage == "none/val" else text(90)
        kind, score = rng.choice([*KINDS]), float(rng.random() < 0.5)
        yield met(stage, n, score, kind=kind, text=supplement, answer=text(40), prompt=prompts[n], feedback=text(8))


def measured(count: int) -> dict[str, float | None]:
    """Write the page of that many rollouts."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = run_folder(Path(scratch) / "run", rollouts(count, random.Random(0)))
        began = time.perf_counter()
        page = write_report(folder)
        found: dict[str, float | None] = {
            "rollouts": count,
            "megabytes": round(page.stat().st_size / 2**20, 1),
            "written_s": round(time.perf_counter() - began, 1),
            "usable_s": None,
        }
        try:
            with chromium() as browser, opened(browser, page) as tab:
                found["usable_s"] = round(tab.took, 2)
        except pytest.skip.Exception as reason:
            print(f"Not opened: {reason}")
    return found


def main() -> None:
    """Measure, print a table, and then the figure."""
    rows = [measured(count) for count in SIZES]
    table = Table(*rows[0], title="Pages of made-up rollouts")
    for row in rows:
        table.add_row(*(f"{value:,}" if value is not None else "" for value in row.values()))
    Console().print(table)
    last = rows[-1]
    usable, name = last["usable_s"], f"of the page of {SIZES[-1]:,} rollouts"
    fault = "not measured: install Playwright and Chromium" if usable is None else ""
    report(
        Figure(f"seconds until the use {name}", usable, BAR, at_most=True, fault=fault),
        Figure(f"megabytes {name}", last["megabytes"], BAR_SIZE, at_most=True),
    )


if __name__ == "__main__":
    main()
