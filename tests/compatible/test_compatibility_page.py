"""The documentation's table of what works with DSPy lists the tests there are, and says how they ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from compatibility_page import GROUPS, Row, listed, page, result_of
from places import ROOT

pytestmark = pytest.mark.slow


def test_the_committed_page_lists_exactly_the_marked_tests(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    collect = [sys.executable, "-m", "pytest", "tests", "--collect-only", "--compatibility", str(path)]
    done = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=False)
    assert path.is_file(), done.stdout + done.stderr
    committed = listed((ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8"))
    marked = listed(path.read_text(encoding="utf-8"))
    assert committed == marked, "Run `make compatibility`."


def test_a_row_says_every_way_in_which_its_tests_ended() -> None:
    rows = [
        Row("Calls", "acall", "test_a", "works"),
        Row("Calls", "acall", "test_b", "works"),
        Row("Calls", "stream", "test_c", "works"),
        Row("Calls", "stream", "test_d", "needs optuna"),
        Row("Modules", "ReAct", "test_e", "works"),
    ]
    written = page(rows)
    assert "| acall | works | `test_a`<br>`test_b` |" in written
    assert "| stream | works; needs optuna | `test_c`<br>`test_d` |" in written
    assert [line for line in written.splitlines() if line.startswith("## ")] == ["## Modules", "## Calls"]


def test_what_a_page_lists_is_what_was_put_into_it() -> None:
    rows = [Row(group, f"{name}, and more", f"test_{name}") for group in GROUPS for name in "ab"]
    assert listed(page(rows)) == {(row.group, row.name, row.test) for row in rows}


@pytest.mark.parametrize(
    ("outcome", "reason", "result"),
    [
        ("passed", "", "works"),
        ("skipped", "needs optuna: pip install optuna", "needs optuna: pip install optuna"),
        ("skipped", "no network", "needs: no network"),
        ("failed", "", "fails"),
        ("failed", "DSPy drops it", "not yet: DSPy drops it"),
    ],
)
def test_an_outcome_is_said_in_plain_words(outcome: str, reason: str, result: str) -> None:
    assert result_of(outcome, reason) == result


@pytest.mark.parametrize(("group", "name"), [("Pictures", "Image"), ("Types", ""), ("Types", "str | None")])
def test_a_row_that_has_no_place_on_the_page_is_refused(group: str, name: str) -> None:
    with pytest.raises(ValueError, match="test_x"):
        Row(group, name, "test_x")
