"""A generator that may write nothing, compared with one that always writes, on the embedded world.

    python benchmarks/silence.py               # eight seeds: sixteen demonstrations, about three hours on two CPU cores
    python benchmarks/silence.py --seeds 0 1 2 # fewer: the table without a claim
    python benchmarks/silence.py --folder runs # reuses finished runs: runs/loud-0, runs/quiet-0, ...

`loud` is the method without the kind `none`, without a gate and without a preference for length; `quiet` is the
demonstration. Prints the means over the seeds, the paired differences by seed with Student's t test, adjusted by Holm's
method, the smallest difference that these seeds can show, and a sentence for each figure that follows from the test.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from optimizers.comparison.seed_differences import ENOUGH_SEEDS, SEED_COLUMNS, SeedDifference, compare_figures
from optimizers.demos.house_terms import FULL_SCALE, LOUD_SCALE, Scale, demonstrate

SCALES: dict[str, Scale] = {"loud": LOUD_SCALE, "quiet": FULL_SCALE}


def summary(folder: Path, seed: int, scale: Scale) -> dict[str, Any]:
    """Return a demonstration's summary; run the demonstration if it is missing."""
    file = folder / "summary.json"
    if not file.exists():
        demonstrate(seed, log_dir=folder, scale=scale)
    return json.loads(file.read_text())


def figures(run: dict[str, Any]) -> dict[str, float]:
    """Return the selected stage's figures of one run."""
    after, before = run["scores"][run["selected"]], run["scores"]["none"]
    return {
        "term questions": after["test_terms"],
        "plain questions, change": after["test_plain"] - before["test_plain"],
        "unseen terms, change": after["shifted"] - before["shifted"],
        "supplement, characters": run["lengths"].get(run["selected"], 0.0),
        "gated, test": run["gated"]["test"],
        "gated, unseen terms": run["gated"]["shifted"],
        "actor calls": run["actor_calls"],
    }


TESTED = ("term questions", "plain questions, change", "unseen terms, change")
"""The figures that the test compares; the others count what was written and paid."""


def conclude(difference: SeedDifference) -> str:
    """Say what the test by seed shows of one figure."""
    apart = f"{difference.test.difference:+.3f} (p {difference.adjusted:.3f}, {difference.test.seeds} seeds)"
    return {
        "lower": f"{difference.name}: a generator that may keep silent scores lower, {apart}.",
        "higher": f"{difference.name}: a generator that may keep silent scores higher, {apart}.",
        "no difference": f"{difference.name}: no difference is shown, {apart}.",
        "too few seeds": f"{difference.name}: {apart}; fewer than {ENOUGH_SEEDS} seeds, so nothing is claimed.",
    }[difference.shown]


def main() -> None:
    """Run the missing demonstrations, and print both ways side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    options = parser.parse_args()
    found = {
        name: {seed: figures(summary(options.folder / f"{name}-{seed}", seed, scale)) for seed in options.seeds}
        for name, scale in SCALES.items()
    }
    loud, quiet = list(found["loud"].values()), list(found["quiet"].values())
    print("| figure | loud | quiet |\n|---|---|---|")
    for name in loud[0]:
        places = 0 if name == "actor calls" else 1 if "characters" in name else 3
        before, after = (f"{mean(each[name] for each in runs):,.{places}f}" for runs in (loud, quiet))
        print(f"| {name} | {before} | {after} |")
    differences = compare_figures(
        {name: [after[name] - before[name] for before, after in zip(loud, quiet, strict=True)] for name in TESTED}
    )
    print(f"\n| quiet minus loud | {' | '.join(SEED_COLUMNS[1:])} |\n|---{'|---' * (len(SEED_COLUMNS) - 1)}|")
    for each in differences:
        print(f"| {' | '.join(each.cells)} |")
    print()
    for each in differences:
        print(conclude(each))


if __name__ == "__main__":
    main()
