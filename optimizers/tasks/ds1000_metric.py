"""DS-1000's execution pass@1: code is right where the problem's own tests pass with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import dspy

from optimizers.tasks.code_text import code_in
from optimizers.tasks.sandbox import Limits, Outcome, PythonSandbox
from sgt_modules.errors import MetricError

LIMITS = Limits(seconds=120, memory_bytes=4 << 30)
"""The benchmark's own time for one problem, and memory for any of its libraries."""

PRELOADED = ("numpy", "pandas", "scipy.stats", "scipy.optimize", "sklearn.preprocessing", "matplotlib.pyplot")
"""Imported once by each worker; torch and tensorflow start threads, and are imported by the problems that use them."""

_SHOWN = 1500


@lru_cache(maxsize=4)
def _sandbox(limits: Limits, workers: int, _process: int) -> PythonSandbox:
    return PythonSandbox(workers, limits=limits, preload=PRELOADED)


def program(code_context: str, code: str) -> str:
    """What is run: the problem's context, then its tests on the solution.

    Source: test_ds1000.py of the benchmark (Lai et al. 2023, arXiv 2211.11501): `test_execution`, and `test_string`
    where the context has it, are called with the solution as a text.

    >>> print(program("def test_execution(solution): ...", "a = 1"))
    def test_execution(solution): ...
    code = 'a = 1'
    test_execution(code)
    <BLANKLINE>
    """
    surface = "test_string(code)\n" if "test_string(" in code_context else ""
    return f"{code_context}\ncode = {code!r}\ntest_execution(code)\n{surface}"


@dataclass(frozen=True)
class DS1000Metric:
    """Whether the tests of `example.code_context` pass with `prediction.code`.

    Solution and tests share a process, as in the benchmark: a solution that tampers with the tests may pass.

    Args:
        limits: what a solution may use.
        workers: how many solutions run at once.
    """

    limits: Limits = LIMITS
    workers: int = 2

    def __call__(
        self,
        example: dspy.Example,
        prediction: dspy.Prediction,
        trace: object = None,
        pred_name: object = None,
        pred_trace: object = None,
    ) -> dspy.Prediction:
        """Score 1.0 or 0.0; the feedback says what was expected, and the exception that came.

        Raises:
            MetricError: the example has no tests.
            SandboxError: this system cannot isolate programs.
        """
        context = str(example.get("code_context") or "")
        if "test_execution" not in context:
            raise MetricError("Expected code_context to define test_execution(solution), as DS-1000's rows do.")
        answer = prediction.get("code")
        code = code_in(answer) if isinstance(answer, str) else ""
        if not code.strip():
            return dspy.Prediction(score=0.0, feedback="Expected Python code, and there is none in the answer.")
        outcome = _sandbox(self.limits, self.workers, os.getpid()).run(program(context, code))
        if outcome.ok:
            return dspy.Prediction(score=1.0, feedback="The tests pass.")
        return dspy.Prediction(score=0.0, feedback=_feedback(outcome, str(example.get("reference_code") or "")))


def _feedback(outcome: Outcome, reference: str) -> str:
    came = {
        "time": "the time was up",
        "memory": "it needed more memory than it may have",
        "output": "it printed too much",
        "disk": "it wrote more files than it may",
    }.get(outcome.reason) or f"it ended with\n{outcome.error[-_SHOWN:]}"
    expected = f"\nCode that passes:\n{reference[:_SHOWN]}" if reference else ""
    return f"Expected the tests to pass, but {came}{expected}"


_DEFAULT = DS1000Metric()


def ds1000_metric(
    example: dspy.Example,
    prediction: dspy.Prediction,
    trace: object = None,
    pred_name: object = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """`DS1000Metric()` as a function.

    >>> tests = "def test_execution(solution):\\n  space = {}\\n  exec(solution, space)\\n  assert space['a'] == 1"
    >>> example = dspy.Example(code_context=tests, reference_code="a = 1", library="Numpy")
    >>> ds1000_metric(example, dspy.Prediction(code="a = 2")).score
    0.0
    """
    return _DEFAULT(example, prediction, trace, pred_name, pred_trace)
