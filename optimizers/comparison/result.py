"""The result of a comparison: prints as a table, and writes JSON, a pandas frame, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter
from rich.console import Console, ConsoleOptions, RenderResult

from optimizers.comparison.cells import SCORE_COLUMNS, TABLE_COLUMNS, format_cells, render_text, write_legend
from optimizers.comparison.differences import Difference
from optimizers.comparison.leaderboard import Row
from optimizers.comparison.outcomes import dump_usage, read_usage
from optimizers.comparison.page import render_comparison_page
from optimizers.comparison.seed_differences import (
    REFERENCE,
    SEED_COLUMNS,
    SEED_LEGEND,
    SeedDifference,
    compare_by_seed,
    seed_table,
)
from optimizers.core.run_folder import RunFolder
from optimizers.core.safe_reading import read_entry
from optimizers.observe.tables import plain_table
from sgt_modules.errors import RunFolderError

if TYPE_CHECKING:
    import pandas as pd

COMPARISON_FILE = "comparison.json"
"""Where a comparison's folder keeps its result."""

_ROW = TypeAdapter(Row)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of `compare`: a row per contender on one task. It prints as a table.

    `differences` has the planned pair `sgt` against `lookup`, where both ran.

    >>> print(Comparison("sums", "100 actor calls", (0,), (Row("none", 0.5, (0.2, 0.8)), Row("gepa", skipped="no LM"))))
    sums: 100 actor calls a contender, seeds 0
    ...
    gepa: skipped, no LM
    """

    task: str
    budget: str
    seeds: Sequence[int]
    rows: Sequence[Row]
    log_dir: Path = Path()
    differences: Sequence[Difference] = ()

    def row(self, name: str) -> Row:
        """Returns a contender's row; raises `KeyError` if it was not compared."""
        try:
            return next(row for row in self.rows if row.name == name)
        except StopIteration:
            raise KeyError(f"{name!r} was not compared; there are {[row.name for row in self.rows]}.") from None

    @property
    def title(self) -> str:
        """The task with the conditions."""
        return f"{self.task}: {self.conditions}"

    @property
    def conditions(self) -> str:
        """The budget of each contender, and the seeds."""
        return f"{self.budget} a contender, seeds {', '.join(map(str, self.seeds))}"

    @property
    def cells(self) -> list[list[str]]:
        """The texts of the table: a list for each row that was not skipped, in the order of `TABLE_COLUMNS`."""
        return [format_cells(row) for row in self.rows if not row.skipped]

    @property
    def skipped(self) -> Sequence[Row]:
        """The contenders that did not run."""
        return [row for row in self.rows if row.skipped]

    @property
    def legend(self) -> str:
        """What the columns mean, how many clusters of questions there are, and which tests were used."""
        return write_legend(self.rows)

    @property
    def by_seed(self) -> Sequence[SeedDifference]:
        """Each contender compared with `sgt` by a paired test over seeds; empty without `sgt` or with one seed."""
        return compare_by_seed({row.name: row.by_seed for row in self.rows if not row.skipped})

    def content(self) -> dict[str, Any]:
        """Returns the comparison as JSON: `task`, `budget`, `seeds`, `rows`, `differences` and `by_seed`."""
        rows = [
            {
                "name": row.name,
                "test": row.test,
                "interval": row.interval,
                "gain": row.gain,
                "p_value": row.p_value,
                "actor_calls": row.compiling.actor_calls,
                "tokens": row.compiling.actor.tokens + row.compiling.proposer.tokens,
                "seconds": row.compiling.seconds.total,
                "skipped": row.skipped,
                "relative_gain": row.relative_gain,
                "p_best": row.p_best,
                "best_other": row.best_other,
                "by_seed": {str(seed): score for seed, score in row.by_seed.items()},
                "spread": row.spread,
                "unanswered": row.unanswered,
                "smallest_gain": row.smallest_gain,
                "questions": row.questions,
                "clusters": row.clusters,
                "stopped": row.stopped,
                "errors": dict(row.errors),
                "error": row.error,
                "compiling": dump_usage(row.compiling),
                "answer": dump_usage(row.answer) | {"extra_tokens": row.extra_tokens, "latency": row.latency},
            }
            for row in self.rows
        ]
        return {
            "task": self.task,
            "budget": self.budget,
            "seeds": list(self.seeds),
            "rows": rows,
            "differences": [each.content() for each in self.differences],
            "by_seed": [each.content() for each in self.by_seed],
        }

    @classmethod
    def read(cls, folder: str | Path) -> Comparison:
        """Reads the comparison in a folder; raises `RunFolderError` if there is none."""
        path = Path(folder)
        content, file = RunFolder(path).read(COMPARISON_FILE), path / COMPARISON_FILE
        if content is None:
            raise RunFolderError(f"{path} has no {COMPARISON_FILE}. Pass the folder of a finished comparison.")
        rows = cast("list[dict[str, Any]]", read_entry(content, "rows", list, [], file=file))
        task, budget = (read_entry(content, name, str, "", file=file) for name in ("task", "budget"))
        differences = cast("list[dict[str, Any]]", read_entry(content, "differences", list, [], file=file))
        seeds = cast("list[int]", read_entry(content, "seeds", list, [], file=file))
        try:
            found = tuple(Difference.read(each) for each in differences)
            return cls(task, budget, tuple(seeds), tuple(_read_row(row, file) for row in rows), path, found)
        except (TypeError, ValueError, KeyError, AttributeError) as problem:
            raise RunFolderError(f"{file} should hold the rows of a comparison: {problem}.") from problem

    def to_frame(self) -> pd.DataFrame:
        """Returns a pandas frame: a row per contender, with nested fields of `content`'s rows as `compiling.usd`."""
        import pandas as pd

        return pd.json_normalize(self.content()["rows"])

    def to_markdown(self) -> str:
        """Returns the table as Markdown, followed by the skipped contenders."""
        head = [f"| {' | '.join(TABLE_COLUMNS)} |", f"|---|{'---:|' * (len(TABLE_COLUMNS) - 1)}"]
        body = [f"| {' | '.join(cells)} |" for cells in self.cells]
        reasons = [f"- {row.name}: {row.skipped}" for row in self.skipped]
        skipped = ["Skipped:", "", *reasons, ""] if reasons else []
        differences = [line for each in self.differences for line in (f"- {each.words}.", "")]
        seeds = [table, ""] if (table := seed_table(self.by_seed)) else []
        notes = [self.legend, "", *differences, *seeds, *skipped]
        return "\n".join([f"**{self.title}**", "", *head, *body, "", *notes])

    def to_html(self, file: str | Path) -> Path:
        """Writes the comparison as one self-contained HTML page; returns its path."""
        target = Path(file)
        page = render_comparison_page(
            self.task, self.conditions, self.rows, log_dir=self.log_dir, page_folder=target.parent
        )
        target.write_text(page, encoding="utf-8", errors="backslashreplace")
        return target

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Shows two tables on a terminal: scores, and costs."""
        best = max((row.test or 0.0 for row in self.rows), default=0.0)
        for title, columns in (
            (self.title, range(1, SCORE_COLUMNS)),
            ("What it costs", range(SCORE_COLUMNS, len(TABLE_COLUMNS))),
        ):
            table = plain_table(title)
            table.add_column(TABLE_COLUMNS[0], overflow="fold")
            for number in columns:
                table.add_column(TABLE_COLUMNS[number], justify="right", no_wrap=True)
            for row in self.rows:
                if not row.skipped:
                    cells = format_cells(row)
                    table.add_row(
                        cells[0], *(cells[number] for number in columns), style="bold" if row.test == best else ""
                    )
            yield table
        yield self.legend
        yield from (f"{each.words}." for each in self.differences)
        if differences := self.by_seed:
            table = plain_table(f"Compared with {REFERENCE}, by seed")
            for number, name in enumerate(SEED_COLUMNS):
                table.add_column(name, justify="right" if number else "left", no_wrap=True)
            for each in differences:
                table.add_row(*each.cells)
            yield table
            yield SEED_LEGEND
        for row in self.skipped:
            yield f"{row.name}: skipped, {row.skipped}"

    def __str__(self) -> str:
        return render_text(self, width=120)


def _read_row(content: Mapping[str, Any], file: Path) -> Row:
    """Reads a row of `content`; a column of a later version has its default."""
    answer = content["answer"]
    return _ROW.validate_python(
        {
            **content,
            "compiling": read_usage(content["compiling"], file),
            "answer": read_usage(answer, file),
            "extra_tokens": answer["extra_tokens"],
            "latency": answer["latency"],
        }
    )
