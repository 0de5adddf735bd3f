"""Questions in several forms, each with its SQL, and the invented words of the house terms."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sgt_modules.embedded.company import Condition, Table

INSTRUCTIONS = "Write one SQLite query that answers the question."
"""The instructions of the embedded program's signature."""

SYLLABLES: tuple[str, ...] = tuple(consonant + vowel for consonant in "bdfgjklmnprstvz" for vowel in "aeiou")
"""A house term is two of these."""

_RESERVED_SHARE = 8


@cache
def words(*, reserved: bool) -> tuple[str, ...]:
    """List the words that are reserved for worlds (an eighth), or those for pretraining.

    >>> set(words(reserved=True)) & set(words(reserved=False))
    set()
    """
    every = [first + second for first in SYLLABLES for second in SYLLABLES if first != second]
    return tuple(word for word in every if (zlib.crc32(word.encode()) % _RESERVED_SHARE == 0) == reserved)


@dataclass(frozen=True, slots=True)
class Form:
    """A form of question: templates with the same meaning, and the SQL around a condition.

    `{rows}` is the phrase for the filtered rows; `{table}`, `{label}`, `{column}` and `{value}` come from the ask, and
    `{condition}` is the condition in SQL.
    """

    name: str
    questions: tuple[str, ...]
    sql: str
    column: str = ""
    ordered: bool = False


FORMS: tuple[Form, ...] = (
    Form(
        "count",
        ("How many {rows} are there?", "Count the {rows}."),
        "SELECT count(*) FROM {table} WHERE {condition}",
    ),
    Form(
        "list",
        ("List the {label} of all {rows}.", "Show the {label} of the {rows}."),
        "SELECT {label} FROM {table} WHERE {condition}",
    ),
    Form(
        "average",
        ("What is the average {column} of {rows}?", "Give the mean {column} of {rows}."),
        "SELECT avg({column}) FROM {table} WHERE {condition}",
        "number",
    ),
    Form(
        "highest",
        ("What is the highest {column} of {rows}?", "Give the top {column} among {rows}."),
        "SELECT max({column}) FROM {table} WHERE {condition}",
        "number",
    ),
    Form(
        "total",
        ("What is the total {column} of {rows}?", "Sum up the {column} of {rows}."),
        "SELECT sum({column}) FROM {table} WHERE {condition}",
        "number",
    ),
    Form(
        "ranked",
        ("List the {label} of {rows}, highest {column} first.", "Rank the {rows} by {column} and show the {label}."),
        "SELECT {label} FROM {table} WHERE {condition} ORDER BY {column} DESC, id",
        "number",
        ordered=True,
    ),
    Form(
        "grouped",
        ("How many {rows} are there per {column}?", "Count the {rows} for each {column}."),
        "SELECT {column}, count(*) FROM {table} WHERE {condition} GROUP BY {column}",
        "text",
    ),
    Form(
        "narrowed",
        ("How many {rows} have {column} {value}?", "Count the {rows} of {column} {value}."),
        "SELECT count(*) FROM {table} WHERE {condition} AND {column} = '{value}'",
        "value",
    ),
)
"""Every form of question: aggregates, lists, an order, groups, a second condition."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The content of a question: a form, a table, and the column and value that the form needs.

    >>> from sgt_modules.embedded.company import TABLES, Condition
    >>> ask = Ask(FORMS[2], TABLES["customers"], "age")
    >>> ask.question("zoka customers")
    'What is the average age of zoka customers?'
    >>> ask.sql(Condition("tier", "=", "gold"))
    "SELECT avg(age) FROM customers WHERE tier = 'gold'"
    """

    form: Form
    table: Table
    column: str = ""
    value: str = ""

    def question(self, rows: str, phrasing: int = 0) -> str:
        """Write the question about `rows` (`zoka customers`), in one of the form's phrasings."""
        return self.form.questions[phrasing].format(
            rows=rows, label=self.table.label, column=self.column, value=self.value
        )

    def sql(self, condition: Condition) -> str:
        """Write the query that answers the question if the rows are those that meet `condition`."""
        return self.form.sql.format(
            table=self.table.name, label=self.table.label, column=self.column, value=self.value, condition=condition
        )


@cache
def asks(table: Table) -> tuple[Ask, ...]:
    """List all asks about a table's rows: 20 different ones.

    >>> from sgt_modules.embedded.company import TABLES
    >>> len(asks(TABLES["staff"]))
    20
    """
    slots: dict[str, Sequence[tuple[str, str]]] = {
        "": [("", "")],
        "number": [(column, "") for column in table.numbers],
        "text": [(column, "") for column in table.texts],
        "value": [(column, value) for column, values in table.texts.items() for value in values],
    }
    return tuple(Ask(form, table, *slot) for form in FORMS for slot in slots[form.column])


def random_ask(table: Table, rng: random.Random) -> Ask:
    """Draw an ask; all forms are equally likely, whatever their number of columns."""
    form = rng.choice(FORMS)
    return rng.choice([ask for ask in asks(table) if ask.form is form])


def term_rows(word: str, table: Table) -> str:
    """Name the rows of a house term as in a question: `zoka customers`."""
    return f"{word} {table.name}"


def plain_rows(condition: Condition, table: Table) -> str:
    """Name rows as in a question without house terms: `customers with age over 45`."""
    return f"{table.name} with {condition.words}"
