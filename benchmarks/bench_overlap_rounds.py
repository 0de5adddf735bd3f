"""Two rounds of SGT, each stage's validation during the next training, against the same work one after another.

The embedded generator samples and trains on this machine; the actor is behind HTTP, takes 200 ms a call, and its script
is right on three requests of ten. *One after another* is the same compile with a limit of calls that is never reached:
with a limit no validation waits. *The bound* is its seconds less what could go on during something else: of each
stage's validation but the last, the part that fits into the next training. Interleaved repeats; the figure is the
median of their ratios.
"""

from __future__ import annotations

import logging
import re
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import dspy
from figures import Figure, report, round_to
from rich.console import Console
from rich.table import Table
from scripted_http_actor import NUMBER, actor, served

from optimizers import Recipe, SGTTeleprompter
from optimizers.core.events import Event, WorkEnded, WorkStarted
from optimizers.core.result import result_of
from optimizers.training.embedded import embedded_trainer
from sgt_modules.embedded import HouseTermsWorld, Sizes, embedded_generator, program

BAR = 1.15
THREADS = 8
REPEATS = 3
REPLY = f"[[ ## sql ## ]]\nSELECT {NUMBER}\n\n[[ ## completed ## ]]"
SIZES = Sizes(train=16, validation=96, test=4, shifted=4, terms=8, shifted_terms=4)
WORLD = HouseTermsWorld(0, sizes=SIZES)
RECIPE = replace(Recipe.auto("light"), rounds=2)
NO_LIMIT = 10**9


class Stopwatch:
    """An observer that keeps the seconds of each work by its name."""

    name = "stopwatch"

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: dict[int, tuple[str, float]] = {}

    def on_event(self, event: Event) -> None:
        """Keep when a work begins, and how long it took."""
        match event:
            case WorkStarted(number, name):
                self._running[number] = (name, time.perf_counter())
            case WorkEnded(number):
                name, began = self._running.pop(number)
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            case _:
                pass


def is_right(_example: dspy.Example, prediction: dspy.Prediction, _trace: object = None) -> bool:
    """Score by the script's digit."""
    return int(re.sub(r"\D", "", prediction.sql) or "9") < 3


def measured(lm: dspy.LM, limit: int | None) -> tuple[float, Stopwatch, list[tuple[str, float]]]:
    """Return a compile's seconds, those of its works, and its stages with their scores."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, dspy.context(lm=lm):
        sgt = SGTTeleprompter(
            is_right,
            embedded_generator(),
            recipe=RECIPE,
            trainer=embedded_trainer(),
            num_threads=THREADS,
            log_dir=Path(folder) / "run",
            display_progress=False,
            report_to=[watch],
            max_actor_calls=limit,
        )
        began = time.perf_counter()
        better = sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val)
        took = time.perf_counter() - began
        return took, watch, [(stage.name, stage.score) for stage in result_of(better).stages]


def bound(seconds: float, works: dict[str, float]) -> float:
    """Return the seconds with each validation but the last during the next training."""
    pairs = [("sft: val", "dpo1: training"), ("dpo1: val", "dpo2: training")]
    return seconds - sum(min(works[validation], works[training]) for validation, training in pairs)


def main() -> None:
    """Measure, print a table, and then the figure."""
    logging.getLogger("dspy").setLevel(logging.WARNING)
    embedded_generator().sample(["Hello."], seeds=[0])
    rows: list[tuple[float, float, float]] = []
    with served(REPLY) as address:
        lm = actor(address)
        lm("Hello.")  # the first call of a process reads DSPy's list of prices
        for _ in range(REPEATS):
            apart, watch, stages = measured(lm, NO_LIMIT)
            overlapped, _, same = measured(lm, None)
            if stages != same or len(stages) != 4:
                raise RuntimeError(f"Expected the same four stages both ways, got {stages} and {same}.")
            rows.append((apart, bound(apart, watch.seconds), overlapped))
    table = Table(
        "repeat", "one after another, s", "the bound, s", "overlapped, s", "over the bound", title="two rounds"
    )
    for number, (apart, least, overlapped) in enumerate(rows, start=1):
        table.add_row(str(number), f"{apart:.2f}", f"{least:.2f}", f"{overlapped:.2f}", f"{overlapped / least:.2f}")
    Console().print(table)
    apart, least, overlapped = (statistics.median(each) for each in zip(*rows, strict=True))
    report(
        Figure(
            "seconds of two rounds, each validation during the next training",
            round_to(statistics.median(overlapped / least for _, least, overlapped in rows)),
            BAR,
            at_most=True,
            ours=round_to(overlapped),
            theirs=round_to(least),
            rival=f"the bound; one after another: {apart:.1f} s",
        )
    )


if __name__ == "__main__":
    main()
