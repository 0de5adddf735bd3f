"""Follow instructions exactly: find the readings that they select, and the answer under these readings."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sgt_modules.embedded.rules.conventions import KINDS, Question, kind_of, parse_sentence

_SENTENCE = re.compile(r"[^.]+\.")


def find_readings(instructions: str) -> Mapping[str, str]:
    """Find the reading of each kind: the last one that is named, else the default.

    >>> readings = find_readings("The pair is items one and three. Never guess. Read mid as the first item.")
    >>> readings["pair"], readings["mid"], readings["far"]
    ('items one and three', 'the first item', 'the fifth item')
    """
    readings = filter(
        None, (parse_sentence(each.strip().removeprefix("- ")) for each in _SENTENCE.findall(instructions))
    )
    return {**{name: kind.default for name, kind in KINDS.items()}, **dict(readings)}


def follow_instructions(instructions: str, fruit: str, question: str) -> str:
    """Return the answer under the instructions; empty if the question has no kind.

    >>> fruit = "1 fig, 2 pear, 3 lime, 4 date, 5 plum"
    >>> follow_instructions("The mid item is the second item.", fruit, "Name the mid item.")
    'pear'
    """
    kind = kind_of(question)
    if kind is None:
        return ""
    matches = (re.fullmatch(re.escape(text).replace(r"\{item\}", r"(\w+)"), question) for text in KINDS[kind].questions)
    item = next(("".join(each.groups()) for each in matches if each), "")
    items = tuple(each.split()[-1] for each in fruit.split(", "))
    return Question(kind, items, item).answer(find_readings(instructions)[kind])
