"""What instructions ask for: the readings that hold under them, and the answer of one who does just as they say."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sgt_modules.embedded.rules.conventions import KINDS, Question, kind_of, parse_sentence

_SENTENCE = re.compile(r"[^.]+\.")


def find_readings(instructions: str) -> Mapping[str, str]:
    """The reading of each kind: the one named last, the usual one where none is named.

    >>> found = find_readings("The pair is items one and three. Never guess. Read mid as the first item.")
    >>> found["pair"], found["mid"], found["far"]
    ('items one and three', 'the first item', 'the fifth item')
    """
    named = filter(None, (parse_sentence(each.strip().removeprefix("- ")) for each in _SENTENCE.findall(instructions)))
    return {**{name: kind.default for name, kind in KINDS.items()}, **dict(named)}


def follow_instructions(instructions: str, fruit: str, question: str) -> str:
    """The answer that instructions ask for; empty for a question of no kind.

    >>> fruit = "1 fig, 2 pear, 3 lime, 4 date, 5 plum"
    >>> follow_instructions("The mid item is the second item.", fruit, "Name the mid item.")
    'pear'
    """
    kind = kind_of(question)
    if kind is None:
        return ""
    found = (re.fullmatch(re.escape(text).replace(r"\{item\}", r"(\w+)"), question) for text in KINDS[kind].questions)
    item = next(("".join(each.groups()) for each in found if each), "")
    items = tuple(each.split()[-1] for each in fruit.split(", "))
    return Question(kind, items, item).answer(find_readings(instructions)[kind])
