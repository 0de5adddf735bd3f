"""The corrector's instructions, as data to read and to replace."""

from __future__ import annotations

from dataclasses import dataclass

CORRECT = """\
You teach a language model by writing its instructions. You read the instructions as they are now and questions that it
got wrong under them. Find what these mistakes have in common: a rule it does not know, a step it leaves out, a form it
misses. Then write the instructions anew so that it makes none of them, and goes on doing well what it did well before.

Write rules that hold for questions you have not seen. Never write down the answer to a question. Keep what helps, drop
what does not, and be brief: each sentence should earn its place."""

IMPROVE = """\
You teach a teacher. The teacher reads a language model's instructions and its mistakes and writes better instructions,
as its own brief tells it. The first and the best instructions below came of that, and under both of them the questions
below were answered wrong. Ask what the brief should have made the teacher look at or try, and write the brief anew so
that its next instructions get such questions right. The brief is about teaching: it names no question and no answer."""


@dataclass(frozen=True, slots=True)
class MetaPrompts:
    """The corrector's two briefs: how to write instructions, and (for `pc`) how to rewrite the first brief.

    The fields that the corrector reads and writes are defined in `optimizers.spt.corrector`, so a brief is free text.

    >>> MetaPrompts(correct="Rewrite the instructions in French.").improve == IMPROVE
    True
    """

    correct: str = CORRECT
    improve: str = IMPROVE
