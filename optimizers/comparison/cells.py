"""The columns of a comparison's table, their legend, and the texts of a row."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich.console import Console, RenderableType

from optimizers.comparison.leaderboard import Row
from optimizers.observe.report.texts import describe_tests, p_text, share, signed

_SCORES = ("contender", "test", "95 %", "gain", "relative", "p", "p best", "sees", "spread")
_COSTS = ("calls", "tokens", "$", "seconds", "+prompt", "written", "ms")

TABLE_COLUMNS = (*_SCORES, *_COSTS)
"""The columns of the table: first `SCORE_COLUMNS` columns of scores, then the costs."""

SCORE_COLUMNS = len(_SCORES)

_ERROR_LENGTH = 160
"""Characters of an error that the legend shows at most."""

_COLUMNS_LEGEND = (
    "gain, relative and p compare with no change (none), p best with the best other contender; both p-values are from "
    "paired tests, adjusted by Holm's method. {tests} sees is the smallest gain that these questions can show, with "
    "80 % power at 5 %. spread is the sample standard deviation over the seeds. calls (of the actor), tokens, $ and "
    "seconds are the cost of compiling, the mean over the seeds. +prompt, written and ms are the cost of one answer: "
    "additional prompt tokens, tokens that the generator writes, and milliseconds while no other call is in flight."
)


def write_legend(rows: Sequence[Row]) -> str:
    """Writes the table's legend: what the columns mean, how many clusters there are, which test was used, which
    contenders the budget ended before their end, and whose answers failed.

    >>> legend = write_legend([Row("sgt", 0.5, (0.2, 0.8), questions=6, clusters=2, stopped="round 1 (1 of 2)")])
    >>> print(legend.partition(" gain")[0])
    test is the mean score on the 6 questions for which every contender has a score.
    >>> print(legend.rpartition("in flight. ")[2])
    The budget ended sgt in round 1 (1 of 2).
    """
    shown = [row for row in rows if not row.skipped]
    questions, clusters = max(((row.questions, row.clusters) for row in shown), default=(0, 0))
    first = f"test is the mean score on the {questions:,} questions for which every contender has a score."
    stops = [f"The budget ended {row.name} in {row.stopped}." for row in shown if row.stopped]
    failed = [f"{row.name} {_describe_errors(row)}" for row in shown if row.errors]
    failures = [f"Answers that failed: {'; '.join(failed)}."] if failed else []
    return " ".join([first, _COLUMNS_LEGEND.format(tests=describe_tests(questions, clusters)), *stops, *failures])


def _describe_errors(row: Row) -> str:
    """Say how many of a row's answers failed, by the error's type, how many have no score, and how one error begins.

    >>> _describe_errors(Row("cot", errors={"AdapterParseError": 12}, error="AdapterParseError: No field [sql]"))
    "AdapterParseError 12 ('AdapterParseError: No field [sql]')"
    """
    counts = [f"{name} {count:,}" for name, count in row.errors.items()]
    unscored = [f"{row.unanswered:,} without a score"] if row.unanswered else []
    return f"{', '.join([*counts, *unscored])} ({row.error[:_ERROR_LENGTH]!r})"


def format_cells(row: Row) -> list[str]:
    """Returns the texts of a row that was not skipped, in the order of `TABLE_COLUMNS`."""
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
        "" if row.smallest_gain is None else f"{row.smallest_gain:.3f}",
        share(row.spread),
        f"{used.actor_calls:,.0f}",
        f"{used.actor.tokens + used.proposer.tokens:,.0f}",
        f"{used.cost:,.2f}",
        f"{used.seconds.total:,.0f}",
        "" if row.extra_tokens is None else f"{row.extra_tokens:+.0f}",
        f"{row.answer.generator.tokens:.0f}",
        "" if row.latency is None else f"{row.latency * 1000:.0f}",
    ]


def render_text(shown: RenderableType, *, width: int) -> str:
    """Renders for a terminal of this width, as plain text."""
    text = StringIO()
    Console(file=text, width=width, highlight=False).print(shown)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
