"""`make bench` ends with one table of all figures, and fails where a figure misses its bar or a benchmark crashes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import run_all
from figures import Figure, read_figures, report

GOOD = Figure("calls a second", 1.6, bar=1.5, ours=160.0, theirs=100.0, rival="coroutines")
SHORT = Figure("seconds", 1.2, bar=1.1, at_most=True)


def write_benchmark(folder: Path, name: str, code: str) -> None:
    """Write a benchmark into a folder of its own, with the module it imports in reach."""
    path = f"import sys; sys.path.append({str(run_all.FOLDER)!r})\nfrom figures import Figure, report\n"
    (folder / f"bench_{name}.py").write_text(f"{path}{code}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (GOOD, True),
        (SHORT, False),
        (Figure("at the bar", 1.5, bar=1.5), True),
        (Figure("at the bar", 1.5, bar=1.5, at_most=True), True),
        (Figure("not measured", None, bar=0, at_most=True), False),
        (Figure("not a number", math.nan, bar=1.0), False),
        (Figure("with a fault", 2.0, bar=1.5, fault="the texts differ"), False),
    ],
)
def test_a_figure_meets_its_bar_only_where_it_was_measured_under_its_conditions(figure: Figure, met: bool) -> None:
    assert figure.met is met


def test_reported_figures_are_read_back_from_between_other_lines(capsys: pytest.CaptureFixture[str]) -> None:
    report(GOOD, SHORT)
    printed = capsys.readouterr().out
    assert list(read_figures(f'A table\n{{"other": 1}}\n{printed}the end')) == [GOOD, SHORT]


def test_benchmarks_that_meet_their_bars_end_with_status_0_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_benchmark(tmp_path, "good", "report(Figure('calls', 1.6, 1.5), Figure('seconds', 1.0, 1.1, True))")
    assert run_all.main(["--markdown", str(tmp_path / "table.md")], folder=tmp_path) == 0
    assert (tmp_path / "table.md").read_text(encoding="utf-8").splitlines() == [
        "| benchmark | figure | ours | theirs | measured | bar | met |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| `bench_good.py` | calls |  |  | 1.6 | 1.5 at least | yes |",
        "| `bench_good.py` | seconds |  |  | 1 | 1.1 at most | yes |",
    ]
    assert "All figures against their bars" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "row"),
    [
        ("report(Figure('calls', 1.4, 1.5))", "| `bench_bad.py` | calls |  |  | 1.4 | 1.5 at least | NO |"),
        ("raise ValueError('broken')", "| `bench_bad.py` | crashed with exit status 1 |  |  |  |  | NO |"),
        ("print('no figure')", "| `bench_bad.py` | ended without a figure |  |  |  |  | NO |"),
        (
            "report(Figure('calls', 9.0, 1.5)); raise SystemExit(3)",
            "| `bench_bad.py` | crashed with exit status 3 |  |  |  |  | NO |",
        ),
        (
            "report(Figure('rollouts lost', None, 0, True, fault='no server'))",
            "| `bench_bad.py` | rollouts lost |  |  |  | 0 at most | NO: no server |",
        ),
    ],
)
def test_a_figure_below_its_bar_or_a_crash_ends_with_status_1_after_the_others_have_run(
    tmp_path: Path, code: str, row: str
) -> None:
    write_benchmark(tmp_path, "bad", code)
    write_benchmark(tmp_path, "good", "report(Figure('calls', 1.6, 1.5))")
    assert run_all.main(["--markdown", str(tmp_path / "table.md")], folder=tmp_path) == 1
    rows = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert row in rows
    assert "| `bench_good.py` | calls |  |  | 1.6 | 1.5 at least | yes |" in rows


def test_benchmarks_are_chosen_by_name(tmp_path: Path) -> None:
    write_benchmark(tmp_path, "bad", "raise ValueError('broken')")
    write_benchmark(tmp_path, "good", "report(Figure('calls', 1.6, 1.5))")
    assert run_all.main(["good"], folder=tmp_path) == 0
    with pytest.raises(SystemExit, match=r"got fast\. Choose from: bad, good"):
        run_all.main(["fast"], folder=tmp_path)


def test_every_benchmark_reports_its_figures() -> None:
    texts = {file: file.read_text(encoding="utf-8") for file in run_all.choose([], run_all.FOLDER)}
    assert texts
    assert [file.name for file, text in texts.items() if "report(" not in text and "compare(" not in text] == []
