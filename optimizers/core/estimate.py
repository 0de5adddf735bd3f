"""The records of an estimate for both methods: the cost of a run by stage, and what was measured on a few examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured on a few examples.

    Calls, tokens and dollars are means per run of the program: `bare` ones without a supplement, the others with one.
    `places` is the number of supplements per example, `distinct` the share of samples that repeat no other, `won` the
    share of runs that won. Seconds are per run at full concurrency, per sample, and per training row.
    """

    calls: float = 1.0
    places: float = 1.0
    bare_in: float = 0.0
    bare_out: float = 0.0
    bare_cost: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    cost: float = 0.0
    distinct: float = 1.0
    won: float = 0.5
    run_seconds: float = 0.0
    sample_seconds: float = 0.0
    row_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """The expected cost of a stage; `at_most` is the upper bound of `actor_calls`."""

    name: str
    actor_calls: float = 0.0
    at_most: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    cost_usd: float = 0.0
    samples: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected cost of a run. Without a `probe` only calls and samples are known, the rest is 0.

    `at_inference` is the most actor calls of one run of the compiled program; it is known where the generator reads
    drafts, which double the calls.
    """

    stages: Sequence[StageEstimate]
    probe: Probe | None = None
    at_inference: float | None = None

    @property
    def total(self) -> StageEstimate:
        """All stages together."""
        names = [each.name for each in fields(StageEstimate) if each.name != "name"]
        return StageEstimate("total", **{name: sum(getattr(stage, name) for stage in self.stages) for name in names})

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table

        known = self.probe is not None
        table = Table("stage", "actor calls", "at most", title="What the run will take")
        if self.at_inference is not None:
            table.caption = f"With drafts, the compiled program makes up to {self.at_inference:,.1f} actor calls a run."
        for name in ("tokens in", "tokens out", "$", "seconds") if known else ():
            table.add_column(name, justify="right")
        for stage in (*self.stages, self.total):
            row = [stage.name, f"{stage.actor_calls:,.0f}", f"{stage.at_most:,.0f}"]
            if known:
                row += [f"{stage.tokens_in:,.0f}", f"{stage.tokens_out:,.0f}"]
                row += [f"{stage.cost_usd:,.2f}", f"{stage.seconds:,.0f}"]
            table.add_row(*row)
        yield table

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, no_color=True)
        with console.capture() as captured:
            console.print(self)
        return captured.get()
