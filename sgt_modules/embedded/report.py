"""A program of two predictors on the house-terms world; only the first one needs supplements.

It is simulated like the world: each example has a question that can use a house term, and a plain question.
"""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from sgt_modules.embedded.database import Database
from sgt_modules.embedded.program import AnswerInSQL


class Report(dspy.Module):
    """Answers `question` and the plain question `aside`, each with its own predictor.

    >>> [name for name, _ in Report().named_predictors()]
    ['main', 'side']
    """

    def __init__(self) -> None:
        super().__init__()
        self.main = dspy.Predict(AnswerInSQL)
        self.side = dspy.Predict(AnswerInSQL)

    def forward(self, tables: str, question: str, aside: str) -> dspy.Prediction:
        """Return both queries, as `sql` and `aside_sql`."""
        main = self.main(tables=tables, question=question)
        side = self.side(tables=tables, question=aside)
        return dspy.Prediction(sql=main.sql, aside_sql=side.sql)


def report_examples(split: Sequence[dspy.Example]) -> list[dspy.Example]:
    """Add one of the split's plain questions, in turn, to each example.

    >>> from sgt_modules.embedded import HouseTermsWorld
    >>> example = report_examples(HouseTermsWorld(seed=0).train)[0]
    >>> sorted(example.inputs().keys())
    ['aside', 'question', 'tables']
    """
    plain = [example for example in split if not example.term]
    asides = [plain[number % len(plain)] for number in range(len(split))]
    return [
        example.copy(aside=aside.question, aside_rows=aside.rows, aside_ordered=aside.ordered).with_inputs(
            "tables", "question", "aside"
        )
        for example, aside in zip(split, asides, strict=True)
    ]


class ReportMetric:
    """Scores 1.0 if both queries give their expected rows, else 0.0, with feedback on the wrong ones."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> dspy.Prediction:
        """Score a prediction as a DSPy metric does."""
        main = self._database.judge(str(prediction.sql), example.rows, ordered=example.ordered)
        side = self._database.judge(str(prediction.aside_sql), example.aside_rows, ordered=example.aside_ordered)
        wrong = [each.feedback for each in (main, side) if each.score < 1]
        return dspy.Prediction(score=float(not wrong), feedback=" ".join(wrong) or "Both are right.")
