"""A finished comparison: a table to read, JSON, a frame and pages to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console, ConsoleOptions, RenderResult

from optimizers.comparison.cells import COLUMNS, LEGEND, SCORES, cells_of, printed
from optimizers.comparison.leaderboard import Row
from optimizers.comparison.outcomes import read_usage, usage_content
from optimizers.comparison.page import page
from optimizers.core.run_folder import RunFolder
from optimizers.core.safe_reading import read_entry
from optimizers.observe.tables import plain_table
from sgt_modules.errors import RunFolderError

if TYPE_CHECKING:
    import pandas as pd

FILE = "comparison.json"
"""Where a comparison's folder keeps what was found."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every contender's row on one task, as `compare` found them. It prints as a table.

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

    def row(self, name: str) -> Row:
        """A contender's row; raises `KeyError` for one that was not in the comparison."""
        try:
            return next(row for row in self.rows if row.name == name)
        except StopIteration:
            raise KeyError(f"{name!r} was not compared; there are {[row.name for row in self.rows]}.") from None

    @property
    def title(self) -> str:
        """What was compared under which conditions."""
        return f"{self.task}: {self.conditions}"

    @property
    def conditions(self) -> str:
        """What each contender may spend, and the seeds."""
        return f"{self.budget} a contender, seeds {', '.join(map(str, self.seeds))}"

    @property
    def cells(self) -> list[list[str]]:
        """The table's texts, a list a row that ran, in the order of `COLUMNS`."""
        return [cells_of(row) for row in self.rows if not row.skipped]

    @property
    def skipped(self) -> Sequence[Row]:
        """The contenders that did not run."""
        return [row for row in self.rows if row.skipped]

    def content(self) -> dict[str, Any]:
        """The comparison as JSON holds it: `task`, `budget`, `seeds` and `rows`."""
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
                "compiling": usage_content(row.compiling),
                "answer": usage_content(row.answer) | {"extra_tokens": row.extra_tokens, "latency": row.latency},
            }
            for row in self.rows
        ]
        return {"task": self.task, "budget": self.budget, "seeds": list(self.seeds), "rows": rows}

    @classmethod
    def read(cls, folder: str | Path) -> Comparison:
        """The comparison that lies in a folder; raises `RunFolderError` where there is none."""
        path = Path(folder)
        content, file = RunFolder(path).read(FILE), path / FILE
        if content is None:
            raise RunFolderError(f"{path} holds no {FILE}. Pass the folder of a comparison that came to its end.")
        rows = cast("list[dict[str, Any]]", read_entry(content, "rows", list, [], file=file))
        task, budget = (read_entry(content, name, str, "", file=file) for name in ("task", "budget"))
        seeds = cast("list[int]", read_entry(content, "seeds", list, [], file=file))
        try:
            return cls(task, budget, tuple(seeds), tuple(_row(row, file) for row in rows), path)
        except (TypeError, ValueError, KeyError, AttributeError) as problem:
            raise RunFolderError(f"{file} should hold the rows of a comparison: {problem}.") from problem

    def to_frame(self) -> pd.DataFrame:
        """A pandas frame, a row a contender, with the fields of `content`'s rows; costs as `compiling.usd`."""
        import pandas as pd

        return pd.json_normalize(self.content()["rows"])

    def to_markdown(self) -> str:
        """The table as Markdown, with the contenders that were skipped below it."""
        head = [f"| {' | '.join(COLUMNS)} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}"]
        body = [f"| {' | '.join(cells)} |" for cells in self.cells]
        left_out = [f"- {row.name}: {row.skipped}" for row in self.skipped]
        return "\n".join([f"**{self.title}**", "", *head, *body, "", LEGEND, "", "Skipped:", "", *left_out, ""])

    def to_html(self, file: str | Path) -> Path:
        """Write the comparison as one HTML page that needs nothing else."""
        target = Path(file)
        target.write_text(
            page(self.task, self.conditions, self.rows, log_dir=self.log_dir, beside=target.parent),
            encoding="utf-8",
            errors="backslashreplace",
        )
        return target

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table on a terminal."""
        best = max((row.test or 0.0 for row in self.rows), default=0.0)
        for title, columns in ((self.title, range(1, SCORES)), ("What it costs", range(SCORES, len(COLUMNS)))):
            table = plain_table(title)
            table.add_column(COLUMNS[0], overflow="fold")
            for number in columns:
                table.add_column(COLUMNS[number], justify="right", no_wrap=True)
            for row in self.rows:
                if not row.skipped:
                    cells = cells_of(row)
                    chosen = [cells[0], *(cells[number] for number in columns)]
                    table.add_row(*chosen, style="bold" if row.test == best else "")
            yield table
        yield LEGEND
        for row in self.skipped:
            yield f"{row.name}: skipped, {row.skipped}"

    def __str__(self) -> str:
        return printed(self, width=120)


def _row(content: Mapping[str, Any], file: Path) -> Row:
    """The row that `content` wrote."""
    plain = (
        "name",
        "test",
        "gain",
        "relative_gain",
        "p_value",
        "p_best",
        "best_other",
        "spread",
        "unanswered",
        "skipped",
    )
    answer = content["answer"]
    return Row(
        **{name: content[name] for name in plain},
        interval=None if content["interval"] is None else (content["interval"][0], content["interval"][1]),
        by_seed={int(seed): float(score) for seed, score in content["by_seed"].items()},
        compiling=read_usage(content["compiling"], file),
        answer=read_usage(answer, file),
        extra_tokens=answer["extra_tokens"],
        latency=answer["latency"],
    )
