"""A call of a predictor on an example -> a query, and the name by which every run knows it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import dspy

from optimizers.core.canonical import text_of
from optimizers.core.fingerprints import content_of
from optimizers.core.records import Query
from sgt_modules.episode import Call, Place
from sgt_modules.kinds import Supplement


def query_id(
    example: dspy.Example, predictor: str, turn: int = 0, others: Sequence[tuple[Place, Supplement]] = ()
) -> str:
    """The name of a query whatever the run: 16 hex digits over the example's fields, the place, and what others read.

    >>> query_id(dspy.Example(question="2+2?", answer="4"), "self")
    'cc48eb025a90996b'
    """
    content = text_of(content_of(example))
    read = [[*place, supplement.render()] for place, supplement in others if supplement]
    beyond = f"\n{turn}\n{json.dumps(read)}" if turn or read else ""
    return hashlib.sha256(f"{content}\n{predictor}{beyond}".encode()).hexdigest()[:16]


def query_of(
    call: Call, example: dspy.Example, index: int, calls: Sequence[Call] = (), *, joint: bool = False
) -> Query:
    """A call as a query, with what the other `calls` of its run read; `joint`: whatever they read, but for one prompt.

    Runs that vary everything at once may show a place another prompt each time, and pairs share theirs.
    """
    place, others = call.place, tuple((each.place, each.supplement) for each in calls if each.place != call.place)
    name = query_id(example, place.role, place.turn, others)
    if joint:
        name = hashlib.sha256(f"{name}\n{call.prompt}".encode()).hexdigest()[:16]
    return Query(name, index, place.role, call.prompt, place.turn, others)
