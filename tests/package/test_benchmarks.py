"""Each benchmark can at least be imported; what it measures takes too long for a test."""

import runpy
from pathlib import Path

import pytest
from places import ROOT

BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_a_benchmark_finds_all_that_it_uses(file: Path) -> None:
    found = runpy.run_path(str(file))
    assert "main" in found or not file.stem.startswith("bench_")
