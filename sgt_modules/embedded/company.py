"""The embedded company: its tables, their columns, and every condition that a house term can mean.

The world is invented; its form is that of a real task (text-to-SQL with a company's own words).
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

ROWS_PER_TABLE = 60


@dataclass(frozen=True, slots=True)
class Number:
    """A numeric column: the range of its values, and the round numbers that questions use."""

    low: int
    high: int
    marks: tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table: a label column that names its rows, two text columns and two numeric columns."""

    name: str
    label: str
    texts: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, Number]

    @property
    def line(self) -> str:
        """The table's line in an example's `tables` field.

        >>> TABLES["staff"].line
        'staff(id, name, team, office, salary, years)'
        """
        return f"{self.name}({', '.join(['id', self.label, *self.texts, *self.numbers])})"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one column, as SQL (`str`) and in a question's plain words (`words`).

    >>> condition = Condition("age", ">", "45")
    >>> str(condition), condition.words
    ('age > 45', 'age over 45')
    """

    column: str
    operator: str
    value: str

    def __str__(self) -> str:
        literal = f"'{self.value}'" if self.operator == "=" else self.value
        return f"{self.column} {self.operator} {literal}"

    @property
    def words(self) -> str:
        """The condition in a question without house terms."""
        return f"{self.column} {({'=': '', '>': 'over ', '<': 'under '})[self.operator]}{self.value}"


def _table(name: str, label: str, texts: Mapping[str, str], numbers: Mapping[str, Number]) -> Table:
    return Table(name, label, {column: tuple(values.split()) for column, values in texts.items()}, numbers)


TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        _table(
            "customers",
            "name",
            {"city": "Oslo Rome Lima Cairo", "tier": "gold silver bronze trial"},
            {"age": Number(18, 80, (30, 45, 60)), "balance": Number(0, 900, (200, 400, 600))},
        ),
        _table(
            "products",
            "title",
            {"category": "food tools toys books", "color": "red blue green black"},
            {"price": Number(1, 100, (20, 50, 80)), "stock": Number(0, 400, (70, 150, 300))},
        ),
        _table(
            "orders",
            "code",
            {"status": "open paid sent late", "channel": "web shop phone fair"},
            {"amount": Number(10, 1000, (250, 500, 750)), "items": Number(1, 25, (5, 10, 15))},
        ),
        _table(
            "staff",
            "name",
            {"team": "sales legal support design", "office": "north south east west"},
            {"salary": Number(20, 100, (35, 55, 75)), "years": Number(0, 35, (8, 12, 25))},
        ),
    )
}
"""The four tables by name."""

SCHEMA = "\n".join(table.line for table in TABLES.values())
"""The `tables` field of every example: one line for each table."""


def conditions(table: Table) -> list[Condition]:
    """List every condition that a house term of this table can mean: 8 on text, 12 on numbers.

    >>> len(conditions(TABLES["customers"]))
    20
    """
    on_text = [Condition(column, "=", value) for column, values in table.texts.items() for value in values]
    on_numbers = [
        Condition(column, operator, str(mark))
        for column, number in table.numbers.items()
        for operator in (">", "<")
        for mark in number.marks
    ]
    return on_text + on_numbers


def build_database(rng: random.Random) -> bytes:
    """Build a SQLite database with random rows, serialized for `sqlite3.Connection.deserialize`."""
    connection = sqlite3.connect(":memory:")
    for table in TABLES.values():
        columns = ["id INTEGER PRIMARY KEY", f"{table.label} TEXT"]
        columns += [f"{column} TEXT" for column in table.texts] + [f"{column} INTEGER" for column in table.numbers]
        connection.execute(f"CREATE TABLE {table.name} ({', '.join(columns)})")
        rows = [
            (
                index,
                f"{table.name[0].upper()}-{index:03d}",
                *(rng.choice(values) for values in table.texts.values()),
                *(rng.randint(number.low, number.high) for number in table.numbers.values()),
            )
            for index in range(1, ROWS_PER_TABLE + 1)
        ]
        connection.executemany(f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(columns))})", rows)
    connection.commit()
    database = connection.serialize()
    connection.close()
    return database
