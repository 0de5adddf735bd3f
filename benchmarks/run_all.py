"""Run every `bench_*.py` one after the other, and end with one table of all figures against their bars.

The exit status is 1 if a figure falls short of its bar or was not measured, or if a benchmark crashed.

    python benchmarks/run_all.py                      # all of them: about half an hour
    python benchmarks/run_all.py sampling serving     # these two
    python benchmarks/run_all.py --markdown table.md  # also write the table for docs/performance.md
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import Figure, read_figures
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent
COLUMNS = ("benchmark", "figure", "ours", "theirs", "measured", "bar", "met")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A benchmark's figures, and its exit status."""

    name: str
    figures: Sequence[Figure]
    status: int

    @property
    def failure(self) -> str:
        """Why the benchmark itself failed; empty if it did not."""
        if self.status:
            return f"crashed with exit status {self.status}"
        return "" if self.figures else "ended without a figure"

    @property
    def met(self) -> bool:
        """Whether the benchmark ended well, and all of its figures meet their bars."""
        return not self.failure and all(figure.met for figure in self.figures)


def run(file: Path) -> Outcome:
    """Run one benchmark; print its output as it comes."""
    with subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return Outcome(file.stem, list(read_figures("".join(lines))), process.returncode)


def rows(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    """Yield a row of `COLUMNS` for each figure, and one for each benchmark that failed."""
    for outcome in outcomes:
        for figure in outcome.figures:
            bar = f"{figure.bar:g} at {'most' if figure.at_most else 'least'}"
            theirs = f"{show(figure.theirs)} ({figure.rival})" if figure.rival else show(figure.theirs)
            met = "yes" if figure.met else f"NO: {figure.fault}" if figure.fault else "NO"
            yield outcome.name, figure.name, show(figure.ours), theirs, show(figure.figure), bar, met
        if outcome.failure:
            yield outcome.name, outcome.failure, "", "", "", "", "NO"


def show(value: float | None) -> str:
    """Write a number without a needless fraction; nothing for None."""
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def write_markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the table for `docs/performance.md`."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *((f"`{row[0]}.py`", *row[1:]) for row in rows(outcomes))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def choose(names: Sequence[str], folder: Path) -> list[Path]:
    """Return the benchmarks of these names, such as `dpo` for `bench_dpo.py`; all of them without names."""
    known = {file.stem.removeprefix("bench_"): file for file in sorted(folder.glob("bench_*.py"))}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"Expected names of benchmarks, got {', '.join(unknown)}. Choose from: {', '.join(known)}.")
    return [known[name] for name in names] or list(known.values())


def main(arguments: Sequence[str] | None = None, *, folder: Path = FOLDER) -> int:
    """Run the benchmarks, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a benchmark's name without bench_; default: all")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="also write the table as Markdown")
    options = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    for file in choose(options.names, folder):
        print(f"\n{file.name}", flush=True)
        outcomes.append(run(file))
    table = Table(*COLUMNS, title="All figures against their bars", show_lines=True)
    for row in rows(outcomes):
        table.add_row(*row)
    Console().print(table)
    if options.markdown is not None:
        options.markdown.write_text(write_markdown(outcomes), encoding="utf-8")
    return 0 if all(outcome.met for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
