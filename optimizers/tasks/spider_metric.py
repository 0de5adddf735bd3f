"""Spider's execution accuracy: a query is right if it returns the rows of the gold query."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import dspy

from optimizers.tasks.sandbox import SqlLimits, SqlOutcome, shared_sandbox
from optimizers.tasks.sql_results import describe_difference, describe_size, is_same_result
from optimizers.tasks.sql_text import extract_query, has_order_by, remove_distinct, repair_query
from sgt_modules.errors import MetricError


@dataclass(frozen=True)
class SpiderMetric:
    """Execution accuracy as the test-suite evaluator defines it (Zhong et al. 2020, arXiv 2010.02840).

    The results must be the same bag of rows under some order of the columns, or the same list of rows if the gold query
    says ORDER BY. If the folder of the database holds several (`<db_id>/*.sqlite`, a test suite), on all of them.

    Args:
        keep_distinct: False removes DISTINCT from both queries, which is the evaluator's default.
        limits: the resources that a query may use.
    """

    keep_distinct: bool = True
    limits: SqlLimits = field(default_factory=SqlLimits)

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
        """Score 1.0 or 0.0; the feedback compares the expected with the actual rows.

        Raises:
            MetricError: the gold query fails, so no answer can be scored.
            ExampleError: the database does not exist.
        """
        gold, answer = str(example.query), prediction.get("sql")
        query = extract_query(answer) if isinstance(answer, str) else ""
        if not query:
            return dspy.Prediction(score=0.0, feedback="Expected a query, but the answer has none.")
        for database in find_databases(Path(example.database)):
            if fault := self._find_fault(database, gold, query):
                return dspy.Prediction(score=0.0, feedback=fault)
        return dspy.Prediction(score=1.0, feedback="The query's rows are the expected ones.")

    def _find_fault(self, database: Path, gold: str, query: str) -> str:
        """Return how a query's result on one database is wrong; empty if it is right."""
        expected = _run_gold(str(database), _modified_at(database), self._rewrite(gold), self.limits)
        actual = shared_sandbox(self.limits).run(database, self._rewrite(query))
        if not actual.ok:
            return f"Expected {describe_size(expected)}, but the query fails: {actual.error}"
        ordered = has_order_by(gold)
        if is_same_result(expected.rows, actual.rows, ordered=ordered):
            return ""
        return describe_difference(expected, actual, ordered=ordered)

    def _rewrite(self, query: str) -> str:
        return repair_query(query) if self.keep_distinct else remove_distinct(repair_query(query))


@lru_cache(maxsize=1024)
def _run_gold(database: str, modified_at: int, gold: str, limits: SqlLimits) -> SqlOutcome:
    """Return a gold query's rows, cached until the database changes: a question is scored many times."""
    expected = shared_sandbox(limits).run(database, gold)
    if not expected.ok:
        raise MetricError(f"The gold query {gold!r} fails on {database}: {expected.error} Check the data.")
    return expected


def _modified_at(database: Path) -> int:
    """Return when a file was last written, in nanoseconds; 0 if it does not exist."""
    try:
        return os.stat(database).st_mtime_ns  # noqa: PTH116 - faster than Path.stat
    except OSError:
        return 0


def find_databases(database: Path) -> Sequence[Path]:
    """Return the database and the others of its test suite: its neighbours, if the folder has its name.

    >>> find_databases(Path("database/pets_1/pets_1.sqlite"))
    (PosixPath('database/pets_1/pets_1.sqlite'),)
    """
    neighbours = sorted(database.parent.glob("*.sqlite")) if database.parent.name == database.stem else []
    return (database, *(each for each in neighbours if each != database))


_DEFAULT = SpiderMetric()


def spider_metric(example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
    """Apply `SpiderMetric()`: reads `database` and `query` of the example, `sql` of the prediction.

    >>> import sqlite3, tempfile
    >>> from contextlib import closing
    >>> path = Path(tempfile.mkdtemp()) / "shop.sqlite"
    >>> with closing(sqlite3.connect(path)) as shop:
    ...     _ = shop.executescript("CREATE TABLE tea (name, price); INSERT INTO tea VALUES ('green', 2), ('mint', 3)")
    >>> example = dspy.Example(database=str(path), query="SELECT name FROM tea WHERE price > 2")
    >>> spider_metric(example, dspy.Prediction(sql="SELECT name FROM tea")).feedback
    "Expected 1 row of 1 column, got 2 rows of 1 column. Too many: ('green',)."
    """
    return _DEFAULT(example, prediction)
