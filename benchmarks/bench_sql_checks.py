"""Answers in SQL checked a second: Spider's metric, compared with a new process with SQLite for each.

A check reads the query from an answer, runs it on a database of 1,000 rows, and compares the result with that of the
gold query, which the metric keeps: each of 90 questions is scored 33 times. The other side starts a process for each
check, so that it can kill a query; the process runs both queries and compares sorted rows. Both run from two threads,
one after the other, five times; medians count. The last line is JSON.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import dspy
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
            command = [sys.executable, "-I", "-c", FRESH, str(database), *queries]
            return subprocess.run(command, check=False, timeout=60).returncode == 0

        rate(judged, 100)
        rates = [(rate(judged, CHECKS), rate(fresh, SLOW_CHECKS)) for _ in range(REPEATS)]
    table = Table("repeat", "Spider's metric", "fresh process", title="Checks a second, two workers")
    for repeat, each in enumerate(rates, start=1):
        table.add_row(str(repeat), *(f"{number:.0f}" for number in each))
    Console().print(table)
    ours, theirs = (statistics.median(each) for each in zip(*rates, strict=True))
    figure = {"figure": "SQL checks a second", "ours": round(ours), "theirs": round(theirs)}
    print(json.dumps({**figure, "ratio": round(ours / theirs, 1), "bar": BAR, "holds": ours >= BAR}))


if __name__ == "__main__":
    main()
