"""The program of house rules: one predictor that answers questions about a list as its instructions say."""

from __future__ import annotations

from typing import cast

import dspy
from dspy.signatures.signature import make_signature

from sgt_modules.embedded.rules.conventions import BASE

AnswerAboutList = make_signature("fruit: str, question: str -> answer: str", BASE)
"""Inputs: a list and a question. Output: one answer."""

REASONED = cast("type[dspy.Signature]", dspy.ChainOfThought(AnswerAboutList).predict.signature)
"""The actor's signature: its reasoning names the reading, then it answers."""


def list_program(instructions: str = BASE) -> dspy.Module:
    """Return a bare `dspy.ChainOfThought` with these instructions.

    >>> list_program("Be polite.").predict.signature.instructions
    'Be polite.'
    """
    return dspy.ChainOfThought(AnswerAboutList.with_instructions(instructions))
