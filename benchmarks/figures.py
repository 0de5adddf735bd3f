"""The common form of all benchmarks' figures: a name, a figure, a bar, and whether the figure meets it.

A benchmark ends with `report(...)`, which prints one JSON object a line; `run_all.py` reads them with `read_figures`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure and its bar.

    Args:
        name: What was measured, with its unit.
        figure: The number that is compared with the bar; None if it was not measured.
        bar: The most or the least that the figure may be.
        at_most: Whether the bar is the most.
        ours: Our own measurement, where the figure is a ratio.
        theirs: The other side's measurement, in the same unit.
        rival: The other side: the fastest of all that were tried in the same run.
        fault: Why the figure does not count: a condition that failed, or why nothing was measured.

    >>> Figure("calls a second", 1.4, bar=1.5).met, Figure("seconds", 1.4, bar=1.5, at_most=True).met
    (False, True)
    >>> Figure("calls a second", 2.0, bar=1.5, fault="the texts differ").met
    False
    """

    name: str
    figure: float | None
    bar: float
    at_most: bool = False
    ours: float | None = None
    theirs: float | None = None
    rival: str = ""
    fault: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure was measured under its conditions and meets its bar."""
        if self.figure is None or self.fault:
            return False
        return self.figure <= self.bar if self.at_most else self.figure >= self.bar


def report(*figures: Figure) -> None:
    """Print the figures, one JSON object a line."""
    for figure in figures:
        print(json.dumps({**asdict(figure), "met": figure.met}), flush=True)


def read_figures(text: str) -> Iterator[Figure]:
    """Yield the figures that `report` printed in a benchmark's output.

    >>> [figure.name for figure in read_figures('A table.\\n{"name": "seconds", "figure": 1.0, "bar": 2.0}\\n')]
    ['seconds']
    """
    names = [each.name for each in fields(Figure)]
    for line in text.splitlines():
        if line.startswith('{"name": '):
            found = json.loads(line)
            yield Figure(**{name: found[name] for name in names if name in found})


def round_to(value: float, digits: int = 3) -> float:
    """Round to that many significant digits, so that a small figure keeps its own.

    >>> round_to(0.001234), round_to(1234.5), round_to(2.704)
    (0.00123, 1230.0, 2.7)
    """
    return float(f"{value:.{digits}g}")
