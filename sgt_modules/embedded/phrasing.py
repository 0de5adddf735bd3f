"""Supplements in the embedded world: the form of each kind, for any condition.

In pretraining, the generator learns these forms with random conditions, so it knows the form of help but not its
content. The actor learns to read them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from sgt_modules.embedded.company import Condition
from sgt_modules.embedded.questions import Ask
from sgt_modules.kinds import Supplement


@dataclass(frozen=True, slots=True)
class Claim:
    """The content of a supplement: for this ask, the rows called `rows` are those that meet `condition`.

    `word` is the house term, empty in a question without one; `other` is a wrong condition; `example` is another ask
    about the same rows.
    """

    ask: Ask
    rows: str
    word: str
    condition: Condition
    other: Condition
    example: Ask

    @property
    def subject(self) -> str:
        """The subject of the claim: the house term, or the table in a question without one."""
        return self.word or self.ask.table.name


_FORMS: Mapping[str, str] = {
    "answer": "{query}",
    "background": "{subject} means {condition}.",
    "cot": "The table is {table}. {subject} means {condition}. So filter on that.",
    "rephrase": "{question}",
    "summary": "About {table}; {subject}: {condition}.",
    "mistakes": "Do not read {subject} as {other}; read it as {condition}.",
    "one_shot": "{example}",
    "pairs": "Right: {subject} is {condition}. Wrong: {subject} is {other}.",
    "definition": "{subject} = {condition}",
    "hint": "Filter {table} by {condition}.",
    "checklist": "1. Use {table}. 2. Check {subject}: {condition}. 3. Answer.",
}

PREDEFINED: tuple[str, ...] = tuple(_FORMS)[:8]
FREE_STYLE: tuple[str, ...] = tuple(_FORMS)[8:]
"""Kinds that are not predefined: they occur only in free style, as out-of-distribution names."""


def phrase(kind: str, claim: Claim) -> Supplement:
    """Write the claim as a supplement of that kind.

    >>> from sgt_modules.embedded.company import TABLES, conditions
    >>> from sgt_modules.embedded.questions import FORMS, Ask
    >>> table = TABLES["customers"]
    >>> old, gold = conditions(table)[9], conditions(table)[4]
    >>> claim = Claim(Ask(FORMS[0], table), "zoka customers", "zoka", old, gold, Ask(FORMS[1], table))
    >>> phrase("background", claim).render()
    '[background] zoka means age > 45.'
    """
    table, condition = claim.ask.table.name, claim.condition
    text = _FORMS[kind].format(
        table=table,
        subject=claim.subject,
        condition=condition,
        other=claim.other,
        query=claim.ask.sql(condition),
        question=claim.ask.question(f"{table} where {condition}"),
        example=f"{claim.example.question(claim.rows)} {claim.example.sql(condition)}",
    )
    return Supplement(kind, text)


def random_kind(rng: random.Random) -> str:
    """Draw one of the eleven kinds."""
    return rng.choice((*PREDEFINED, *FREE_STYLE))
