"""Python programs checked a second: the sandbox with two workers, compared with a new process for each.

A program defines a function and asserts three of its values. All sides run from two threads on the same two cores, one
after the other, five times; medians count. The rivals isolate nothing, but can kill a program: a new interpreter
without site packages, and a process forked from a server of `multiprocessing`; the faster one counts. The table also
has programs that use pandas, which the workers import in advance.
"""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from figures import Figure, report, round_to
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
    """Check in a new interpreter, killed after a time limit."""
    command = [sys.executable, "-I", "-S", "-c", program]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def run_program(program: str) -> None:
    """Run a program in this process."""
    exec(program, {})


def forked(program: str) -> bool:
    """Check in a process forked from a server, killed after a time limit."""
    child = multiprocessing.get_context("forkserver").Process(target=run_program, args=(program,))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
    return child.exitcode == 0


def main() -> None:
    """Measure, print a table, and then the figure."""
    limits = Limits(memory_bytes=4 << 30)
    rates: list[tuple[float, float, float, float]] = []
    with PythonSandbox(limits=limits) as plain, PythonSandbox(limits=limits, preload=["pandas"]) as frames:
        rate(lambda program: plain.run(program).ok, PROGRAM, 20)
        rate(lambda program: frames.run(program).ok, WITH_PANDAS, 20)
        rate(forked, PROGRAM, 4)
        for _ in range(REPEATS):
            ours = rate(lambda program: plain.run(program).ok, PROGRAM, CHECKS)
            others = rate(fresh, PROGRAM, SLOW_CHECKS), rate(forked, PROGRAM, SLOW_CHECKS)
            pandas = rate(lambda program: frames.run(program).ok, WITH_PANDAS, SLOW_CHECKS)
            rates.append((ours, *others, pandas))
    title = f"Checks a second, two workers: {isolation()}"
    table = Table("repeat", "sandbox", "new interpreter", "forked process", "sandbox, with pandas", title=title)
    for repeat, each in enumerate(rates, start=1):
        table.add_row(str(repeat), *(f"{number:.0f}" for number in each))
    Console().print(table)
    ours, new, forks, _ = (round_to(statistics.median(each)) for each in zip(*rates, strict=True))
    rival = "a new interpreter for each" if new > forks else "a forked process for each"
    report(Figure("Python checks a second", ours, BAR, ours=ours, theirs=max(new, forks), rival=rival))


if __name__ == "__main__":
    main()
