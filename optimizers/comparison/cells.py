"""A row as a person reads it: the columns of every table of a comparison, and their texts."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType

from optimizers.comparison.leaderboard import Row
from optimizers.observe.report.texts import p_text, share, signed

COLUMNS = (
    "contender",
    "test",
    "95 %",
    "gain",
    "relative",
    "p",
    "p best",
    "spread",
    "calls",
    "tokens",
    "$",
    "seconds",
    "+prompt",
    "written",
    "ms",
)
"""The table's columns: `SCORES` of them tell how good a contender is, the others what it costs."""

SCORES = 8

LEGEND = (
    "test is over the questions on which every contender has a score. p is against no change, p best against the best "
    "other, both paired and adjusted by Holm's method; spread is the standard deviation over the seeds. Calls of the "
    "actor, tokens, $ and seconds are what compiling took, the mean of the seeds. Of one later answer are +prompt "
    "(tokens that the actor reads more), written (the generator's tokens) and ms (milliseconds, where nothing else is "
    "asked)."
)


def cells_of(row: Row) -> list[str]:
    """The texts of a row that ran, in the order of `COLUMNS`."""
    low, high = row.interval or (0.0, 1.0)
    used = row.compiling
    return [
        row.name,
        share(row.test),
        f"{low:.3f}-{high:.3f}",
        signed(row.gain),
        "" if row.relative_gain is None else f"{row.relative_gain:+.0%}",
        p_text(row.p_value),
        p_text(row.p_best),
        share(row.spread),
        f"{used.actor_calls:,.0f}",
        f"{used.actor.tokens + used.proposer.tokens:,.0f}",
        f"{used.cost:,.2f}",
        f"{used.seconds.total:,.0f}",
        "" if row.extra_tokens is None else f"{row.extra_tokens:+.0f}",
        f"{row.answer.generator.tokens:.0f}",
        "" if row.latency is None else f"{row.latency * 1000:.0f}",
    ]


def printed(shown: RenderableType, *, width: int) -> str:
    """What a terminal of that width would show, as text."""
    text = StringIO()
    Console(file=text, width=width, highlight=False).print(shown)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
