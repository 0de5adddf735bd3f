"""Turns the result of any DSPy metric into a `Reward`, and checks a metric before anything is paid."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import SupportsFloat

import dspy

from optimizers.core.error_types import ABOVE, BELOW, COROUTINE, NAN, NO_NUMBER, mark_refused_score
from optimizers.core.records import Reward
from sgt_modules.errors import MetricError
from sgt_modules.safety import clean_text

Metric = Callable[..., object]
"""A DSPy metric: (example, prediction), (example, prediction, trace), or GEPA's
(gold, pred, trace, pred_name, pred_trace).

It returns a bool, a number in [0, 1] or a `Prediction(score=, feedback=)`."""

_EXPECTED = "A metric must return a bool, a number in [0, 1] or a dspy.Prediction(score=..., feedback=...)"
_ZERO = "Return 0.0 for a prediction it cannot score."
_TRACES = frozenset({"trace", "_trace", "program_trace"})
_ROUNDING = 1e-6


def as_reward(value: object) -> Reward:
    """Converts a metric's return value to a reward; raises `MetricError` if it cannot.

    A score outside [0, 1] by at most 1e-6, as sums of 32-bit floats may be, is clipped.

    >>> as_reward(True), as_reward(1.0000001)
    (Reward(score=1.0, feedback=''), Reward(score=1.0, feedback=''))
    >>> as_reward(dspy.Prediction(score=0.5, feedback="half of the rows"))
    Reward(score=0.5, feedback='half of the rows')
    """
    if isinstance(value, dspy.Prediction):
        feedback = value.get("feedback")
        return Reward(_check_score(value.get("score"), value), "" if feedback is None else clean_text(str(feedback)))
    return Reward(_check_score(value, value))


def _check_score(score: object, came: object) -> float:
    if inspect.iscoroutine(score):
        score.close()
        said = f"{_EXPECTED}, but it is a coroutine function. Pass a plain function that awaits inside."
        raise MetricError(mark_refused_score(COROUTINE, said))
    if not isinstance(score, SupportsFloat):
        raise MetricError(mark_refused_score(NO_NUMBER, f"{_EXPECTED}, but it returned {came!r}. {_ZERO}"))
    try:
        number = float(score)
    except (TypeError, ValueError) as problem:
        said = f"{_EXPECTED}, but it returned {came!r}, which is no single number. {_ZERO}"
        raise MetricError(mark_refused_score(NO_NUMBER, said)) from problem
    if math.isnan(number):
        raise MetricError(mark_refused_score(NAN, f"{_EXPECTED}, but it returned {came!r}. {_ZERO}"))
    if not -_ROUNDING <= number <= 1 + _ROUNDING:
        kind = ABOVE if number > 1 else BELOW
        raise MetricError(
            mark_refused_score(kind, f"{_EXPECTED}, but it returned {came!r}. Scale its scores to [0, 1].")
        )
    return min(1.0, max(0.0, number))


class Scorer:
    """A metric of 2, 3 or 5 arguments as one function `(example, prediction) -> Reward`.

    A third argument is passed where the metric demands one or calls it `trace`; GEPA's other two are passed as None.
    Raises `MetricError` if the metric takes another number of arguments, raises, or returns no valid score.

    >>> def exact(example, prediction, trace=None):
    ...     return example.answer == prediction.answer
    >>> Scorer(exact)(dspy.Example(answer="4"), dspy.Prediction(answer="4"))
    Reward(score=1.0, feedback='')
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.arguments = _count_arguments(metric)

    @property
    def name(self) -> str:
        """The metric's name, for messages and reports."""
        return getattr(self.metric, "__qualname__", type(self.metric).__name__)

    def __call__(self, example: dspy.Example, prediction: object, trace: object = None) -> Reward:
        """The reward of a prediction; `trace` is what DSPy's own optimizers pass (None while evaluating)."""
        extra = (trace, None, None)[: self.arguments - 2]
        try:
            value = self.metric(example, prediction, *extra)
        except Exception as problem:
            kind = f"raised {type(problem).__name__}"
            said = f"The metric {self.name} {kind}: {problem}. {_ZERO}"
            raise MetricError(mark_refused_score(kind, said)) from problem
        return as_reward(value)


def _count_arguments(metric: Metric) -> int:
    """How many positional arguments to call the metric with: 2, 3 or 5."""
    if not callable(metric):
        raise MetricError(f"A metric must be callable as metric(example, prediction), but {metric!r} came.")
    try:
        # DSPy warns of a `forward` that is looked up without a call.
        called = object.__getattribute__(metric, "forward") if isinstance(metric, dspy.Module) else metric
        signature = inspect.signature(called)
    except ValueError:  # written in C, without a signature: two arguments as in DSPy
        return 2
    parameters = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in parameters)
    variadic = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    if (len(parameters) < 2 and not variadic) or required == 4 or required > 5:
        raise MetricError(
            f"A metric takes (example, prediction), (example, prediction, trace) or GEPA's five arguments, "
            f"but this one is called as {signature}. Give it one of these forms."
        )
    if required == 5 or (len(parameters) >= 5 and parameters[3].name == "pred_name"):
        return 5
    named = len(parameters) >= 3 and parameters[2].name in _TRACES
    return 3 if required == 3 or named or (variadic and len(parameters) < 3) else 2


class _TrialPrediction(dspy.Prediction):
    """A prediction whose missing fields read as an empty text."""

    def __getattr__(self, key: str) -> object:
        try:
            return super().__getattr__(key)
        except AttributeError:
            if key.startswith("_"):
                raise
            return ""


def check_metric(
    metric: Metric, example: dspy.Example, output_fields: Sequence[str], *, more_fields: bool = False
) -> Reward:
    """Call the metric once before anything is paid; raises `MetricError` if that fails.

    The trial prediction has the example's label for each output field of that name, else "". With `more_fields` any
    other field reads "" too, as a program's own `forward` may return any fields.
    A metric that asks a judge model pays for this one call.

    >>> example = dspy.Example(question="2+2?", answer="4").with_inputs("question")
    >>> check_metric(lambda example, prediction: example.answer == prediction.answer, example, ["reasoning", "answer"])
    Reward(score=1.0, feedback='')
    """
    trial = (_TrialPrediction if more_fields else dspy.Prediction)(
        **{name: example.get(name, "") for name in output_fields}
    )
    return Scorer(metric)(example, trial)
