"""The error of an estimate on the embedded world: a probe of some examples, compared with a finished run.

The argument is the folder of a finished demonstration, `runs/demo` by default; the probe runs again, with its own
store.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from optimizers import SGTTeleprompter
from optimizers.core.run_folder import RunFolder
from optimizers.core.usage import RunUsage
from optimizers.demos.house_terms import FULL_SCALE, TERMS_THREADS
from optimizers.training.embedded import embedded_trainer
from sgt_modules.embedded import HouseTermsWorld, acting, embedded_generator, program


def main() -> None:
    """Probe, print the estimate, and its difference from the real cost."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("folder", type=Path, nargs="?", default=Path("runs/demo"))
    asked.add_argument("--probe", type=int, default=10)
    asked.add_argument("--log-dir", type=Path)
    options = asked.parse_args()
    folder, console = RunFolder(options.folder), Console()
    seed = (folder.read("run.json") or {})["settings"]["seed"]
    world = HouseTermsWorld(seed, sizes=FULL_SCALE.sizes)
    sgt = SGTTeleprompter(
        world.metric,
        embedded_generator(),
        recipe=FULL_SCALE.recipe,
        trainer=embedded_trainer(),
        num_threads=TERMS_THREADS,
        seed=seed,
        log_dir=options.log_dir,
        display_progress=False,
    )
    with acting():
        estimate = sgt.estimate(program(), world.train, world.val, probe=options.probe)
    console.print(estimate)
    spent, total = RunUsage.read(folder.read("spent.json") or {}), estimate.total
    table = Table("", "estimated", "spent", "apart", title=f"A probe of {options.probe} examples, seed {seed}")
    rows = [
        ("actor calls", total.actor_calls, spent.actor_calls),
        ("tokens in", total.tokens_in, spent.actor.tokens_in),
        ("tokens out", total.tokens_out, spent.actor.tokens_out),
        ("seconds", total.seconds, sum(spent.seconds.by_work.values())),
    ]
    for name, expected, came in rows:
        table.add_row(name, f"{expected:,.0f}", f"{came:,.0f}", f"{expected / came - 1:+.1%}")
    console.print(table)


if __name__ == "__main__":
    main()
