"""The embedded program: one predictor that writes SQL, as a DSPy user would write it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import dspy
from dspy.signatures.signature import make_signature

from sgt_modules.embedded.questions import INSTRUCTIONS
from sgt_modules.prompts import with_supplement

AnswerInSQL = make_signature("tables: str, question: str -> sql: str", INSTRUCTIONS)
"""Inputs: tables and a question. Output: one query."""

_REASONED = cast("type[dspy.Signature]", dspy.ChainOfThought(AnswerInSQL).predict.signature)

PROGRAM_SIGNATURES = tuple(
    form(signature) for signature in (AnswerInSQL, _REASONED) for form in (lambda plain: plain, with_supplement)
)
"""The four signatures that the embedded actors know: with and without reasoning, with and without a supplement."""


def program() -> dspy.Module:
    """Return the program that the demonstration improves: a bare `dspy.Predict`.

    >>> list(program().signature.output_fields)
    ['sql']
    """
    return dspy.Predict(AnswerInSQL)


def field_markers() -> Iterator[str]:
    """Yield ChatAdapter's markers for the fields of these signatures."""
    for name in ("tables", "question", "supplement", "reasoning", "sql", "completed"):
        yield f"[[ ## {name} ## ]]\n"
        yield f"\n\n[[ ## {name} ## ]]\n"
    yield "\n\n[[ ## completed ## ]]"
