"""Adaptive runs against the whole recipe on the embedded world: half of the actor's calls, for nearly the same score.

    python benchmarks/adaptive.py               # seeds 0, 1, 2: six demonstrations, about an hour on two CPU cores
    python benchmarks/adaptive.py --folder runs # reuses finished runs: runs/quiet-0, runs/adaptive-0, ...

`quiet` is the demonstration, `adaptive` the same with `Recipe(adaptive=True)`. Prints the selected stage's share of the
test's term questions by seed and each run's calls, and the figure as JSON in the last line.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

from silence import summary

from optimizers.demos.house_terms import FULL_SCALE, Scale

SCALES: dict[str, Scale] = {
    "quiet": FULL_SCALE,
    "adaptive": replace(FULL_SCALE, recipe=replace(FULL_SCALE.recipe, adaptive=True)),
}
BAR, BAR_SCORE = 0.5, 0.02


def main() -> None:
    """Run the missing demonstrations, print both ways side by side, and then the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    options = parser.parse_args()
    scores, calls = dict[str, list[float]](), dict[str, list[int]]()
    for name, scale in SCALES.items():
        runs = [summary(options.folder / f"{name}-{seed}", seed, scale) for seed in options.seeds]
        scores[name] = [run["scores"][run["selected"]]["test_terms"] for run in runs]
        calls[name] = [run["actor_calls"] for run in runs]
    print("| seed | whole recipe | calls | adaptive | calls |\n|---|---|---|---|---|")
    rows = zip(options.seeds, scores["quiet"], calls["quiet"], scores["adaptive"], calls["adaptive"], strict=True)
    for seed, whole, many, less, few in rows:
        print(f"| {seed} | {whole:.3f} | {many:,} | {less:.3f} | {few:,} |")
    whole, less = mean(scores["quiet"]), mean(scores["adaptive"])
    many, few = mean(calls["quiet"]), mean(calls["adaptive"])
    print(f"| mean | {whole:.3f} | {many:,.0f} | {less:.3f} | {few:,.0f} |")
    figure = {"figure": "actor calls of adaptive runs", "ours": round(few), "theirs": round(many)}
    found = {**figure, "ratio": round(few / many, 3), "bar": BAR, "lost": round(whole - less, 3), "bar_lost": BAR_SCORE}
    print(json.dumps({**found, "holds": few <= BAR * many and whole - less <= BAR_SCORE}))


if __name__ == "__main__":
    main()
