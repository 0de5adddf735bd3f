"""The conventions of house rules: kinds of question about a list, and the readings of each kind.

The world is invented. Each kind has a default reading, and others that a sentence of the instructions selects. A
sentence is about one kind and does not affect the others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FRUIT: Sequence[str] = (
    *("plum", "kiwi", "fig", "pear", "lime", "date", "mango", "melon", "grape", "peach", "lemon", "guava"),
    *("apple", "olive", "papaya", "cherry", "quince", "banana", "orange", "lychee", "damson", "medlar", "tomato"),
    "pomelo",
)
"""The items of lists."""

LENGTHS = (5, 6, 7)
"""The possible numbers of items in a list."""

WORDS = {5: "five", 6: "six", 7: "seven"}
NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII")
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")

Items = Sequence[str]
Answer = Callable[[Items, str], str]
"""Returns the answer for a list and the item that the question names (empty if it names none)."""


@dataclass(frozen=True, slots=True)
class ConventionKind:
    """A kind of question: its topic, the questions (`{item}` is the named item), the readings by their names (the first
    is the default), and the sentences (`{reading}`) that select one.
    """

    topic: str
    questions: tuple[str, ...]
    readings: Mapping[str, Answer]
    sentences: tuple[str, ...]

    @property
    def default(self) -> str:
        """The reading that holds if no sentence is about the kind."""
        return next(iter(self.readings))

    @property
    def others(self) -> list[str]:
        """The readings that only a sentence selects."""
        return list(self.readings)[1:]

    def sentences_for(self, reading: str) -> list[str]:
        """List every sentence that selects a reading.

        >>> KINDS["mid"].sentences_for("the second item")[0]
        'The mid item is the second item.'
        """
        return [each.format(reading=reading) for each in self.sentences]


def _place(of: Callable[[int], str]) -> Answer:
    """Answer by the place of the named item, from 0."""
    return lambda items, item: of(items.index(item))


def _item(place: int) -> Answer:
    return lambda items, _: items[place]


def _items(*places: str) -> dict[str, Answer]:
    return {f"the {each} item": _item(PLACES.index(each)) for each in places}


def _two(first: int, second: int) -> Answer:
    return lambda items, _: f"{items[first]} and {items[second]}"


def _among(yes: str, no: str) -> Answer:
    return lambda items, item: yes if item in items else no


def _join_first_three(between: str) -> Answer:
    return lambda items, _: between.join(items[:3])


def _definitions(word: str) -> tuple[str, ...]:
    return (f"By {word} we mean {{reading}}.", f"Read {word} as {{reading}}.")


KINDS: Mapping[str, ConventionKind] = {
    "place": ConventionKind(
        "places",
        ("At which place is {item}?", "Where in the list is {item}?"),
        {
            "from one": _place(lambda place: str(place + 1)),
            "from zero": _place(str),
            "in Roman numerals": _place(lambda place: NUMERALS[place]),
            "in words": _place(lambda place: PLACES[place]),
        },
        ("Count places {reading}.", "Places are counted {reading}.", "Say where an item stands {reading}."),
    ),
    "size": ConventionKind(
        "sizes",
        ("How many items are there?", "What is the size of the list?"),
        {
            "in digits": lambda items, _: str(len(items)),
            "as a word": lambda items, _: WORDS[len(items)],
            "in Roman numerals": lambda items, _: NUMERALS[len(items) - 1],
            "in strokes": lambda items, _: "|" * len(items),
        },
        ("Write sizes {reading}.", "The size of a list is written {reading}.", "Give a number of items {reading}."),
    ),
    "presence": ConventionKind(
        "presence",
        ("Is {item} in the list?", "Does the list hold {item}?"),
        {
            "yes or no": _among("yes", "no"),
            "true or false": _among("true", "false"),
            "aye or nay": _among("aye", "nay"),
            "in or out": _among("in", "out"),
        },
        (
            "Say {reading} where a question asks whether an item is there.",
            "Presence is told by {reading}.",
            "Whether the list holds an item is answered by {reading}.",
        ),
    ),
    "mid": ConventionKind(
        "the mid item",
        ("Which is the mid item?", "Name the mid item."),
        _items("third", "second", "fourth", "first"),
        ("The mid item is {reading}.", *_definitions("mid")),
    ),
    "far": ConventionKind(
        "the far item",
        ("Which is the far item?", "Name the far item."),
        _items("fifth", "fourth", "first", "second"),
        ("The far item is {reading}.", *_definitions("far")),
    ),
    "pair": ConventionKind(
        "pairs",
        ("Which items are the pair?", "Name the pair."),
        {
            "items one and two": _two(0, 1),
            "items two and three": _two(1, 2),
            "items one and three": _two(0, 2),
            "items two and four": _two(1, 3),
        },
        ("The pair is {reading}.", *_definitions("pair")),
    ),
    "spelling": ConventionKind(
        "spelling",
        ("Spell {item}.", "How is {item} spelled?"),
        {
            "in lower case": lambda _, item: item,
            "in capitals": lambda _, item: item.upper(),
            "with a capital": lambda _, item: item.capitalize(),
            "in quotes": lambda _, item: f'"{item}"',
        },
        ("Spell items {reading}.", "A spelled item is written {reading}.", "Spelling is done {reading}."),
    ),
    "listing": ConventionKind(
        "listing",
        ("List the top three.", "Which are the top three?"),
        {
            "commas": _join_first_three(", "),
            "slashes": _join_first_three(" / "),
            "dashes": _join_first_three(" - "),
            "plus signs": _join_first_three(" + "),
        },
        ("Put {reading} between listed items.", "Listed items have {reading} between them.", "List with {reading}."),
    ),
    "marking": ConventionKind(
        "marking",
        ("Mark {item}.", "How is {item} marked?"),
        {
            "stars": lambda _, item: f"*{item}*",
            "brackets": lambda _, item: f"({item})",
            "bars": lambda _, item: f"|{item}|",
            "arrows": lambda _, item: f"<{item}>",
        },
        ("Mark items with {reading}.", "A marked item stands between {reading}.", "Marking is done by {reading}."),
    ),
    "repeating": ConventionKind(
        "repeating",
        ("Repeat {item}.", "How is {item} repeated?"),
        {
            "once": lambda _, item: item,
            "twice": lambda _, item: f"{item} {item}",
            "three times": lambda _, item: " ".join([item] * 3),
            "with a comma between": lambda _, item: f"{item}, {item}",
        },
        ("Repeat items {reading}.", "A repeated item is said {reading}.", "Repeating is done {reading}."),
    ),
}
"""The ten kinds of question by name."""

ASKED = {name: kind for name, kind in KINDS.items() if name not in ("place", "presence")}
"""The kinds that worlds use. The actor did not learn the other two in training: both require finding an item in the
list by its name.
"""

BASE = "Answer the question about the list."
"""The first sentence of the embedded program's instructions."""

