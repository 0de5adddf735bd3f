"""The program of house rules: one predictor that answers questions about a list as its instructions say."""

from __future__ import annotations

import dspy
from dspy.signatures.signature import make_signature

from sgt_modules.embedded.rules.conventions import BASE

AnswerAboutList = make_signature("fruit: str, question: str -> answer: str", BASE)
"""A list and a question in, one answer out."""


def list_program(instructions: str = BASE) -> dspy.Module:
    """A bare `dspy.Predict` with these instructions.

    >>> list_program("Be polite.").signature.instructions
    'Be polite.'
    """
    return dspy.Predict(AnswerAboutList.with_instructions(instructions))
