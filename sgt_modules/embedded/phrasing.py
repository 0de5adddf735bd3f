"""Supplements in the embedded world: the form of each kind, for any condition.

In pretraining, the generator learns these forms with random conditions, so it knows the form of help but not its
content. The actor learns to read them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
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


def _answer(claim: Claim) -> str:
    return claim.ask.sql(claim.condition)


def _background(claim: Claim) -> str:
    return f"{claim.subject} means {claim.condition}."


def _cot(claim: Claim) -> str:
    return f"The table is {claim.ask.table.name}. {claim.subject} means {claim.condition}. So filter on that."


def _rephrase(claim: Claim) -> str:
    return claim.ask.question(f"{claim.ask.table.name} where {claim.condition}")


def _summary(claim: Claim) -> str:
    return f"About {claim.ask.table.name}; {claim.subject}: {claim.condition}."


def _mistakes(claim: Claim) -> str:
    return f"Do not read {claim.subject} as {claim.other}; read it as {claim.condition}."


def _one_shot(claim: Claim) -> str:
    return f"{claim.example.question(claim.rows)} {claim.example.sql(claim.condition)}"


def _pairs(claim: Claim) -> str:
    return f"Right: {claim.subject} is {claim.condition}. Wrong: {claim.subject} is {claim.other}."


def _definition(claim: Claim) -> str:
    return f"{claim.subject} = {claim.condition}"


def _hint(claim: Claim) -> str:
    return f"Filter {claim.ask.table.name} by {claim.condition}."


def _checklist(claim: Claim) -> str:
    return f"1. Use {claim.ask.table.name}. 2. Check {claim.subject}: {claim.condition}. 3. Answer."


_FORMS: Mapping[str, Callable[[Claim], str]] = {
    "answer": _answer,
    "background": _background,
    "cot": _cot,
    "rephrase": _rephrase,
    "summary": _summary,
    "mistakes": _mistakes,
    "one_shot": _one_shot,
    "pairs": _pairs,
    "definition": _definition,
    "hint": _hint,
    "checklist": _checklist,
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
    return Supplement(kind, _FORMS[kind](claim))


def random_kind(rng: random.Random) -> str:
    """Draw one of the eleven kinds."""
    return rng.choice((*PREDEFINED, *FREE_STYLE))
