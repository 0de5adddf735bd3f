"""Spider's execution accuracy: a query is right where its rows are those of the gold query."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import dspy

from optimizers.tasks.sandbox import SqlLimits, SqlOutcome, shared_sandbox
from optimizers.tasks.sql_results import difference, same_result, size
from optimizers.tasks.sql_text import orders, query_in, tidied, without_distinct
from sgt_modules.errors import MetricError


@dataclass(frozen=True)
class SpiderMetric:
    """Execution accuracy as the test-suite evaluator defines it (Zhong et al. 2020, arXiv 2010.02840).

    The results must be the same bag of rows under some order of the columns; where the gold query says ORDER BY, the
    same list of rows. Where the folder of the database holds several (`<db_id>/*.sqlite`, a test suite), on all.

    Args:
        keep_distinct: False leaves DISTINCT out of both queries, as the evaluator does unless it is told otherwise.
        limits: what a query may use.
    """

    keep_distinct: bool = True
    limits: SqlLimits = field(default_factory=SqlLimits)

    def __call__(
        self,
        example: dspy.Example,
        prediction: dspy.Prediction,
        trace: object = None,
        pred_name: object = None,
        pred_trace: object = None,
    ) -> dspy.Prediction:
        """Score 1.0 or 0.0; the feedback says what was expected, what came, and where they differ.

        Raises:
            MetricError: the gold query has no result, so nothing can be told of any answer.
            ExampleError: there is no such database.
        """
        gold, answer = str(example.query), prediction.get("sql")
        query = query_in(answer) if isinstance(answer, str) else ""
        if not query:
            return dspy.Prediction(score=0.0, feedback="Expected a query, and there is none in the answer.")
        for database in databases(Path(example.database)):
            wrong = self._wrong(database, gold, query)
            if wrong:
                return dspy.Prediction(score=0.0, feedback=wrong)
        return dspy.Prediction(score=1.0, feedback="The query's rows are the expected ones.")

    def _wrong(self, database: Path, gold: str, query: str) -> str:
        """What is wrong with a query's result on one database; empty where nothing is."""
        expected = _expected(str(database), _changed(database), self._read(gold), self.limits)
        came = shared_sandbox(self.limits).run(database, self._read(query))
        if not came.ok:
            return f"Expected {size(expected)}, but the query has no result: {came.error}"
        ordered = orders(gold)
        if same_result(expected.rows, came.rows, ordered=ordered):
            return ""
        return difference(expected, came, ordered=ordered)

    def _read(self, query: str) -> str:
        return tidied(query) if self.keep_distinct else without_distinct(tidied(query))


@lru_cache(maxsize=1024)
def _expected(database: str, changed: int, gold: str, limits: SqlLimits) -> SqlOutcome:
    """A gold query's rows, kept while its database has not `changed`: a question is judged many times."""
    expected = shared_sandbox(limits).run(database, gold)
    if not expected.ok:
        raise MetricError(f"The gold query {gold!r} has no result on {database}: {expected.error} Check the data.")
    return expected


def _changed(database: Path) -> int:
    """When a file was last written, in nanoseconds; 0 where there is none."""
    try:
        return os.stat(database).st_mtime_ns  # noqa: PTH116 - quicker than a path's
    except OSError:
        return 0


def databases(database: Path) -> Sequence[Path]:
    """The database, and the others of its test suite: those beside it, where the folder has its name.

    >>> databases(Path("database/pets_1/pets_1.sqlite"))
    (PosixPath('database/pets_1/pets_1.sqlite'),)
    """
    beside = sorted(database.parent.glob("*.sqlite")) if database.parent.name == database.stem else []
    return (database, *(each for each in beside if each != database))


_DEFAULT = SpiderMetric()


def spider_metric(
    example: dspy.Example,
    prediction: dspy.Prediction,
    trace: object = None,
    pred_name: object = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """`SpiderMetric()` as a function: reads `database` and `query` of the example, `sql` of the prediction.

    >>> import sqlite3, tempfile
    >>> from contextlib import closing
    >>> path = Path(tempfile.mkdtemp()) / "shop.sqlite"
    >>> with closing(sqlite3.connect(path)) as shop:
    ...     _ = shop.executescript("CREATE TABLE tea (name, price); INSERT INTO tea VALUES ('green', 2), ('mint', 3)")
    >>> example = dspy.Example(database=str(path), query="SELECT name FROM tea WHERE price > 2")
    >>> spider_metric(example, dspy.Prediction(sql="SELECT name FROM tea")).feedback
    "Expected 1 row of 1 column, got 2 rows of 1 column. Too many: ('green',)."
    """
    return _DEFAULT(example, prediction, trace, pred_name, pred_trace)
