"""Answers in SQL checked a second: Spider's metric, compared with a new process with SQLite for each, and with none.

A check reads the query from an answer, runs it on a database of 1,000 rows, and compares the result with that of the
gold query, which the metric keeps: each of 90 questions is scored 33 times. One rival starts a process for each check,
so that it can kill a query; the other keeps a connection in each thread, and stops a query at a deadline. Both run both
queries and compare sorted rows. All sides run from two threads, one after the other, five times; medians count, and the
faster rival.
"""

from __future__ import annotations

import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import dspy
from figures import Figure, report, round_to
from rich.console import Console
from rich.table import Table

from optimizers.tasks.spider_metric import spider_metric

BAR = 1000.0
REPEATS = 5
CHECKS, SLOW_CHECKS = 3000, 60
GOLD = "SELECT origin, count(*) FROM tea WHERE price > {n} GROUP BY origin"
ANSWER = "```sql\nSELECT count(*), origin FROM tea WHERE NOT price <= {n} GROUP BY 2\n```"
FRESH = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
gold, came = (connection.execute(each).fetchall() for each in sys.argv[2:])
sys.exit(sorted(gold) != sorted((origin, count) for count, origin in came))
"""


def build(path: Path) -> None:
    """Write a table of 1,000 teas from 20 origins."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE tea (id INTEGER PRIMARY KEY, origin TEXT, price REAL)")
        rows = [(f"origin {n % 20}", float(n % 97)) for n in range(1000)]
        connection.executemany("INSERT INTO tea (origin, price) VALUES (?, ?)", rows)


def rate(check: Callable[[int], bool], checks: int) -> float:
    """Return the checks a second from two threads; every check must pass."""
    with ThreadPoolExecutor(2) as threads:
        began = time.perf_counter()
        passed = sum(threads.map(check, range(checks)))
        seconds = time.perf_counter() - began
    if passed != checks:
        raise RuntimeError(f"Expected {checks} checks to pass, {passed} did.")
    return checks / seconds


def main() -> None:
    """Measure, print a table, and then the figure."""
    with TemporaryDirectory() as folder:
        database = Path(folder) / "tea.sqlite"
        build(database)

        def judged(n: int) -> bool:
            example = dspy.Example(database=str(database), query=GOLD.format(n=n % 90))
            return spider_metric(example, dspy.Prediction(sql=ANSWER.format(n=n % 90))).score == 1.0

        def fresh(n: int) -> bool:
            queries = [GOLD.format(n=n % 90), ANSWER.format(n=n % 90).strip("`").removeprefix("sql\n")]
            command = [sys.executable, "-I", "-S", "-c", FRESH, str(database), *queries]
            return subprocess.run(command, check=False, timeout=60).returncode == 0

        kept = threading.local()

        def connected(n: int) -> bool:
            if not hasattr(kept, "connection"):
                kept.connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
            deadline = time.monotonic() + 60
            kept.connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            queries = [GOLD.format(n=n % 90), ANSWER.format(n=n % 90).strip("`").removeprefix("sql\n")]
            gold, came = (kept.connection.execute(query).fetchall() for query in queries)
            return sorted(gold) == sorted((origin, count) for count, origin in came)

        rate(judged, 100)
        rates = [(rate(judged, CHECKS), rate(fresh, SLOW_CHECKS), rate(connected, CHECKS)) for _ in range(REPEATS)]
    table = Table("repeat", "Spider's metric", "new process", "kept connection", title="Checks a second, two workers")
    for repeat, each in enumerate(rates, start=1):
        table.add_row(str(repeat), *(f"{number:.0f}" for number in each))
    Console().print(table)
    ours, new, kept_open = (round_to(statistics.median(each)) for each in zip(*rates, strict=True))
    rival = "a new process for each" if new > kept_open else "a kept connection, which no one can kill"
    report(Figure("SQL checks a second", ours, BAR, ours=ours, theirs=max(new, kept_open), rival=rival))


if __name__ == "__main__":
    main()
