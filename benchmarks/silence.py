"""A generator that may write nothing, compared with one that always writes, on the embedded world.

    python benchmarks/silence.py               # seeds 0, 1, 2: six demonstrations, about an hour on two CPU cores
    python benchmarks/silence.py --folder runs # reuses finished runs: runs/loud-0, runs/quiet-0, ...

`loud` is the method without the kind `none`, without a gate and without a preference for length; `quiet` is the
demonstration. Prints, as means over the seeds, the costs and savings of silence.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from optimizers.demos.house_terms import FULL_SCALE, LOUD_SCALE, Scale, demonstrate

SCALES: dict[str, Scale] = {"loud": LOUD_SCALE, "quiet": FULL_SCALE}


def summary(folder: Path, seed: int, scale: Scale) -> dict[str, Any]:
    """Return a demonstration's summary; run the demonstration if it is missing."""
    file = folder / "summary.json"
    if not file.exists():
        demonstrate(seed, log_dir=folder, scale=scale)
    return json.loads(file.read_text())


def figures(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the selected stages' means over the runs."""
    chosen = [(run["scores"][run["selected"]], run["scores"]["none"], run) for run in runs]
    return {
        "term questions": mean(after["test_terms"] for after, _, _ in chosen),
        "term questions, gain": mean(after["test_terms"] - before["test_terms"] for after, before, _ in chosen),
        "plain questions, change": mean(after["test_plain"] - before["test_plain"] for after, before, _ in chosen),
        "unseen terms, change": mean(after["shifted"] - before["shifted"] for after, before, _ in chosen),
        "supplement, characters": mean(run["lengths"].get(run["selected"], 0.0) for run in runs),
        "gated, test": mean(run["gated"]["test"] for run in runs),
        "gated, unseen terms": mean(run["gated"]["shifted"] for run in runs),
        "actor calls": mean(run["actor_calls"] for run in runs),
    }


def main() -> None:
    """Run the missing demonstrations, and print both ways side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    options = parser.parse_args()
    found = {
        name: figures([summary(options.folder / f"{name}-{seed}", seed, scale) for seed in options.seeds])
        for name, scale in SCALES.items()
    }
    print("| figure | loud | quiet |\n|---|---|---|")
    for name, value in found["loud"].items():
        places = 0 if name == "actor calls" else 1 if "characters" in name else 3
        print(f"| {name} | {value:,.{places}f} | {found['quiet'][name]:,.{places}f} |")
    shorter = 1 - found["quiet"]["supplement, characters"] / found["loud"]["supplement, characters"]
    lost = found["loud"]["term questions, gain"] - found["quiet"]["term questions, gain"]
    print(f"\nShorter by {shorter:.0%}; {lost:.3f} of the gain on term questions lost.")


if __name__ == "__main__":
    main()
