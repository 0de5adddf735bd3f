"""Spider: questions over many databases, answered in SQL and judged by the returned rows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dspy
from pydantic import BaseModel

from optimizers.tasks.definition import Source, Task
from optimizers.tasks.loading import DatasetReader, HubData
from optimizers.tasks.rows import Pools
from optimizers.tasks.spider_metric import spider_metric
from optimizers.tasks.splitting import Sizes
from sgt_modules.errors import TaskDataError

DATABASES = "database"
"""The folder of `<db_id>/<db_id>.sqlite` next to the questions, as in the authors' archive."""


class SpiderRow(BaseModel):
    """A row of the data set, without its lists of tokens."""

    db_id: str
    question: str
    query: str


class AnswerInSQLite(dspy.Signature):
    """Write one SQLite query that answers the question."""

    tables: str = dspy.InputField(desc="the database's tables")
    question: str = dspy.InputField()
    sql: str = dspy.OutputField(desc="the query alone")


@cache
def read_tables(database: Path) -> str:
    """Return the CREATE statements of a database's tables; raise `ValueError` if the file is no readable database."""
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            statements = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL")
            return ";\n".join(str(sql) for (sql,) in statements)
    except sqlite3.Error as problem:
        raise ValueError(f"db_id: {database} cannot be read as a database: {problem}") from problem


def _to_example(row: SpiderRow, folder: Path | None) -> dspy.Example:
    assert folder is not None
    database = folder / DATABASES / row.db_id / f"{row.db_id}.sqlite"
    if not database.is_file():
        raise ValueError(f"db_id: expected a database at {database}")
    tables = read_tables(database)
    fields = {"schema": tables, "tables": tables, "question": row.question}
    example = dspy.Example(**fields, db_id=row.db_id, database=str(database), query=row.query)
    return example.with_inputs("tables", "question")


@dataclass(frozen=True)
class SpiderData:
    """Spider's loader: questions from the folder, or from the hub if the folder holds only databases."""

    hub: HubData[SpiderRow]

    def __call__(self, data_dir: Path | None, *, reader: DatasetReader | None = None) -> Pools:
        """Read the rows; raise `TaskDataError` without a folder of databases, which the hub does not have."""
        if data_dir is None or not (data_dir / DATABASES).is_dir():
            problem = "none is given" if data_dir is None else f"{data_dir} has none"
            raise TaskDataError(
                f"Spider needs a folder that holds {DATABASES}/<db_id>/<db_id>.sqlite, but {problem}. The hub has only "
                "the questions: unpack the authors' archive (yale-lily.github.io/spider), and pass its folder as "
                "data_dir (--data-dir)."
            )
        questions = (*data_dir.glob("train*"), *data_dir.glob("dev*"), *data_dir.glob("validation*"))
        return (self.hub if questions else self.hub.from_hub)(data_dir, reader=reader)


SPIDER = Task(
    name="spider",
    description="Questions over many databases in SQL; the rows must be right.",
    program=AnswerInSQLite,
    metric=spider_metric,
    loader=SpiderData(
        HubData(
            hub="xlangai/spider",
            configuration="spider",
            revision="main",
            splits={"train": ("train",), "test": ("validation",)},
            row=SpiderRow,
            example=_to_example,
        )
    ),
    sizes=Sizes(train=300, val=300, test=1034, parts=(9, 5, 8)),
    gold=lambda example: dspy.Prediction(sql=example.query),
    question_fields=("question", "query"),  # most queries have two wordings of their question
    cluster=lambda example: (example.db_id, example.query),  # the wordings of one query are won or lost together
    source=Source("Yu et al. 2018, arXiv 1809.08887", "CC BY-SA 4.0"),
)
