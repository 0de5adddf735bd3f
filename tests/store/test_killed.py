"""A compile that is killed goes on where it was: see `benchmarks/bench_kill.py`, which does it twenty times."""

import json
import subprocess
import sys

import pytest
from places import ROOT

pytestmark = pytest.mark.slow

BENCHMARK = ROOT / "benchmarks" / "bench_kill.py"


@pytest.mark.parametrize("method", ["sgt", "spt"])
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(method: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--method", method, "--kills", "2", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["met"], done.stdout
