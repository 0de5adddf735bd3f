"""Python programs checked a second: the sandbox with two workers, compared with a new interpreter for each.

A program defines a function and asserts three of its values. Both sides run from two threads on the same two cores,
one after the other, five times; medians count. The table also has programs that use pandas, which the workers import
in advance. The last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.table import Table

from optimizers.tasks.sandbox import Limits, PythonSandbox, isolation

BAR = 200.0
REPEATS = 5
CHECKS, SLOW_CHECKS = 600, 60
PROGRAM = """
def collatz(n):
    steps = 0
    while n != 1:
        n, steps = n // 2 if n % 2 == 0 else 3 * n + 1, steps + 1
    return steps
assert [collatz(n) for n in ({n}, 7, 27)][1:] == [16, 111]
"""
WITH_PANDAS = """
import pandas as pd
frame = pd.DataFrame({{"tea": ["a", "b", "a"], "cups": [{n}, 2, 3]}})
assert frame.groupby("tea").cups.sum()["a"] == {n} + 3
"""


def rate(run: Callable[[str], bool], program: str, checks: int) -> float:
    """Return the checks a second from two threads; every check must pass."""
    programs = [program.format(n=n + 1) for n in range(checks)]
    with ThreadPoolExecutor(2) as threads:
        began = time.perf_counter()
        passed = sum(threads.map(run, programs))
        seconds = time.perf_counter() - began
    if passed != checks:
        raise RuntimeError(f"Expected {checks} checks to pass, {passed} did.")
    return checks / seconds


def fresh(program: str) -> bool:
    """Check without a sandbox, as a user might: in a new interpreter, killed after a time limit."""
    command = [sys.executable, "-I", "-c", program]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def main() -> None:
    """Measure, print a table, and then the figure."""
    limits = Limits(memory_bytes=4 << 30)
    rates: list[tuple[float, float, float]] = []
    with PythonSandbox(limits=limits) as plain, PythonSandbox(limits=limits, preload=["pandas"]) as frames:
        rate(lambda program: plain.run(program).ok, PROGRAM, 20)
        rate(lambda program: frames.run(program).ok, WITH_PANDAS, 20)
        for _ in range(REPEATS):
            ours = rate(lambda program: plain.run(program).ok, PROGRAM, CHECKS)
            theirs = rate(fresh, PROGRAM, SLOW_CHECKS)
            rates.append((ours, theirs, rate(lambda program: frames.run(program).ok, WITH_PANDAS, SLOW_CHECKS)))
    title = f"Checks a second, two workers: {isolation()}"
    table = Table("repeat", "sandbox", "fresh interpreter", "sandbox, with pandas", title=title)
    for repeat, each in enumerate(rates, start=1):
        table.add_row(str(repeat), *(f"{number:.0f}" for number in each))
    Console().print(table)
    ours, theirs, pandas = (statistics.median(each) for each in zip(*rates, strict=True))
    figure = {"figure": "Python checks a second", "ours": round(ours), "theirs": round(theirs), "pandas": round(pandas)}
    print(json.dumps({**figure, "ratio": round(ours / theirs, 1), "bar": BAR, "holds": ours >= BAR}))


if __name__ == "__main__":
    main()
