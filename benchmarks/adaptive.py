"""Adaptive runs against the whole recipe on the embedded world: half of the actor's calls, for nearly the same score.

    python benchmarks/adaptive.py               # seeds 0, 1, 2: six demonstrations, about an hour on two CPU cores
    python benchmarks/adaptive.py --folder runs # reuses finished runs: runs/quiet-0, runs/adaptive-0, ...

`quiet` is the demonstration, `adaptive` the same with `Recipe(adaptive=True)`. Prints the selected stage's share of the
test's term questions by seed and each run's calls; the calls after which a stage first answers nine of ten term
questions; the questions on unseen terms without a gate; and the figure as JSON in the last line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from silence import summary

from optimizers.demos.house_terms import FULL_SCALE, Scale

SCALES: dict[str, Scale] = {
    "quiet": FULL_SCALE,
    "adaptive": replace(FULL_SCALE, recipe=replace(FULL_SCALE.recipe, adaptive=True)),
}
BAR, BAR_SCORE = 0.5, 0.02
REACHED = 0.9
"""The share of term questions whose cost in calls is shown."""


def main() -> None:
    """Run the missing demonstrations, print both ways side by side, and then the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    options = parser.parse_args()
    scores, calls = dict[str, list[float]](), dict[str, list[int]]()
    reached, unseen = dict[str, list[int | None]](), dict[str, list[float]]()
    for name, scale in SCALES.items():
        folders = [options.folder / f"{name}-{seed}" for seed in options.seeds]
        runs = [summary(folder, seed, scale) for folder, seed in zip(folders, options.seeds, strict=True)]
        reached[name] = [count_calls_to_reach(folder, run) for folder, run in zip(folders, runs, strict=True)]
        unseen["no supplement"] = [run["scores"]["none"]["shifted"] for run in runs]
        unseen[name] = [run["scores"][last_round(run)]["shifted"] for run in runs]
        scores[name] = [run["scores"][run["selected"]]["test_terms"] for run in runs]
        calls[name] = [run["actor_calls"] for run in runs]
    print("| seed | whole recipe | calls | adaptive | calls |\n|---|---|---|---|---|")
    rows = zip(options.seeds, scores["quiet"], calls["quiet"], scores["adaptive"], calls["adaptive"], strict=True)
    for seed, whole, many, less, few in rows:
        print(f"| {seed} | {whole:.3f} | {many:,} | {less:.3f} | {few:,} |")
    whole, less = mean(scores["quiet"]), mean(scores["adaptive"])
    many, few = mean(calls["quiet"]), mean(calls["adaptive"])
    print(f"| mean | {whole:.3f} | {many:,.0f} | {less:.3f} | {few:,.0f} |")
    print(f"\n| seed | calls to {REACHED:g} of term questions, whole recipe | adaptive | ratio |\n|---|---|---|---|")
    for seed, first, second in zip(options.seeds, *reached.values(), strict=True):
        ratio = f"{second / first:.2f}" if first and second else ""
        print(f"| {seed} | {first or 'never'} | {second or 'never'} | {ratio} |")
    pairs = [pair for pair in zip(*reached.values(), strict=True) if all(pair)]
    if pairs:
        first, second = (mean(pair[place] or 0 for pair in pairs) for place in (0, 1))
        print(f"| mean of {len(pairs)} | {first:,.0f} | {second:,.0f} | {second / first:.2f} |")
    print("\nQuestions on unseen terms, the last round without a gate:")
    for name, found in unseen.items():
        print(f"- {name}: {mean(found):.3f} ({', '.join(f'{each:.3f}' for each in found)})")
    figure = {"figure": "actor calls of adaptive runs", "ours": round(few), "theirs": round(many)}
    found = {**figure, "ratio": round(few / many, 3), "bar": BAR, "lost": round(whole - less, 3), "bar_lost": BAR_SCORE}
    print(json.dumps({**found, "holds": few <= BAR * many and whole - less <= BAR_SCORE}))


def last_round(run: Mapping[str, Any]) -> str:
    """Return the name of the last round's stage, which has no gate."""
    return max((name for name in run["scores"] if name.startswith("dpo")), key=lambda name: int(name[3:]))


def count_calls_to_reach(folder: Path, run: Mapping[str, Any]) -> int | None:
    """Return the actor calls up to the first stage that answers `REACHED` of the test's term questions, or None."""
    for name, stage in json.loads((folder / "stages.json").read_text(encoding="utf-8")).items():
        if run["scores"][name]["test_terms"] >= REACHED:
            return stage["spent"]["actor_calls"]
    return None


if __name__ == "__main__":
    main()
