"""The table of what works with DSPy: from tests marked `compatible(group, row)` to the page in the documentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

GROUPS = ("Modules", "Types", "Adapters", "Optimizers", "Calls")
"""The page's tables, in order."""

WORKS = "works"

INTRODUCTION = """\
# Works with

Every row names its tests: they run DSPy's own class on a program whose predictors read supplements, with a local
generator and a scripted actor. This command runs them and writes the page:

```console
make compatibility
```
"""


@dataclass(frozen=True)
class Row:
    """One line of the page, as one test sees it; tests of the same group and name share the line."""

    group: str
    name: str
    test: str
    result: str = ""

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"Expected one of the groups {', '.join(GROUPS)}, got {self.group!r} at {self.test}.")
        if not self.name or "|" in self.name:
            raise ValueError(f"Expected the name of a row, without '|', got {self.name!r} at {self.test}.")


def result_of(outcome: str, reason: str = "") -> str:
    """A test's outcome (pytest's word for it) as the page says it; `reason` is why a test was skipped or is expected to
    fail.

    >>> result_of("passed"), result_of("skipped", "needs optuna: pip install optuna")
    ('works', 'needs optuna: pip install optuna')
    """
    if outcome == "passed":
        return WORKS
    if outcome == "skipped":
        return reason if reason.startswith("needs ") else f"needs: {reason}"
    return f"not yet: {reason}" if reason else "fails"


def page(rows: Iterable[Row]) -> str:
    """The page: a table for each group, a line for each row, in the order given."""
    lines: dict[str, dict[str, list[Row]]] = {group: {} for group in GROUPS}
    for row in rows:
        lines[row.group].setdefault(row.name, []).append(row)
    return "\n".join([INTRODUCTION, *(_table(group, names) for group, names in lines.items() if names)])


def listed(text: str) -> set[tuple[str, str, str]]:
    """What a page lists, whatever its results: group, row and test."""
    found: set[tuple[str, str, str]] = set()
    group = ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith(("| What", "| ---")):
            name, _, tests = line.strip("| ").split(" | ")
            found.update((group, name, test.strip("`")) for test in tests.split("<br>"))
    return found


def _table(group: str, names: dict[str, list[Row]]) -> str:
    head = [f"## {group}", "", "| What | Result | Test |", "| --- | --- | --- |"]
    return "\n".join([*head, *(_line(name, rows) for name, rows in names.items()), ""])


def _line(name: str, rows: list[Row]) -> str:
    results = sorted({row.result.replace("|", "/") for row in rows}, key=lambda result: (result != WORKS, result))
    tests = dict.fromkeys(f"`{row.test}`" for row in rows)
    return f"| {name} | {'; '.join(results)} | {'<br>'.join(tests)} |"