IDLE: tuple[str, ...] = (
    BASE,
    "Be polite.",
    "Take your time.",
    "Read the list with care.",
    "Think before you answer.",
    "Lists may be short or long.",
    "Do your best.",
    "The items are fruit.",
    "You are a careful assistant.",
    "Every question counts.",
    "Never guess.",
    "Check your answer twice.",
)
"""Sentences that select no reading."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a kind about a list; `item` is the named item, empty if there is none.

    >>> question = Question("mid", ("fig", "pear", "lime", "date", "plum"), "")
    >>> question.fruit
    '1 fig, 2 pear, 3 lime, 4 date, 5 plum'
    >>> question.text(), question.answer("the second item"), question.answer(KINDS["mid"].default)
    ('Which is the mid item?', 'pear', 'lime')
    """

    kind: str
    items: tuple[str, ...]
    item: str

    @property
    def fruit(self) -> str:
        """The list as the actor reads it, each item after its number."""
        return ", ".join(f"{number} {item}" for number, item in enumerate(self.items, 1))

    def text(self, phrasing: int = 0) -> str:
        """Write the question in one of its phrasings."""
        return KINDS[self.kind].questions[phrasing].format(item=self.item)

    def answer(self, reading: str) -> str:
        """Return the answer under a reading of its kind."""
        return KINDS[self.kind].readings[reading](self.items, self.item)


def random_question(kind: str, rng: random.Random) -> Question:
    """Draw a question with a different answer under each reading."""
    names_item = "{item}" in KINDS[kind].questions[0]
    while True:
        items = rng.sample(FRUIT, rng.choice(LENGTHS))
        item = rng.choice(items) if names_item else ""
        if kind == "presence" and rng.random() < 0.5:
            item = rng.choice([each for each in FRUIT if each not in items])
        question = Question(kind, tuple(items), item)
        answers = [question.answer(reading) for reading in KINDS[kind].readings]
        if len(set(answers)) == len(answers):
            return question


_READING_BY_SENTENCE = {
    sentence: (name, reading)
    for name, kind in KINDS.items()
    for reading in kind.readings
    for sentence in kind.sentences_for(reading)
}


def parse_sentence(sentence: str) -> tuple[str, str] | None:
    """Return the kind and the reading that a sentence selects; None if it selects none.

    >>> parse_sentence("Read mid as the second item."), parse_sentence("Be polite.")
    (('mid', 'the second item'), None)
    """
    return _READING_BY_SENTENCE.get(sentence.strip())


def every_sentence() -> list[str]:
    """List the sentences that select a reading, and the idle ones."""
    return [*_READING_BY_SENTENCE, *IDLE]


_QUESTION_PATTERNS = [
    (name, re.compile(re.escape(text).replace(r"\{item\}", r"\w+")))
    for name, kind in KINDS.items()
    for text in kind.questions
]


def kind_of(question: str) -> str | None:
    """Find the kind of a question by its words; None if it has none.

    >>> kind_of("Name the pair."), kind_of("Who are you?")
    ('pair', None)
    """
    return next((name for name, pattern in _QUESTION_PATTERNS if pattern.fullmatch(question.strip())), None)
