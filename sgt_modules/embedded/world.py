"""The world of house terms: a company's database, its own words, and questions that use these words.

The tables, the words and the questions are simulated: they are drawn from a seed. The calls are real: DSPy calls a
frozen transformer, SQLite runs its queries, and the rows are compared.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import dspy

from sgt_modules.embedded.company import ROWS_PER_TABLE, SCHEMA, TABLES, Condition, Table, build_database, conditions
from sgt_modules.embedded.database import Database
from sgt_modules.embedded.questions import Ask, asks, plain_rows, term_rows, words

PLAIN_SHARE = 0.25
"""The share of questions without a house term in every split."""


@dataclass(frozen=True, slots=True)
class HouseTerm:
    """A word of the house and the condition that it means: `zoka customers` are those with `age > 45`."""

    word: str
    table: Table
    condition: Condition


@dataclass(frozen=True, slots=True)
class Sizes:
    """The number of questions in each split, and of terms (a multiple of four, the number of tables).

    >>> QUICK.train, QUICK.terms
    (32, 8)
    """

    train: int = 100
    validation: int = 64
    test: int = 240
    shifted: int = 60
    terms: int = 20
    shifted_terms: int = 8


FULL = Sizes()
QUICK = Sizes(train=32, validation=24, test=48, shifted=16, terms=8, shifted_terms=4)


class HouseTermsWorld:
    """One company: its database, its terms and its splits, all drawn from `seed`.

    An example has the tables, the question and the expected rows, so only outcomes can be learned from. `gold=True`
    adds the field `sql` to every example, for comparisons that need gold demos.

    >>> world = HouseTermsWorld(seed=0)
    >>> {name: len(split) for name, split in world.splits.items()}
    {'train': 100, 'val': 64, 'test': 240, 'shifted': 60}
    >>> world.metric(world.train[0], dspy.Prediction(sql="SELECT nothing")).score
    0.0
    """

    def __init__(self, seed: int = 0, *, sizes: Sizes = FULL, gold: bool = False) -> None:
        self.seed, self.sizes, self.gold = seed, sizes, gold
        rng = random.Random(f"house-terms-{seed}")
        self.database = Database(build_database(rng))
        all_terms = list(self._draw_terms(sizes.terms + sizes.shifted_terms, rng))
        rng.shuffle(all_terms)
        by_table = {name: [term for term in all_terms if term.table.name == name] for name in TABLES}
        share = sizes.shifted_terms // len(TABLES)
        self.shifted_terms = tuple(term for terms in by_table.values() for term in terms[:share])
        self.terms = tuple(term for terms in by_table.values() for term in terms[share:])
        self._rng = rng
        self._used_questions: set[str] = set()
        self._gold: dict[str, str] = {}

    def _draw_terms(self, count: int, rng: random.Random) -> Iterator[HouseTerm]:
        """Draw distinct words, with distinct conditions in each table that some rows meet and some do not."""
        names = iter(rng.sample(words(reserved=True), count))
        for table in TABLES.values():
            candidates = [condition for condition in conditions(table) if self._divides(table, condition)]
            for condition in rng.sample(candidates, count // len(TABLES)):
                yield HouseTerm(next(names), table, condition)

    def _divides(self, table: Table, condition: Condition) -> bool:
        met = len(self.database.rows(f"SELECT id FROM {table.name} WHERE {condition}"))
        return 0.1 * ROWS_PER_TABLE <= met <= 0.8 * ROWS_PER_TABLE

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle only the seed and the sizes: another process draws the same world, so its metric is equal."""
        return partial(type(self), self.seed, sizes=self.sizes, gold=self.gold), ()

    @cached_property
    def splits(self) -> dict[str, list[dspy.Example]]:
        """`train`, `val`, `test` and `shifted`; no question is in two of them."""
        sizes = self.sizes
        term_asks = self._shuffle((term, ask) for term in self.terms for ask in asks(term.table))
        shifted_asks = self._shuffle((term, ask) for term in self.shifted_terms for ask in asks(term.table))
        return {
            "train": self._split(sizes.train, term_asks),
            "val": self._split(sizes.validation, term_asks),
            "test": self._split(sizes.test, term_asks),
            "shifted": self._term_examples(sizes.shifted, shifted_asks),
        }

    @property
    def train(self) -> list[dspy.Example]:
        """The training split, from whose outcomes the generator learns."""
        return self.splits["train"]

    @property
    def val(self) -> list[dspy.Example]:
        """The validation split, used only to select a stage."""
        return self.splits["val"]

    @property
    def test(self) -> list[dspy.Example]:
        """The test split: other questions about the same terms."""
        return self.splits["test"]

    @property
    def shifted(self) -> list[dspy.Example]:
        """Questions about terms that do not occur in training."""
        return self.splits["shifted"]

    def metric(self, example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> dspy.Prediction:
        """Score execution equality: 1.0 if the predicted query gives the expected rows, else 0.0, with feedback.

        Rows are compared as a multiset; their order counts if the gold query orders them. A query that fails, writes or
        runs for more than a second scores 0.0.
        """
        return self.database.judge(str(prediction.sql), example.rows, ordered=example.ordered)

    def _shuffle(self, pairs: Iterator[tuple[HouseTerm, Ask]]) -> Iterator[tuple[HouseTerm, Ask]]:
        """Yield every (term, ask) once: the terms in turn, each one's asks in random order, forms equally likely."""
        queues: dict[str, list[tuple[int, HouseTerm, Ask]]] = {}
        mixed = list(pairs)
        self._rng.shuffle(mixed)
        for term, ask in mixed:
            # The n-th ask of each form comes before any form's n+1-th, so that the forms are balanced.
            queue = queues.setdefault(term.word, [])
            queue.append((sum(each.form is ask.form for _, _, each in queue), term, ask))
        for queue in queues.values():
            queue.sort(key=lambda entry: entry[0], reverse=True)
        while any(queues.values()):
            for queue in queues.values():
                if queue:
                    yield queue.pop()[1:]

    def _split(self, size: int, term_asks: Iterator[tuple[HouseTerm, Ask]]) -> list[dspy.Example]:
        plain = round(size * PLAIN_SHARE)
        examples = self._term_examples(size - plain, term_asks)
        while len(examples) < size:
            table = self._rng.choice(tuple(TABLES.values()))
            condition, ask = self._rng.choice(conditions(table)), self._rng.choice(asks(table))
            examples += self._examples("", plain_rows(condition, table), condition, ask)
        self._rng.shuffle(examples)
        return examples

    def _term_examples(self, size: int, term_asks: Iterator[tuple[HouseTerm, Ask]]) -> list[dspy.Example]:
        examples: list[dspy.Example] = []
        while len(examples) < size:
            term, ask = next(term_asks)
            examples += self._examples(term.word, term_rows(term.word, term.table), term.condition, ask)
        return examples

    def _examples(self, word: str, rows: str, condition: Condition, ask: Ask) -> Sequence[dspy.Example]:
        """Return the example; nothing if its answer is empty or the question was used before, in any phrasing."""
        sql = ask.sql(condition)
        key = f"{rows}|{ask.question(rows)}"
        expected = self.database.rows(sql)
        is_empty = all(value in (None, 0) for row in expected for value in row)
        if key in self._used_questions or is_empty:
            return []
        self._used_questions.add(key)
        question = ask.question(rows, self._rng.randrange(2))
        fields: dict[str, object] = {
            "tables": SCHEMA,
            "question": question,
            "rows": [list(row) for row in expected],
            "ordered": ask.form.ordered,
            "term": word,
        }
        if self.gold:
            fields["sql"] = sql
        self._gold[question] = sql
        return [dspy.Example(**fields).with_inputs("tables", "question")]

    def gold_sql(self, example: dspy.Example) -> str:
        """Return the query from which the question was written; the generator and the actor never read it."""
        self.splits  # noqa: B018 - drawn on first use
        return self._gold[example.question]

    def leaks(self, example: dspy.Example, supplement: str) -> bool:
        """Whether a supplement contains the whole gold query, so that the actor can copy it."""
        return self.gold_sql(example).casefold() in supplement.casefold()


def find_term(example: dspy.Example) -> str | None:
    """Returns the house term of an example, on which whole questions are won or lost together; None without one.

    >>> find_term(dspy.Example(term="zoka")), find_term(dspy.Example(term=""))
    ('zoka', None)
    """
    return example.term or None
